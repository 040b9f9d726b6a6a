"""What guards an iteration: memory, finite numbers, a record of failures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from dima.algorithms.base import Algorithm, Metrics
from dima.errors import ConfigError, DivergenceError, RunFolderError
from dima.storage.memory import out_of_memory
from dima.storage.run_folder import RunFolder


@contextmanager
def memory_errors(folder: RunFolder) -> Iterator[None]:
    """Turn an out-of-memory error into a ConfigError of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:200]
        message = f"{folder.path}: out of memory in an iteration of this config: lower its batch sizes"
        raise ConfigError(f"{message} ({why})") from error


@contextmanager
def log_failure(folder: RunFolder) -> Iterator[None]:
    """Log the exception that ends the run; a resume removes records after the last saved iteration."""
    try:
        yield
    except BaseException as error:
        with suppress(RunFolderError):  # the disk may be what failed
            folder.log({"event": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})
        raise


def to_numbers(metrics: Metrics) -> dict[str, float]:
    """Copy an iteration's metrics to the host, all tensors at once."""
    names = [name for name, value in metrics.items() if isinstance(value, Tensor)]
    numbers = {name: float(value) for name, value in metrics.items() if name not in names}
    if names:
        numbers |= zip(names, torch.stack([metrics[n].double() for n in names]).tolist(), strict=True)  # type: ignore[union-attr]
    return numbers


def require_finite(numbers: dict[str, float], algorithm: Algorithm, step: int) -> None:
    """Raise DivergenceError if a metric or a weight is not finite; the iteration is then not saved."""
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not bad:
        weights = [(name, tensor) for name, tensor in algorithm.named_parameters()]
        finite = torch.stack([tensor.isfinite().all() for _, tensor in weights]).tolist()
        bad = [name for (name, _), fine in zip(weights, finite, strict=True) if not fine]
    if bad:
        raise DivergenceError(
            f"learning diverged before step {step}: {bad[0]} is not finite; the last checkpoint is kept: "
            "lower that part's learning rate, or check the task's rewards and observations"
        )
