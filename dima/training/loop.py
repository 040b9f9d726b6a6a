"""Training loop: learn, evaluate, log, save; resume after a crash."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from dima.algorithms.base import Algorithm, AlgorithmConfig, Metrics
from dima.config import count
from dima.data import EnvSpec
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.errors import CallbackError, ConfigError, RunFolderError
from dima.experience.evaluation import Evaluation
from dima.experience.team import Team
from dima.runtime.machine import free_memory, keep_freed_memory
from dima.runtime.pace import Share
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from, rng_state, set_rng_state
from dima.runtime.signals import Interrupted, Stop
from dima.runtime.summary import Summary
from dima.storage.atomic import read_errors
from dima.storage.budget import TimeBudget
from dima.storage.memory import INIT_FACTOR, memory_limit
from dima.storage.run_folder import TOO_LARGE, RunFolder
from dima.training.callbacks import Calls, Status
from dima.training.guards import log_failure, memory_errors, require_finite, to_numbers
from dima.training.notices import duration_advice, opening, reward_advice
from dima.training.run_config import RunConfig

R = TypeVar("R", bound="TrainingLoop")


class TrainingLoop(ABC):
    """Iterate until the last step: learn, evaluate, log, save.

    Attributes:
        config: of the run.
        algorithm: the learner.
        iterations: finished so far.
        wall: seconds of the finished iterations.
        evaluations: (step, score) of every evaluation.
        at_random: the evaluation of a random policy.
    """

    config: RunConfig
    algorithm: Algorithm
    spec: EnvSpec
    at_random: Evaluation | None = None
    lower_is_better = False  # of the scores of evaluations

    def __init__(self, device: torch.device, progress: Progress, calls: Calls | None = None) -> None:
        self.device, self.progress, self.calls = device, progress, Calls() if calls is None else calls
        self.resources = ExitStack()  # closed at the end
        self.iterations = 0
        self.wall = 0.0
        self.evaluations: list[tuple[int, float]] = []
        self.returns: tuple[float, ...] = ()  # of the episodes of this iteration's evaluation
        self.pending_metrics: list[tuple[int, dict[str, float]]] = []  # of earlier steps, not logged yet
        self.unsaved = 0  # iterations since the last checkpoint
        self.chunks: list[dict[str, Any]] = []  # new replay chunks of these iterations
        self.first_chunk = 0  # the number of the first chunk still needed
        self.warned_of_rewards = False
        self.judged_duration = False
        self._translator: JointEnv | None = None  # for policies that callbacks act with

    # -- defined by each kind of run ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def step(self) -> int:
        """Steps made so far."""

    @property
    @abstractmethod
    def target(self) -> int:
        """Steps of the whole run."""

    @property
    def over(self) -> bool:
        """Whether the last step was made, or a callback stopped the run."""
        return self.step >= self.target or bool(self.calls.stopped)

    @abstractmethod
    def learn(self) -> Metrics:
        """Run one iteration: experience and learning; returns its metrics.

        Raises:
            Interrupted: a stop was requested while experience was collected; nothing was learnt.
        """

    @abstractmethod
    def evaluate(self, before: int) -> dict[str, float]:
        """Evaluate if due after an iteration that began at step ``before``; returns metrics, or nothing."""

    def evaluate_at_random(self, stop: Stop) -> Evaluation | None:
        """Evaluate a random policy, where there is an environment, without an effect on the run.

        Raises:
            Interrupted: a stop was requested.
        """
        return None

    def share(self, before: int) -> Share:
        """How much of learning took place in an iteration that began at step ``before``."""
        return "whole"

    @property
    def log_fields(self) -> dict[str, float]:
        """Fields of every log record besides step and iteration."""
        return {}

    @property
    @abstractmethod
    def highlights(self) -> dict[str, str]:
        """Names of the metrics to display, and their labels."""

    def new_chunks(self) -> tuple[list[dict[str, Any]], int]:
        """Replay chunks that are new since the last call, and the number of the first chunk still needed."""
        replay = self.algorithm.replay
        chunk = replay.chunk() if replay is not None else None
        return [] if chunk is None else [chunk], replay.first_chunk if replay is not None else 0

    def warn_of_rewards(self, largest: float, limits: Mapping[str, tuple[float, float]]) -> None:
        """Say once that rewards are too small or too large to be learnt as they are.

        Args:
            largest: size of the largest so far; 0 says nothing about their size.
            limits: ``reward_limits`` of what learns from them.
        """
        if not self.warned_of_rewards and (advice := reward_advice(largest, limits)):
            self.warned_of_rewards = True
            self.progress.warn(advice)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """State for :meth:`load_state`, besides the algorithm's."""

    @abstractmethod
    def load_state(self, tree: dict[str, Any], chunks: Iterator[tuple[int, dict[str, Any]]]) -> None:
        """Restore the algorithm and the rest of this kind of run from a checkpoint and its replay chunks."""

    @abstractmethod
    def summary(self, folder: Path, finished: bool) -> Summary:
        """Summary of the run so far."""

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder, stop: Stop) -> Summary:
        """Iterate until the last step, or until a stop is requested.

        The first and the last iteration are saved, the others as often as ``checkpoint_budget`` allows, and what was
        collected when a stop was requested.
        """
        with log_failure(folder), memory_errors(folder):
            self._open(stop)
            if self.calls.failed is not None:  # a callback, before the run was resumed
                self._call_back(folder, **self.calls.failed)
                self._save(folder)
            budget, started = TimeBudget(self.config.checkpoint_budget), time.perf_counter()
            while not self.over and not stop.requested:
                began, before = time.perf_counter(), self.step
                try:
                    metrics = to_numbers(self.learn())
                except Interrupted:
                    self.wall += time.perf_counter() - began
                    self._save(folder)
                    break
                self.iterations += 1
                require_finite(metrics, self.algorithm, self.step)
                self.returns = ()
                evaluation = self.evaluate(before)
                metrics = self._log(folder, metrics, evaluation, began)
                self._call_back(folder, metrics, list(self.returns), bool(evaluation))
                if budget.allows:
                    with budget.spending():
                        self._save(folder)
                shown = {label: metrics[name] for name, label in self.highlights.items() if name in metrics}
                self.progress.iteration(self.step, self.target, share=self.share(before), **shown)
                self._judge_duration(time.perf_counter() - started)
            if self.unsaved:
                self._save(folder)
        if self.calls.stopped:
            folder.log({"event": "stopped", "reason": self.calls.stopped})
        elif not self.over:
            folder.log({"event": "interrupted"})
        return replace(self.summary(folder.path, self.over), stopped=self.calls.stopped)

    def _open(self, stop: Stop) -> None:
        """Say what the run is, and start the clocks."""
        with suppress(Interrupted):
            self.at_random = self.evaluate_at_random(stop)
        if not self.over:
            self.progress.message(opening(self.config, self.spec, self.algorithm, self.device, self.at_random))
        self.progress.lap()  # times before the first iteration are not logged
        self.progress.start(self.step, self.target)

    def _judge_duration(self, spent: float) -> None:
        """Say once that the run is long, as soon as its pace is known; ``spent`` seconds are over."""
        pace = self.progress.pace
        if self.judged_duration or self.over:
            return
        assert isinstance(self.config.learner, AlgorithmConfig)
        least = self.config.learner.first_steps
        advice = duration_advice(self.config, pace, self.device, spent, self.step, self.target, least)
        if advice is not None:
            self.progress.warn(advice)
        self.judged_duration = advice is not None or (pace.reliable and pace.share == "whole")

    def _log(
        self, folder: RunFolder, metrics: dict[str, float], evaluation: dict[str, float], began: float
    ) -> dict[str, float]:
        """Log an iteration, and finished background evaluations of earlier ones; returns all metrics."""
        pending, self.pending_metrics = self.pending_metrics, []
        for scores in (evaluation, *(scores for _, scores in pending)):
            require_finite(scores, self.algorithm, self.step)
        for step, scores in pending:
            folder.log({"step": step, "iteration": self.iterations - 1, **scores})
        record = {"step": self.step, "iteration": self.iterations, **self.log_fields, **metrics, **evaluation}
        folder.log(record | self.progress.lap() | {"time/iteration": time.perf_counter() - began})
        chunks, self.first_chunk = self.new_chunks()  # every iteration, so that chunks do not depend on the budget
        self.chunks += chunks
        obsolete = min(len(self.chunks), max(0, self.first_chunk - folder.next_chunk))
        self.chunks[:obsolete] = [{}] * obsolete  # never written: a replay's memory stays bounded between checkpoints
        self.unsaved += 1
        self.wall += time.perf_counter() - began
        return {name: value for _, scores in pending for name, value in scores.items()} | metrics | evaluation

    def _call_back(self, folder: RunFolder, metrics: dict[str, float], returns: list[float], evaluated: bool) -> None:
        """Report an iteration to the callbacks; if one of them raises, save it.

        Raises:
            CallbackError: one of them raised.
        """
        if not self.calls:
            return

        def status(stop: Callable[[str], None]) -> Status:
            return Status(
                steps=self.step,
                target=self.target,
                iteration=self.iterations,
                metrics=MappingProxyType(dict(metrics)),
                score=self.evaluations[-1][1] if self.evaluations else None,
                lower_is_better=self.lower_is_better,
                returns=tuple(returns),
                folder=folder.path,
                config=self.config,
                policy=self.algorithm.policy,
                _make_team=self._team,
                _stop=stop,
            )

        facts = {"metrics": metrics, "returns": returns, "evaluated": evaluated}
        try:
            with self.progress.phase("callbacks"), drawn_from(self.device, self.config.seed, self.iterations):
                self.calls.report(facts, status)
        except CallbackError as error:
            self._save(folder)
            raise CallbackError(
                f"{error}; the run is saved at step {self.step:,}: fix it, then `dima resume {folder.path}`"
            ) from error.__cause__

    def _team(self) -> Team:
        """The live policy, and an environment to translate for it."""
        if self._translator is None:
            self._translator = make_env(self.config.task, self.config.env)
            self.resources.callback(self._translator.close)
        return Team(self.algorithm.policy, self._translator, self.device)

    def _save(self, folder: RunFolder) -> None:
        began = time.perf_counter()
        with self.progress.phase("save"):
            folder.save(self._tree(), self.chunks, drop_before=self.first_chunk)
        self.chunks, self.unsaved = [], 0
        self.wall += time.perf_counter() - began

    def _tree(self) -> dict[str, Any]:
        return (
            self.state()
            | self.calls.checkpoint()
            | {
                "algorithm": self.algorithm.checkpoint(),
                "rng": rng_state(),
                "iterations": self.iterations,
                "evaluations": [list(pair) for pair in self.evaluations],
                "seconds": dict(self.progress.seconds),
                "wall": self.wall,
            }
        )

    def restore(self, folder: RunFolder, go_on: bool = False) -> None:
        """Continue from the last saved iteration.

        Args:
            folder: of the run.
            go_on: also where a callback had stopped the run.

        Raises:
            CallbackError: the run goes on, and its callbacks are not the same.
            RunFolderError: the folder is damaged, its checkpoint is of another config, or is for acting only.
        """
        saved = folder.load()
        tree: dict[str, Any] = saved.tree
        if "rng" not in tree:
            raise RunFolderError(
                f"{folder.path} holds what acting and imagining need, not what learning does: train anew"
            )
        with read_errors(f"{folder.path}:", folder.mismatch):
            try:
                self.load_state(tree, saved.chunks)
            except ConfigError as error:
                raise ValueError(str(error)) from error
            self.iterations = count(tree["iterations"])
            self.evaluations = [(count(step), float(score)) for step, score in tree["evaluations"]]
            self.progress.seconds.update({str(name): float(seconds) for name, seconds in tree["seconds"].items()})
            self.wall = float(tree["wall"])
            called_back = dict(tree.get("callbacks", {}))
            set_rng_state(tree["rng"])
            if go_on:
                called_back["stopped"] = ""
            self.calls.restore(called_back, lambda: not self.over, folder.path)

    def close(self) -> None:
        """Close environments and processes."""
        self.resources.close()

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(config: RunConfig, spec: EnvSpec, device: torch.device, known: int | None) -> Algorithm:
    """Build and initialise the algorithm of a run.

    Args:
        config: of the run.
        spec: of the environment.
        device: of its tensors.
        known: bytes of the tensors in the checkpoint to be restored, if there is one.

    Raises:
        ConfigError: the networks are larger than the checkpoint, or need more memory than is free.
    """
    learner = config.learner
    assert isinstance(learner, AlgorithmConfig)
    if known is not None:
        with torch.random.fork_rng([]), memory_limit(INIT_FACTOR * known, f"{config.folder}: {TOO_LARGE}"):
            learner.for_acting().build(spec, "cpu")
    with memory_limit(free_memory(), f"{config.folder}: its config.yaml describes more than the memory that is free"):
        return learner.build(spec, str(device))


@contextmanager
def seeded(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Use the run's seed and threads for the block; the caller's random state and threads come back afterwards."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
