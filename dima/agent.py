"""A trained policy and world model loaded from a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.algorithms.model_based import ModelBased
from dima.config import count, user_path
from dima.data import Act, View
from dima.datasets.reader import Dataset
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, RunFolderError
from dima.experience.evaluation import Evaluation
from dima.experience.evaluation import evaluate as play_evaluation
from dima.experience.replay import Replay, ReplayConfig
from dima.experience.team import Team
from dima.registry import Named
from dima.runtime.device import pick_device
from dima.runtime.provenance import mujoco_versions, package_version, simulator_line, uses_mujoco
from dima.storage.atomic import read_errors
from dima.storage.memory import INIT_FACTOR, memory_limit
from dima.storage.run_folder import TOO_LARGE, RunFolder
from dima.training.callbacks.stock import BEST
from dima.training.run_config import OfflineConfig, RunConfig
from dima.world_models.base import WorldModel
from dima.world_models.env import ImaginedEnv, ImaginedVectorEnv
from dima.world_models.imagined import EpisodeInitialStates, ImaginedBatch, InitialStates, ReplayInitialStates

EVALUATION_SEED = 1_000_003  # offset of the seeds of `dima evaluate`, so that they differ from evaluations in training
REPLAY, EPISODES = "replay", "episodes"  # initial states of imagined episodes, besides datasets


class Agent(Team):
    """The policy of a run at its last checkpoint.

    Attributes:
        config: the run's configuration.
        env: an environment of the task; its ``parallel_env`` is the PettingZoo one to play in.
        algorithm: with its weights restored and its replay empty.
        device: of its tensors.
        folder: of the run.
        steps: environment steps of the run; 0 for a run of `dima fit`.
        digest: SHA-256 of the checkpoint.
        earlier: weights of earlier policies, by environment steps.
        protocol: versions, commit and class of machine of the run.
    """

    def __init__(
        self,
        config: RunConfig,
        env: JointEnv,
        algorithm: Algorithm,
        device: torch.device,
        folder: Path,
        steps: int,
        digest: str,
        earlier: Mapping[int, Mapping[str, Tensor]],
        protocol: Mapping[str, Any],
    ) -> None:
        super().__init__(algorithm.policy, env, device)
        self.config, self.algorithm = config, algorithm
        self.folder, self.steps, self.digest = folder, steps, digest
        self.earlier, self.protocol = earlier, protocol

    def __repr__(self) -> str:
        policy = f"{self.steps:,} steps" if self.trained else "untrained policy"
        agents = ", ".join(self.env.spec.agents)
        return f"<Agent of {self.config.algorithm} on {self.config.task}: {policy}, agents {agents}, {self.folder}>"

    @property
    def trained(self) -> bool:
        """Whether the policy is trained: a run of `dima fit` learns a world model only."""
        return not isinstance(self.config, OfflineConfig)

    @property
    def simulator(self) -> str:
        """Installed MuJoCo version, and that of training if it differs; empty for tasks of other simulators."""
        return simulator_line(self.config.task, self.protocol, here=True)

    @property
    def mujoco(self) -> dict[str, Any] | None:
        """MuJoCo versions: installed (``evaluated``) and those of training (``trained``).

        None for tasks of other simulators.
        """
        if not uses_mujoco(self.config.task):
            return None
        return {"evaluated": package_version("mujoco"), "trained": mujoco_versions(self.config.task, self.protocol)}

    @property
    def world_model(self) -> WorldModel[Any]:
        """The world model of the run.

        Raises:
            ConfigError: its algorithm learns no world model.
        """
        if not isinstance(self.algorithm, ModelBased):
            raise ConfigError(
                f"{self.folder}: {self.config.algorithm} learns no world model: give a run of dima or the like"
            )
        return self.algorithm.world_model

    def act_imagined(self, view: View) -> tuple[Tensor, Tensor]:
        """The policy's mode on what the world model shows a policy of a latent."""
        assert isinstance(self.algorithm, ModelBased)
        return self.algorithm.actor.act(view, mode=True)

    def earlier_policies(self) -> dict[int, Act]:
        """Earlier policies of the run, by environment steps."""
        return {steps: _with_weights(self, weights).act for steps, weights in self.earlier.items()}

    def evaluate(self, episodes: int = 20, seed: int | None = None) -> Evaluation:
        """Evaluate the policy's mode in fresh environments, on seeds that training does not use.

        Args:
            episodes: number of episodes.
            seed: of the episodes; by default :attr:`evaluation_seed`.

        Raises:
            ConfigError: there are to be no episodes.
        """
        if episodes < 1:
            raise ConfigError(f"episodes = {episodes} is out of range: expected at least 1")
        make = partial(make_env, self.config.task, self.config.env)
        with VectorEnv(make, min(episodes, 20)) as envs:
            act, seed = partial(self.algorithm.act, mode=True), self.evaluation_seed if seed is None else seed
            return play_evaluation(envs, act, episodes, seed, self.device)

    @property
    def evaluation_seed(self) -> int:
        """Default seed of evaluation episodes, which neither training nor its evaluations use."""
        return self.config.seed + EVALUATION_SEED

    def experience(self) -> Replay:
        """Load the real episodes that the world model was fitted to, for uniform sampling.

        Raises:
            RunFolderError: they are missing or damaged, or the algorithm keeps none.
            DatasetError: the dataset of a run of `dima fit` has changed.
        """
        if isinstance(self.config, OfflineConfig):
            dataset = Dataset.open(self.config.dataset)
            dataset.require(self.config.task, self.config.env, self.env.spec)
            return Replay.of(dataset.episodes("train"), self.env.spec, self.device)
        with RunFolder.open(self.folder) as folder:
            saved = folder.load()
            if "replay" not in saved.tree["algorithm"]:
                model_based = isinstance(self.algorithm, ModelBased)
                why = "its episodes were left out" if model_based else f"{self.config.algorithm} keeps no episodes"
                raise RunFolderError(f"{self.folder}: {why}: give a run of dima or the like")
            with read_errors(f"{self.folder}:", folder.mismatch):
                stored = saved.tree["algorithm"]["replay"] | {"visits": {}}
                chunks = [chunk for _, chunk in saved.chunks]
                rows = max(1, stored["newest"] - stored["oldest"])
                if rows > sum(len(chunk["last"]) for chunk in chunks):
                    raise ValueError(f"its replay claims {rows} rows")
                replay = Replay(ReplayConfig(capacity=rows, recent_share=0.25), self.env.spec, self.device)
                replay.restore(stored, chunks)
        return replay

    def as_env(self, starts: str | Path = REPLAY, horizon: int | None = None, seed: int | None = None) -> ImaginedEnv:
        """The world model as a PettingZoo environment with the task's own agents and spaces.

        Args:
            starts: initial states: ``replay``, any step of the experience it was fitted to; ``episodes``, the first
                step of fresh real episodes; or a dataset's folder, any step of its episodes.
            horizon: steps after which an episode is truncated; by default the horizon of training.
            seed: of all random draws, until ``reset`` is given one; None takes one from the operating system.

        Raises:
            UserError: the run has no world model, or the initial states cannot be read.
        """
        batch, env = self._imagined_batch(1, starts, horizon, seed)
        return ImaginedEnv(batch, env)

    def as_vector_env(
        self, count: int, starts: str | Path = REPLAY, horizon: int | None = None, seed: int | None = None
    ) -> ImaginedVectorEnv:
        """The world model as a vectorised Gymnasium environment of ``count`` rollouts, stepped as one batch.

        Arguments and errors as for :meth:`as_env`.
        """
        batch, env = self._imagined_batch(count, starts, horizon, seed)
        return ImaginedVectorEnv(batch, env)

    def _imagined_batch(
        self, count: int, starts: str | Path, horizon: int | None, seed: int | None
    ) -> tuple[ImaginedBatch, JointEnv]:
        world_model = self.world_model
        assert isinstance(self.algorithm, ModelBased)
        horizon = self.algorithm.config.horizon if horizon is None else horizon
        for name, value in (("count", count), ("horizon", horizon)):
            if value < 1:
                raise ConfigError(f"{name} = {value} is out of range: expected at least 1")
        env = make_env(self.config.task, self.config.env)
        initial = self._initial_states(starts, env, world_model.context)
        return ImaginedBatch(world_model, initial, count, horizon, self.device, seed), env

    def _initial_states(self, starts: str | Path, env: JointEnv, context: int) -> InitialStates:
        if starts == EPISODES:
            return EpisodeInitialStates(env, context, self.device)
        if starts == REPLAY:
            return ReplayInitialStates(self.experience(), context)
        dataset = Dataset.open(starts)
        dataset.require(self.config.task, self.config.env, env.spec)
        return ReplayInitialStates(Replay.of(dataset.episodes(), env.spec, self.device), context)


