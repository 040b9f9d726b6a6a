"""A run at work: iterations of learning, each checked and logged, saved often enough to go on after a crash."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dima.algorithms.base import Algorithm
from dima.errors import ConfigError, DivergenceError, RunFolderError
from dima.runtime.machine import keep_freed_memory
from dima.runtime.progress import Progress
from dima.runtime.rng import rng_state, set_rng_state
from dima.runtime.signals import Stop
from dima.runtime.summary import Summary
from dima.storage.budget import TimeBudget
from dima.storage.run_folder import RunFolder
from dima.training.run_config import RunConfig

R = TypeVar("R", bound="TrainingLoop")
Metrics = dict[str, Tensor | float]


class TrainingLoop(ABC):
    """What runs of every kind share.

    Attributes:
        config: every choice of the run.
        algorithm: the learner.
        iterations: how many are over.
        wall: seconds they took.
        evaluations: (step, what was measured) of every evaluation.
    """

    config: RunConfig
    algorithm: Algorithm

    def __init__(self, device: torch.device, progress: Progress) -> None:
        self.device, self.progress = device, progress
        self.held = ExitStack()  # what to close at the end
        self.iterations = 0
        self.wall = 0.0
        self.evaluations: list[tuple[int, float]] = []
        self.late: list[tuple[int, dict[str, float]]] = []  # evaluations of earlier steps that are not logged yet
        self.unsaved = 0  # iterations since the last checkpoint
        self.chunks: list[dict[str, Any]] = []  # what the replay gained in them
        self.first_chunk = 0  # the number of the first chunk still needed

    @property
    @abstractmethod
    def step(self) -> int:
        """How far the run is."""

    @property
    @abstractmethod
    def target(self) -> int:
        """The step at which it is finished."""

    @abstractmethod
    def live(self) -> Metrics:
        """One iteration of experience and learning, and how it went."""

    @abstractmethod
    def evaluate(self, before: int) -> dict[str, float]:
        """Evaluate, if it is time after an iteration that began at step ``before``: what to log."""

    @abstractmethod
    def saved(self) -> dict[str, Any]:
        """What :meth:`take_up` needs besides the algorithm."""

    @abstractmethod
    def take_up(self, tree: dict[str, Any], chunks: Iterator[tuple[int, dict[str, Any]]]) -> None:
        """Put the algorithm and everything of this kind of run where the last finished iteration ended."""

    def gained(self) -> tuple[list[dict[str, Any]], int]:
        """What the replay gained since the last call, as chunks; and the number of the first chunk still needed."""
        replay = self.algorithm.replay
        chunk = replay.chunk() if replay is not None else None
        return [] if chunk is None else [chunk], replay.first_chunk if replay is not None else 0

    @property
    def facts(self) -> dict[str, float]:
        """What every record tells besides the step and the iteration."""
        return {}

    @property
    @abstractmethod
    def shown(self) -> dict[str, str]:
        """Metrics worth a glance, and what they are called."""

    @abstractmethod
    def summary(self, folder: Path, finished: bool) -> Summary:
        """How the run went so far."""

    def close(self) -> None:
        """Let go of what the run works with."""
        self.held.close()

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, folder: RunFolder, stop: Stop) -> Summary:
        """TrainingLoop until the last step, or until asked to stop after one.

        The first iteration is saved, the last one too, those between as often as ``checkpoint_budget`` allows.
        """
        self.progress.lap()  # what was timed before is not of this run's next iteration
        budget = TimeBudget(self.config.checkpoint_budget)
        with _end_told(folder):
            while self.step < self.target and not stop.requested:
                glance = self._iteration(folder)
                if budget.allows:
                    with budget.spending():
                        self._save(folder)
                self.progress.iteration(self.step, self.target, **glance)
            if self.unsaved:
                self._save(folder)
        finished = self.step >= self.target
        if not finished:
            folder.log({"event": "interrupted"})
        return self.summary(folder.path, finished)

    def restore(self, folder: RunFolder) -> None:
        """Stand where the last saved iteration ended.

        Raises:
            RunFolderError: the folder is damaged, or its checkpoint is of another config.
        """
        saved = folder.load()
        tree: dict[str, Any] = saved.tree
        try:
            self.take_up(tree, saved.chunks)
            self.iterations, self.evaluations = tree["iterations"], [(s, r) for s, r in tree["evaluations"]]
        except (KeyError, RuntimeError, ValueError, ConfigError) as error:
            why = " ".join(str(error).split())[:200]
            raise RunFolderError(f"{folder.path}: its checkpoint does not fit its config.yaml: {why}") from error
        self.progress.seconds.update(tree["seconds"])
        self.wall = tree.get("wall", sum(tree["seconds"].values()))  # older folders have none
        set_rng_state(tree["rng"])

    def _iteration(self, folder: RunFolder) -> dict[str, float]:
        """Live an iteration and log it; returns what of it is worth a glance."""
        before, wall, began = self.step, self.wall, time.perf_counter()
        numbers = _to_numbers(self.live())
        self.iterations += 1
        _require_finite(numbers, self.algorithm, self.step)
        evaluated = self.evaluate(before)
        late, self.late = self.late, []
        for told in (evaluated, *(told for _, told in late)):
            _require_finite(told, self.algorithm, self.step)
        numbers |= evaluated
        record = {"step": self.step, "iteration": self.iterations, **self.facts, **numbers}
        for step, told in late:
            folder.log({"step": step, "iteration": self.iterations - 1, **told})
        folder.log(record | self.progress.lap() | {"time/iteration": time.perf_counter() - began})
        chunks, self.first_chunk = self.gained()  # each iteration, so that no file depends on the budget
        self.chunks += chunks
        self.unsaved += 1
        for _, told in late:
            numbers = told | numbers
        self.wall = wall + time.perf_counter() - began
        return {label: numbers[name] for name, label in self.shown.items() if name in numbers}

    def _save(self, folder: RunFolder) -> None:
        began = time.perf_counter()
        with self.progress.phase("save"):
            folder.save(self._tree(), self.chunks, drop_before=self.first_chunk)
        self.chunks, self.unsaved = [], 0
        self.wall += time.perf_counter() - began

    def _tree(self) -> dict[str, Any]:
        return self.saved() | {
            "algorithm": self.algorithm.checkpoint(),
            "rng": rng_state(),
            "iterations": self.iterations,
            "evaluations": [list(pair) for pair in self.evaluations],
            "seconds": dict(self.progress.seconds),
            "wall": self.wall,
        }


@contextmanager
def seeded(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Draw from the run's seed and use its threads; the caller's random state and threads come back afterwards."""
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


