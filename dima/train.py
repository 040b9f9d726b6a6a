"""The training loop: rounds of an algorithm, evaluation, one record and one checkpoint per round."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.collect import Collector
from dima.device import pick_device
from dima.envs import make_env
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, DivergenceError, RunFolderError
from dima.evaluate import Evaluation, evaluate
from dima.progress import Progress
from dima.run_config import RunConfig
from dima.run_folder import RunFolder
from dima.signals import Stop, graceful_stop
from dima.summary import Summary


def train(config: RunConfig, *, overwrite: bool = False, progress: Progress | None = None) -> Summary:
    """Start a run and carry it to its last step.

    Args:
        config: every choice of the run.
        overwrite: replace an earlier run in the same folder.
        progress: told of each phase and round; silent by default.

    Raises:
        UserError: the task, the folder or the device cannot be used, the environment broke a promise, or learning
            diverged. What the last finished round saved is kept.
    """
    device = pick_device(config.device)
    with _seeded(config, device), graceful_stop() as stop, Trainer(config, device, progress or Progress()) as trainer:
        folder = RunFolder.create(config.folder, config.to_dict(), overwrite=overwrite, device=str(device))
        with folder:
            return trainer.run(folder, stop)


def resume(path: str | Path, *, steps: int | None = None, progress: Progress | None = None) -> Summary:
    """Go on with a run from its last finished round.

    Args:
        path: the run folder.
        steps: carry it to this many environment steps instead of as many as it was started for.
        progress: told of each phase and round; silent by default.

    Raises:
        UserError: as :func:`train`, or the folder is missing, damaged or not ours.
    """
    with RunFolder.open(path, write=True) as folder:
        config = RunConfig.from_dict(folder.config())
        if steps is not None and steps != config.steps:
            config = config.override({"steps": steps})
            folder.replace_config(config.to_dict())  # so that the next resume knows of it
        config = config.override({"run": str(path)})
        device = pick_device(config.device)
        progress = progress or Progress()
        with _seeded(config, device), graceful_stop() as stop, Trainer(config, device, progress) as trainer:
            if folder.has_checkpoint:
                trainer.restore(folder)
            else:
                folder.rewind_to_start()
            return trainer.run(folder, stop)


class Trainer:
    """One run at work: environments, algorithm, and how far they are."""

    def __init__(self, config: RunConfig, device: torch.device, progress: Progress) -> None:
        self.config, self.device, self.progress = config, device, progress
        make = partial(make_env, config.task, config.env)
        self.envs = VectorEnv(make, config.envs)
        self.test_envs = VectorEnv(make, config.evaluation_episodes)
        self.collector = Collector(self.envs, config.seed, device)
        assert isinstance(config.learner, AlgorithmConfig)
        self.algorithm: Algorithm = config.learner.build(self.envs.spec, str(device))
        self.evaluations: list[tuple[int, float]] = []  # (environment steps, mean return)
        self.rounds = 0

    def run(self, folder: RunFolder, stop: Stop) -> Summary:
        """Rounds until the last step, or until asked to stop after one."""
        target = self.config.steps
        self.progress.lap()  # what was timed before is not of this run's next round
        with _end_told(folder):
            while self.collector.steps < target and not stop.requested:
                self._round(folder)
        if self.collector.steps < target:
            folder.log({"event": "interrupted"})
        return Summary(
            task=self.config.task,
            algorithm=self.config.algorithm,
            folder=folder.path,
            steps=self.collector.steps,
            evaluations=self.evaluations,
            seconds=self.progress.seconds,
            env=self.config.env.to_dict(),
            finished=self.collector.steps >= target,
        )

    def restore(self, folder: RunFolder) -> None:
        """Stand where the last finished round ended."""
        saved = folder.load()
        tree: dict[str, Any] = saved.tree
        try:
            self.algorithm.restore(tree["algorithm"], [chunk for _, chunk in saved.chunks])
            self.collector.restore(tree["collector"])
            self.rounds, self.evaluations = tree["rounds"], [(s, r) for s, r in tree["evaluations"]]
        except (KeyError, RuntimeError, ValueError, ConfigError) as error:
            why = " ".join(str(error).split())[:200]
            raise RunFolderError(f"{folder.path}: its checkpoint does not fit its config.yaml: {why}") from error
        self.progress.seconds.update(tree["seconds"])
        set_rng_state(tree["rng"])

    def close(self) -> None:
        """End the environments."""
        self.envs.close()
        self.test_envs.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _round(self, folder: RunFolder) -> None:
        before, began = self.collector.steps, time.perf_counter()
        metrics = self.algorithm.round(self.collector, self.progress, min(1.0, before / self.config.steps))
        numbers = _to_numbers(metrics)
        step = self.collector.steps
        _require_finite(numbers, self.algorithm, step)
        self.rounds += 1
        every = self.config.evaluate_every
        if step // every > before // every or step >= self.config.steps:
            result = self._evaluate()
            self.evaluations.append((step, result.mean))
            numbers |= {"evaluate/return": result.mean, "evaluate/std": result.std}
            numbers["evaluate/length"] = sum(result.lengths) / len(result.lengths)
        record = {"step": step, "round": self.rounds, "episodes": self.collector.episodes} | numbers
        with self.progress.phase("save"):
            folder.log(record | self.progress.lap() | {"time/round": time.perf_counter() - began})
            replay = self.algorithm.replay
            chunk = replay.chunk() if replay is not None else None
            first = replay.first_chunk if replay is not None else 0
            folder.save(self._tree(), [] if chunk is None else [chunk], drop_before=first)
        shown = {"evaluate/return": "evaluated_return", "collect/return": "collected_return"}
        self.progress.round(
            step, self.config.steps, **{label: numbers[name] for name, label in shown.items() if name in numbers}
        )

    def _evaluate(self) -> Evaluation:
        with self.progress.phase("evaluate"):
            return evaluate(
                self.test_envs,
                partial(self.algorithm.act, mode=True),
                self.config.evaluation_episodes,
                self.config.seed,
                self.device,
            )

    def _tree(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.checkpoint(),
            "collector": self.collector.checkpoint(),
            "rng": rng_state(),
            "rounds": self.rounds,
            "evaluations": [list(pair) for pair in self.evaluations],
            "seconds": dict(self.progress.seconds),
        }


def rng_state() -> dict[str, Tensor]:
    """PyTorch's random state on the CPU and, where there is one, the GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Go on drawing where :func:`rng_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def _end_told(folder: RunFolder) -> Iterator[None]:
    """Log what ended the run before its time. A resumed run begins by removing what follows the last saved round."""
    try:
        yield
    except BaseException as error:
        with suppress(RunFolderError):  # the disk may be what failed
            folder.log({"event": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})
        raise


@contextmanager
def _seeded(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Draw from the run's seed and use its threads; the caller's random state and threads come back afterwards."""
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


def _to_numbers(metrics: dict[str, Tensor | float]) -> dict[str, float]:
    """Bring a round's metrics to the host, all tensors in one copy."""
    names = [name for name, value in metrics.items() if isinstance(value, Tensor)]
    numbers = {name: float(value) for name, value in metrics.items() if name not in names}
    if names:
        numbers |= zip(names, torch.stack([metrics[n].double() for n in names]).tolist(), strict=True)  # type: ignore[union-attr]
    return numbers


def _require_finite(numbers: dict[str, float], algorithm: Algorithm, step: int) -> None:
    """Raise DivergenceError when a loss or a weight is not a number; the round is not saved then."""
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
