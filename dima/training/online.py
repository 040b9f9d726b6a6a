"""Train in the environment; resume runs of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dima.algorithms.base import AlgorithmConfig, Metrics
from dima.config import count
from dima.envs import env_maker, make_env
from dima.envs.base import AdapterConfig
from dima.envs.check import LEAVING, compare_rewards, foresee_leaving
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, EnvError
from dima.experience.collector import Collector
from dima.experience.episodes import random_policy
from dima.experience.evaluation import Evaluation, evaluate
from dima.policies.base import Policy
from dima.registry import Named
from dima.runtime.device import pick_device
from dima.runtime.fork import in_background
from dima.runtime.pace import Share
from dima.runtime.progress import Progress
from dima.runtime.provenance import mujoco_versions, simulator_line
from dima.runtime.rng import drawn_from
from dima.runtime.signals import Stop, graceful_stop
from dima.runtime.summary import Summary
from dima.storage.atomic import read_errors
from dima.storage.dashboards import require_dashboards
from dima.storage.run_folder import RunFolder
from dima.training.callbacks import Callback, Calls
from dima.training.loop import TrainingLoop, build, seeded
from dima.training.notices import gpu_advice
from dima.training.offline import Fitting
from dima.training.run_config import OfflineConfig, RunConfig, TrainConfig

RANDOM_EPISODES = 5  # at most, of the random policy that a run is compared with


def train(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Train an algorithm in the environment, in a new run folder.

    Args:
        config: of the run.
        overwrite: replace an earlier run in the same folder.
        progress: display of phases and iterations; none by default.
        callbacks: called after iterations and evaluations.

    Raises:
        UserError: the task, the folder or the device cannot be used, the environment violated the PettingZoo API, or
            learning diverged. The last checkpoint is kept.
    """
    device, calls = pick_device(config.device), Calls(callbacks)
    config = config.override({"env": foresee_leaving(config.task, config.env)})
    with (
        seeded(config, device),
        graceful_stop() as stop,
        Trainer(config, device, progress or Progress(), stop=stop, calls=calls) as trainer,
    ):
        if advice := gpu_advice(config, device):
            trainer.progress.warn(advice)
        _warn_if_short(config, trainer.progress)
        _look_at_environment(config, trainer.progress)
        folder = RunFolder.create(config.folder, config.to_dict(), overwrite=overwrite, device=str(device))
        with folder:
            return trainer.run(folder, stop)


def _warn_if_short(config: TrainConfig, progress: Progress) -> None:
    """Warn if a run ends before, or with, the steps that are collected before learning begins."""
    assert isinstance(config.learner, AlgorithmConfig)
    first = config.learner.first_steps
    if config.steps <= first:
        progress.warn(
            f"dima: steps = {config.steps:,} are no more than the {first:,} that {config.algorithm} collects before it "
            "learns: give more steps, or a preset with fewer"
        )


def _look_at_environment(config: TrainConfig, progress: Progress) -> None:
    """Warn if agents leave early, if their rewards differ, or their observations are converted.

    Raises:
        EnvError: they oppose each other, and the settings do not allow that; or the environment cannot be closed.
    """
    if not isinstance(config.env, AdapterConfig):
        return  # the library's own tasks are cooperative
    with closing(make_env(config.task, config.env)) as env:
        if env.spec.agents_leave:
            progress.message(f"dima: {LEAVING}")
        for finding in compare_rewards(env, config.env):
            if finding.verdict == "wrong":
                raise EnvError(f"{config.task}: {finding.text}")
            progress.warn(f"dima: {finding.text}")
        for text in env.conversions:
            progress.warn(f"dima: {text}")


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    iterations: int | None = None,
    task: Named | None = None,
    algorithm: Named | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Summary:
    """Resume a run from its last saved iteration.

    Args:
        path: the run folder.
        steps: new length of a run in the environment; by default the one it was started with.
        iterations: likewise for a run that learns from a dataset.
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.
        progress: display of phases and iterations; none by default.
        callbacks: those of the run, repeated; an empty list continues without them.

    Raises:
        UserError: as :func:`train`; or the folder is missing, damaged, not ours or of another version, the run is past
            ``steps`` or ``iterations`` already, its callbacks were not repeated, or its task or algorithm is code that
            the user has not agreed to run: then what was saved is kept.
    """
    calls = Calls(callbacks)
    if steps is not None or iterations is not None:
        with RunFolder.open(path) as folder:  # before opening it for writing cleans up
            _refuse_shorter(folder, steps, iterations, algorithm)
    with RunFolder.open(path, write=True) as folder:
        kept = RunConfig.from_dict(folder.config(), algorithm=algorithm, where=path).agreed(task, path)
        wanted = _longer(kept, steps, iterations)
        config = wanted.override({"run": str(path)})
        device = pick_device(config.device)
        require_dashboards(config.to_dict())
        with (
            seeded(config, device),
            graceful_stop() as stop,
            _build_run(config, device, progress or Progress(), folder.checkpoint_size, stop, calls) as run,
        ):
            if folder.has_checkpoint:
                run.restore(folder, go_on=steps is not None or iterations is not None)
            else:
                folder.rewind_to_start()
            if wanted != kept and not run.over:
                folder.replace_config(wanted.to_dict())  # for the next resume
            if not run.over:
                before = folder.protocol()
                folder.record_resume(run.step, str(device))
                if isinstance(run, Trainer):
                    run.warn_of_another_simulator(before, folder.protocol())
            return run.run(folder, stop)