def load(
    run: str | os.PathLike[str],
    device: str = "auto",
    *,
    best: bool = False,
    task: Named | None = None,
    algorithm: Named | None = None,
) -> Agent:
    """Load the policy and world model of a run.

    Args:
        run: its folder, or what :func:`dima.train` returned.
        device: ``auto``, ``cpu`` or ``cuda``.
        best: take the policy of the best evaluation, which the callback ``KeepBest`` kept; the world model stays the
            last.
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``; or the class or
            function itself.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.

    Raises:
        UserError: the folder is missing, damaged, not ours or of another version, its environment cannot be built, or
            its task or algorithm is code that the user has not agreed to run.
    """
    where, run = pick_device(device), user_path(os.fspath(run))
    with RunFolder.open(run) as folder:
        config = RunConfig.from_dict(folder.config(), algorithm=algorithm, where=run).agreed(task, run)
        facts, saved = folder.protocol(), folder.load()
    env = make_env(config.task, config.env)
    limit = INIT_FACTOR * saved.size
    with read_errors(f"{run}:", folder.mismatch), memory_limit(limit, f"{run}: {TOO_LARGE}"):
        learner = _build(config, env, where)
        learner.restore(saved.tree["algorithm"], None)
        earlier = {count(steps): dict(weights) for steps, weights in saved.tree.get("earlier", [])}  # others have none
        steps = count(saved.tree["collector"]["steps"]) if "collector" in saved.tree else 0  # `dima fit` makes none
        if best:
            steps, weights = _best_policy(saved.tree, run)
            learner.policy.load_state_dict(weights)
    return Agent(config, env, learner, where, run, steps, saved.digest, earlier, facts)