@contextmanager
def _end_told(folder: RunFolder) -> Iterator[None]:
    """Log what ended the run early. A resumed run first removes what follows the last saved iteration."""
    try:
        yield
    except BaseException as error:
        with suppress(RunFolderError):  # the disk may be what failed
            folder.log({"event": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})
        raise


def _to_numbers(metrics: Metrics) -> dict[str, float]:
    """Bring an iteration's metrics to the host, all tensors in one copy."""
    names = [name for name, value in metrics.items() if isinstance(value, Tensor)]
    numbers = {name: float(value) for name, value in metrics.items() if name not in names}
    if names:
        numbers |= zip(names, torch.stack([metrics[n].double() for n in names]).tolist(), strict=True)  # type: ignore[union-attr]
    return numbers


def _require_finite(numbers: dict[str, float], algorithm: Algorithm, step: int) -> None:
    """Raise DivergenceError when a loss or a weight is not a number; the iteration is not saved then."""
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not bad:
        weights = [(name, tensor) for name, tensor in algorithm.named_parameters()]
        finite = torch.stack([tensor.isfinite().all() for _, tensor in weights]).tolist()
        bad = [name for (name, _), fine in zip(weights, finite, strict=True) if not fine]
    if bad:
        raise DivergenceError(
            f"learning diverged before step {step}: {bad[0]} is not finite; what was saved before is kept: "
            "lower that part's learning rate, or look at the rewards and observations of the task"
        )