def _refuse_shorter(folder: RunFolder, steps: int | None, iterations: int | None, algorithm: Named | None) -> None:
    """Raise ConfigError if a run is past its new length; its own length is never refused."""
    kept = RunConfig.from_dict(folder.config(), algorithm=algorithm, where=folder.path)
    wanted = _longer(kept, steps, iterations)
    if wanted == kept or not folder.has_checkpoint:
        return
    tree = folder.load().tree
    with read_errors(f"{folder.path}:", folder.mismatch):
        if isinstance(wanted, OfflineConfig):
            unit, asked, made = "iterations", wanted.iterations, count(tree["iterations"])
        else:
            assert isinstance(wanted, TrainConfig)
            unit, asked, made = "steps", wanted.steps, count(tree["collector"]["steps"])
    if asked < made:
        raise ConfigError(
            f"{unit} = {asked} is less than the {made} that {folder.path} has made already: give more to extend it"
        )


def _longer(config: RunConfig, steps: int | None, iterations: int | None) -> RunConfig:
    offline = isinstance(config, OfflineConfig)
    if offline and steps is not None:
        raise ConfigError(
            f"steps = {steps} is for runs in an environment; this one learns from a dataset: give iterations"
        )
    if not offline and iterations is not None:
        raise ConfigError(
            f"iterations = {iterations} is for runs that learn from a dataset; this one counts steps: give those"
        )
    wanted = {"steps": steps, "iterations": iterations}
    return config.override({name: value for name, value in wanted.items() if value is not None})


def _build_run(
    config: RunConfig, device: torch.device, progress: Progress, known: int | None, stop: Stop, calls: Calls
) -> TrainingLoop:
    if isinstance(config, OfflineConfig):
        return Fitting(config, device, progress, known, calls)
    assert isinstance(config, TrainConfig)
    return Trainer(config, device, progress, known, stop, calls)


