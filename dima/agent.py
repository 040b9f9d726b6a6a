"""A trained team, out of its run folder: acts on PettingZoo observations, is evaluated, shows what it imagines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.data import View
from dima.device import pick_device
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, RunFolderError
from dima.evaluate import Evaluation
from dima.evaluate import evaluate as play_evaluation
from dima.progress import Progress
from dima.run_config import RunConfig
from dima.run_folder import RunFolder
from dima.world_models.base import WorldModel

if TYPE_CHECKING:
    from dima.film.beside import Acting
    from dima.film.imagination import Imagination

FINAL_SEED = 1_000_003  # offset of the seeds of `dima evaluate`, so that they differ from evaluations while training


class Agent:
    """The policy of a run after its last finished round.

    Attributes:
        config: the run's configuration.
        env: an environment of the task; its ``parallel_env`` is the PettingZoo one to play in.
        algorithm: the learner, weights restored, replay left empty.
        folder: where the run is kept.
        steps: environment steps it had made.
    """

    def __init__(
        self, config: RunConfig, env: JointEnv, algorithm: Algorithm, device: torch.device, folder: Path, steps: int
    ) -> None:
        self.config, self.env, self.algorithm, self.device = config, env, algorithm, device
        self.folder, self.steps = folder, steps

    @property
    def world_model(self) -> WorldModel[Any]:
        """What the team learnt in.

        Raises:
            ConfigError: its algorithm has none.
        """
        model = getattr(self.algorithm, "world_model", None)
        if model is None:
            raise ConfigError(
                f"{self.folder} is a run of {self.config.algorithm}, which learns without a world model: "
                "give a run of dima"
            )
        assert isinstance(model, WorldModel)
        return model

    def act(
        self, observations: dict[Any, Any], infos: dict[Any, Any] | None = None, mode: bool = True
    ) -> dict[Any, Any]:
        """Every agent's action, as the PettingZoo environment takes it.

        Args:
            observations: what ``reset`` or ``step`` returned.
            infos: likewise; needed where action masks live there.
            mode: the most probable action, or else a random draw.

        Raises:
            EnvError: an agent is missing, or its observation does not fit its space.
        """
        joint = self.env.encode(observations, infos)
        spec = self.env.spec
        view = View(
            obs=torch.from_numpy(joint["obs"])[None].to(self.device),
            state=torch.zeros(1, spec.state_dim, device=self.device),  # policies act on observations alone
            action_mask=torch.from_numpy(joint["action_mask"])[None].to(self.device),
            previous_action=torch.zeros(1, spec.n_agents, spec.action_dim, device=self.device),
        )
        action, _ = self.algorithm.act(view, mode)
        return self.env.decode(action[0].cpu().numpy())

    def evaluate(self, episodes: int = 20, seed: int | None = None) -> Evaluation:
        """Play episodes with the policy's mode, in environments and on seeds that training never saw.

        Args:
            episodes: how many.
            seed: of the episodes; by default one that follows from the run's seed.
        """
        make = partial(make_env, self.config.task, self.config.env)
        with VectorEnv(make, min(episodes, 20)) as envs:
            act, seed = partial(self.algorithm.act, mode=True), self._seed(seed)
            return play_evaluation(envs, act, episodes, seed, self.device)

    def film(
        self, path: str | Path, seed: int | None = None, width: int = 480, progress: Progress | None = None
    ) -> Path:
        """Write a film of the first episode that :meth:`evaluate` plays under this seed, as an MP4 file.

        Args:
            path: the file; its folder is made when missing.
            seed: of the episode; by default the one of :meth:`evaluate`.
            width: of the picture in pixels.
            progress: told of the frames; silent by default.

        Raises:
            EnvError: the environment draws nothing, or this machine has nothing to draw with.
            RunFolderError: the disk is full or read-only.
        """
        from dima.film.run import film_episode

        return film_episode(self, Path(path), self._seed(seed), width, progress or Progress())

    def imagine(
        self,
        horizons: Sequence[int] | None = None,
        acting: Acting = "recorded",
        *,
        seed: int | None = None,
        start: int | None = None,
        width: int = 320,
    ) -> Imagination:
        """Let the world model imagine a stretch of a fresh episode, beside what really happens; ``save`` writes it.

        Args:
            horizons: numbers of steps to look at; by default those of 15, 50 and 200 that the episode has room for.
            acting: ``recorded``: imagination is given the actions of the real episode. ``policy``: the policy acts in
                imagination on what it sees there, and the real environment is given these actions.
            seed: of the episode; by default the first that :meth:`evaluate` plays.
            start: step of the episode to begin at; by default 100, or as late as the longest horizon leaves room.
            width: of a picture in pixels.

        Raises:
            ConfigError: the run has no world model, or the episode is too short.
            DivergenceError: the world model imagines NaN or infinite numbers.
        """
        from dima.film.run import imagine_run

        return imagine_run(self, horizons, acting, self._seed(seed), start, width)

    def _seed(self, given: int | None) -> int:
        """Of episodes that neither training nor its evaluations have seen."""
        return self.config.seed + FINAL_SEED if given is None else given


def load(run: str | Path, device: str = "auto") -> Agent:
    """The trained team of a run folder.

    Args:
        run: the folder.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: the folder is missing, damaged or not ours, or its environment cannot be built.
    """
    where = pick_device(device)
    with RunFolder.open(run) as folder:
        config = RunConfig.from_dict(folder.config())
        saved: Any = folder.load().tree
    env = make_env(config.task, config.env)
    assert isinstance(config.learner, AlgorithmConfig)
    with torch.random.fork_rng([]):  # first weights are drawn, then replaced: leave the caller's random state alone
        algorithm = config.learner.for_acting().build(env.spec, str(where))
    try:
        algorithm.restore(saved["algorithm"], None)
    except (KeyError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunFolderError(f"{run}: its checkpoint does not fit its config.yaml: {why}") from error
    return Agent(config, env, algorithm, where, Path(run), saved["collector"]["steps"])


def evaluate(run: str | Path, episodes: int = 20, seed: int | None = None, device: str = "auto") -> Evaluation:
    """Evaluate the policy of a run folder, see :meth:`Agent.evaluate`."""
    return load(run, device).evaluate(episodes, seed)