def _best_policy(tree: Mapping[str, Any], run: Path) -> tuple[int, dict[str, Tensor]]:
    """Steps and weights of the policy that ``KeepBest`` kept.

    Raises:
        RunFolderError: it kept none.
    """
    for _, state in tree.get("callbacks", {}).get("states", []):
        if state.get(BEST):
            return count(state["steps"]), dict(state[BEST])
    raise RunFolderError(
        f"{run} keeps no best policy: train with callbacks=[dima.KeepBest()], --callbacks dima:KeepBest"
    )


def _build(config: RunConfig, env: JointEnv, device: torch.device) -> Algorithm:
    """Build the algorithm with its initial weights."""
    assert isinstance(config.learner, AlgorithmConfig)
    with torch.random.fork_rng([]):  # initial weights are drawn, then replaced
        return config.learner.for_acting().build(env.spec, str(device))


def _with_weights(agent: Agent, weights: Mapping[str, Tensor]) -> Algorithm:
    """Build the algorithm with the weights of another policy."""
    algorithm = _build(agent.config, agent.env, agent.device)
    with read_errors(f"{agent.folder}:", "an earlier policy does not fit its config.yaml"):
        algorithm.policy.load_state_dict(weights)
    return algorithm


def evaluate(
    run: str | os.PathLike[str],
    episodes: int = 20,
    seed: int | None = None,
    device: str = "auto",
    *,
    best: bool = False,
    task: Named | None = None,
    algorithm: Named | None = None,
) -> Evaluation:
    """Evaluate the policy of a run folder, see :func:`load` and :meth:`Agent.evaluate`."""
    return load(run, device, best=best, task=task, algorithm=algorithm).evaluate(episodes, seed)