class Trainer(TrainingLoop):
    """A run in the environment, counted in environment steps."""

    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        progress: Progress,
        known: int | None = None,
        stop: Stop | None = None,
        calls: Calls | None = None,
    ) -> None:
        super().__init__(device, progress, calls)
        self.config = config
        make = env_maker(config.task, config.env)
        self.envs = self.resources.enter_context(VectorEnv(make, config.envs, config.env_processes))
        self.test_envs = self.resources.enter_context(VectorEnv(make, config.evaluation_episodes, config.env_processes))
        self.collector = Collector(self.envs, config.seed, device, stop)
        self.spec = self.envs.spec
        self.algorithm = build(config, self.spec, device, known)
        self.earlier: list[tuple[int, dict[str, Tensor]]] = []  # step and weights of earlier policies
        self.evaluation_pending = False  # during the next iteration, in the background

    @property
    def step(self) -> int:
        return self.collector.steps

    @property
    def target(self) -> int:
        return self.config.steps

    @property
    def log_fields(self) -> dict[str, float]:
        return {"episodes": self.collector.episodes}

    @property
    def highlights(self) -> dict[str, str]:
        return {"evaluate/return": "evaluated_return", "collect/return": "collected_return"}

    def warn_of_another_simulator(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Warn if a run is resumed under another MuJoCo version; arguments are its protocols."""
        old, new = (mujoco_versions(self.config.task, facts)[-1:] for facts in (before, now))
        if old != new and self.step:
            before_that, from_here = (versions[0] if versions else "of an unknown version" for versions in (old, new))
            self.progress.warn(
                f"dima: MuJoCo {before_that} simulated the steps up to {self.step:,}, {from_here} simulates the rest: "
                "returns may differ; protocol.json records both"
            )

    def evaluate_at_random(self, stop: Stop) -> Evaluation | None:
        seed, episodes = self.config.seed, min(RANDOM_EPISODES, self.config.evaluation_episodes)
        with drawn_from("cpu", seed):
            return evaluate(self.test_envs, random_policy(self.spec), episodes, seed, stop=stop)

    def share(self, before: int) -> Share:
        learner = self.config.learner
        assert isinstance(learner, AlgorithmConfig)
        if before < learner.first_steps:
            return "none"
        return "part" if self.iterations <= learner.first_iterations else "whole"

    def learn(self) -> Metrics:
        algorithm, collector, progress = self.algorithm, self.collector, self.progress
        before, done = self.step, min(1.0, self.step / self.target)
        with self._evaluating_in_background():
            metrics = algorithm.collect(collector, progress)
            self.warn_of_rewards(collector.largest_reward, algorithm.config.reward_limits)
            with algorithm.collect_in_background(collector, progress):
                metrics |= algorithm.fit(progress)
                metrics |= algorithm.update_policy(progress, done)
        self._keep_policy(before)
        return metrics

    def evaluate(self, before: int) -> dict[str, float]:
        every = self.config.evaluate_every
        if self.step // every == before // every and self.step < self.target:
            return {}
        at_once = self.calls.see_evaluations  # while the policy is the one that was evaluated
        if self.config.evaluate_in_background and self.step < self.target and not at_once:
            self.evaluation_pending = True
            return {}
        with self.progress.phase("evaluate"):
            return self._record(self.step, self._play(self.collector.snapshot.of(self.algorithm.policy)))

    @contextmanager
    def _evaluating_in_background(self) -> Iterator[None]:
        """Evaluate the current policy in the background while the block runs, if that is pending."""
        if not self.evaluation_pending:
            yield
            return
        step, policy = self.step, self.collector.snapshot.of(self.algorithm.policy)
        job, envs = partial(self._play, policy), self.test_envs
        with envs.used_by_fork(), in_background(job, envs.forkable) as result:
            yield
            with self.progress.phase("evaluate"):
                self.pending_metrics.append((step, self._record(step, result())))
        self.evaluation_pending = False

    def _play(self, policy: Policy) -> Evaluation:
        act, episodes = partial(policy.act, mode=True), self.config.evaluation_episodes
        return evaluate(self.test_envs, act, episodes, self.config.seed)

    def _record(self, step: int, result: Evaluation) -> dict[str, float]:
        """Record the score of the policy after ``step`` steps; returns its metrics."""
        self.evaluations.append((step, result.mean))
        self.returns = result.returns
        length = sum(result.lengths) / len(result.lengths)
        numbers = {"return": result.mean, "std": result.std, "length": length} | result.means
        return {f"evaluate/{name}": value for name, value in numbers.items()}

    def _keep_policy(self, before: int) -> None:
        """Keep the policy whenever the run passes one of its ``keep_policies`` equidistant steps."""
        parts = self.config.keep_policies + 1
        if self.step < self.target and self.step * parts // self.target > before * parts // self.target:
            policy = self.algorithm.policy.state_dict()
            weights = {name: value.detach().cpu().clone() for name, value in policy.items()}
            self.earlier = [*self.earlier, (self.step, weights)][-self.config.keep_policies :]

    def state(self) -> dict[str, Any]:
        return {
            "collector": self.collector.checkpoint(),
            "earlier": [list(pair) for pair in self.earlier],
            "evaluation_pending": self.evaluation_pending,
        }

    def load_state(self, tree: dict[str, Any], chunks: Iterator[tuple[int, dict[str, Any]]]) -> None:
        self.algorithm.restore(tree["algorithm"], [chunk for _, chunk in chunks])
        self.collector.restore(tree["collector"])
        self.earlier = [(count(step), dict(weights)) for step, weights in tree["earlier"]]
        self.evaluation_pending = bool(tree["evaluation_pending"])

    def summary(self, folder: Path, finished: bool) -> Summary:
        return Summary(
            task=self.config.task,
            algorithm=self.config.algorithm,
            folder=folder,
            steps=self.step,
            evaluations=self.evaluations,
            seconds=self.progress.seconds,
            wall=self.wall,
            env=self.config.env.to_dict(),
            simulator=simulator_line(self.config.task, RunFolder.open(folder).protocol()),
            finished=finished,
            random_score=self.at_random.mean if self.at_random else None,
        )
