"""A trained team, out of its run folder: acts, is evaluated, lends its world model, shows what it believes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.algorithms.model_based import ModelBased
from dima.data import View
from dima.datasets.reader import Dataset
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, RunFolderError
from dima.experience.collector import Act
from dima.experience.evaluation import Evaluation
from dima.experience.evaluation import evaluate as play_evaluation
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.runtime.provenance import mujoco_versions, package_version, simulator_line, uses_mujoco
from dima.storage.run_folder import RunFolder
from dima.training.run_config import OfflineConfig, RunConfig
from dima.world_models.base import WorldModel
from dima.world_models.env import ImaginedEnv, ImaginedVectorEnv
from dima.world_models.imagined import EpisodeInitialStates, ImaginedBatch, InitialStates, ReplayInitialStates

if TYPE_CHECKING:
    from dima.analysis.diagnose.config import DiagnosisConfig
    from dima.analysis.diagnose.results import Diagnosis
    from dima.analysis.imagine.compare import Acting
    from dima.analysis.imagine.imagination import Imagination

FINAL_SEED = 1_000_003  # offset of the seeds of `dima evaluate`, so that they differ from evaluations while training
REPLAY, EPISODES = "replay", "episodes"  # where imagined episodes begin, besides datasets


class Agent:
    """The policy of a run after its last saved iteration.

    Attributes:
        config: the run's configuration.
        env: an environment of the task; its ``parallel_env`` is the PettingZoo one to play in.
        algorithm: the learner, weights restored, replay left empty.
        folder: the run's.
        steps: environment steps it had made; 0 for a run of `dima fit`.
        seal: SHA-256 that tells what was learnt from any other iteration and run.
        earlier: weights of the policies that the run kept on its way, by the environment steps it had made.
        protocol: versions, commit and class of machine that it was made under.
    """

    def __init__(
        self,
        config: RunConfig,
        env: JointEnv,
        algorithm: Algorithm,
        device: torch.device,
        folder: Path,
        steps: int,
        seal: str,
        earlier: Mapping[int, Mapping[str, Tensor]],
        protocol: Mapping[str, Any],
    ) -> None:
        self.config, self.env, self.algorithm, self.device = config, env, algorithm, device
        self.folder, self.steps, self.seal = folder, steps, seal
        self.earlier, self.protocol = earlier, protocol

    @property
    def trained(self) -> bool:
        """Whether the policy is: a run of `dima fit` learns a world model only."""
        return not isinstance(self.config, OfflineConfig)

    @property
    def simulator(self) -> str:
        """``MuJoCo 3.17.0``, which plays now, and under which other version the run learnt; empty for other tasks."""
        return simulator_line(self.config.task, self.protocol, here=True)

    @property
    def mujoco(self) -> dict[str, Any] | None:
        """The MuJoCo version that plays now (``evaluated``) and those the run learnt under (``trained``).

        None for tasks that MuJoCo does not simulate.
        """
        if not uses_mujoco(self.config.task):
            return None
        return {"evaluated": package_version("mujoco"), "trained": mujoco_versions(self.config.task, self.protocol)}

    @property
    def world_model(self) -> WorldModel[Any]:
        """What the run learnt of its world.

        Raises:
            ConfigError: its algorithm learns no world model.
        """
        if not isinstance(self.algorithm, ModelBased):
            raise ConfigError(f"{self.folder}: {self.config.algorithm} learns no world model: give a run of dima")
        return self.algorithm.world_model

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

    def earlier_policies(self) -> dict[int, Act]:
        """The policies that the run kept on its way, by the environment steps it had made."""
        return {steps: _with_weights(self, weights).act for steps, weights in self.earlier.items()}

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
        from dima.analysis.imagine.run import film_episode

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
        from dima.analysis.imagine.run import imagine_run

        return imagine_run(self, horizons, acting, self._seed(seed), start, width)

    def _seed(self, given: int | None) -> int:
        """Of episodes that neither training nor its evaluations have seen."""
        return self.config.seed + FINAL_SEED if given is None else given

    def diagnose(
        self,
        settings: DiagnosisConfig | None = None,
        *,
        also: Sequence[Agent] = (),
        progress: Progress | None = None,
    ) -> Diagnosis:
        """What the world model gets right and wrong, see :func:`dima.diagnose`; ``save`` writes it.

        Args:
            settings: how much is played and foretold.
            also: teams of other runs on the same task, whose policies play too.
            progress: told of each phase; silent by default.
        """
        from dima.analysis.diagnose.run import diagnose_agent

        return diagnose_agent(self, settings, also=also, progress=progress)

    def experience(self) -> Replay:
        """The real episodes that the world model was fitted to, of which none is preferred.

        Raises:
            RunFolderError: they are missing or damaged, or the algorithm keeps none.
            DatasetError: the dataset of a run of `dima fit` has become another.
        """
        if isinstance(self.config, OfflineConfig):
            dataset = Dataset.open(self.config.dataset)
            dataset.require(self.config.task, self.config.env, self.env.spec)
            return Replay.of(dataset.episodes("train"), self.env.spec, self.device)
        with RunFolder.open(self.folder) as folder:
            saved = folder.load()
            if "replay" not in saved.tree["algorithm"]:
                raise RunFolderError(f"{self.folder}: {self.config.algorithm} keeps no episodes: give a run of dima")
            stored = saved.tree["algorithm"]["replay"] | {"visits": {}}
            rows = ReplayConfig(capacity=max(1, stored["newest"] - stored["oldest"]), recent_share=0.25)
            replay = Replay(rows, self.env.spec, self.device)
            replay.restore(stored, [chunk for _, chunk in saved.chunks])
        return replay

    def as_env(self, starts: str | Path = REPLAY, horizon: int | None = None, seed: int | None = None) -> ImaginedEnv:
        """The world model as a PettingZoo environment with the task's own agents and spaces.

        Args:
            starts: where episodes begin: ``replay``, any step of the experience it was fitted to; ``episodes``, the
                first step of fresh real episodes; or a dataset's folder, any step of its episodes.
            horizon: steps after which an episode is truncated; by default as many as the policy learns to imagine.
            seed: of everything random, until ``reset`` is given one; None takes one from the operating system.

        Raises:
            UserError: the run has no world model, or the starts cannot be had.
        """
        worlds, env = self._worlds(1, starts, horizon, seed)
        return ImaginedEnv(worlds, env)

    def as_vector_env(
        self, count: int, starts: str | Path = REPLAY, horizon: int | None = None, seed: int | None = None
    ) -> ImaginedVectorEnv:
        """``count`` imagined teams as one vectorised Gymnasium environment, stepped in one call of the world model.

        Arguments and errors as for :meth:`as_env`.
        """
        worlds, env = self._worlds(count, starts, horizon, seed)
        return ImaginedVectorEnv(worlds, env)

    def _worlds(
        self, count: int, starts: str | Path, horizon: int | None, seed: int | None
    ) -> tuple[ImaginedBatch, JointEnv]:
        world_model = self.world_model
        assert isinstance(self.algorithm, ModelBased)
        horizon = self.algorithm.config.horizon if horizon is None else horizon
        for name, value in (("count", count), ("horizon", horizon)):
            if value < 1:
                raise ConfigError(f"{name} = {value} is out of range: expected at least 1")
        env = make_env(self.config.task, self.config.env)
        begin = self._starts(starts, env, world_model.context)
        return ImaginedBatch(world_model, begin, count, horizon, self.device, seed), env

    def _starts(self, starts: str | Path, env: JointEnv, context: int) -> InitialStates:
        if starts == EPISODES:
            return EpisodeInitialStates(env, context, self.device)
        if starts == REPLAY:
            return ReplayInitialStates(self.experience(), context)
        dataset = Dataset.open(starts)
        dataset.require(self.config.task, self.config.env, env.spec)
        return ReplayInitialStates(Replay.of(dataset.episodes(), env.spec, self.device), context)


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
        config, facts = RunConfig.from_dict(folder.config()), folder.protocol()
        saved = folder.load()
    env = make_env(config.task, config.env)
    algorithm = _build(config, env, where)
    earlier = dict(saved.tree.get("earlier", []))  # `dima fit` has none, nor have older folders
    try:
        algorithm.restore(saved.tree["algorithm"], None)
    except (KeyError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunFolderError(f"{run}: its checkpoint does not fit its config.yaml: {why}") from error
    steps = saved.tree["collector"]["steps"] if "collector" in saved.tree else 0  # `dima fit` makes none
    return Agent(config, env, algorithm, where, Path(run), steps, saved.seal, earlier, facts)


def _build(config: RunConfig, env: JointEnv, device: torch.device) -> Algorithm:
    """The algorithm before anything is restored into it."""
    assert isinstance(config.learner, AlgorithmConfig)
    with torch.random.fork_rng([]):  # first weights are drawn, then replaced: leave the caller's random state alone
        return config.learner.for_acting().build(env.spec, str(device))


def _with_weights(agent: Agent, weights: Mapping[str, Tensor]) -> Algorithm:
    """The same team with the weights of another policy."""
    algorithm = _build(agent.config, agent.env, agent.device)
    try:
        algorithm.team.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise RunFolderError(f"{agent.folder}: an earlier policy does not fit its config.yaml: {why}") from error
    return algorithm


def evaluate(run: str | Path, episodes: int = 20, seed: int | None = None, device: str = "auto") -> Evaluation:
    """Evaluate the policy of a run folder, see :meth:`Agent.evaluate`."""
    return load(run, device).evaluate(episodes, seed)
