"""Time calls, compared ones in turn; peak memory and peak speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed.cost import Cost, Counter

Call = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """What is measured on, and how often.

    Attributes:
        device: where the work is done.
        repeats: timed calls of everything.
        share: of a batch's imaginations that a call makes, see :func:`benchmarks.speed.units.learning_units`.
        clock: ``wall``, or ``cpu``: the seconds this process was at work, which other programs on the machine do not
            lengthen; not for GPUs, worker processes or more than one thread, and blind to waiting for a disk.
    """

    device: torch.device
    repeats: int = 3
    share: float = 1.0
    clock: str = "wall"

    def now(self) -> float:
        """The clock, once everything that was launched is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return CLOCKS[self.clock]()

    def seconds(self, call: Call) -> float:
        """Seconds of one call."""
        began = self.now()
        call()
        return self.now() - began

    def each(self, variants: dict[str, Call]) -> dict[str, list[float]]:
        """Seconds of every call of every variant, A B, B A, A B, ...: what disturbs the machine disturbs all alike."""
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for repeat in range(self.repeats):
            for name in list(variants) if repeat % 2 == 0 else reversed(list(variants)):
                seconds[name].append(self.seconds(variants[name]))
        return seconds

    @contextmanager
    def cost_of(self, name: str, costs: dict[str, Cost], count: Counter) -> Iterator[None]:
        """Add what the block takes to ``costs[name]``."""
        began, before = self.now(), count.flops
        yield
        spent = Cost(self.now() - began, count.flops - before)
        costs[name] = costs.get(name, Cost()) + spent

    @contextmanager
    def watching(
        self, places: Sequence[tuple[str, Any, str]], costs: dict[str, Cost], count: Counter
    ) -> Iterator[None]:
        """While the block runs, add what each (part, object, method) takes to its part's cost."""

        def watch(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.cost_of(name, costs, count):
                    return method(*args, **kwargs)

            return call

        before = [owner.__dict__.get(method) for _, owner, method in places]
        for name, owner, method in places:
            owner.__dict__[method] = watch(name, getattr(owner, method))
        try:
            yield
        finally:
            for (_, owner, method), was in zip(places, before, strict=True):
                del owner.__dict__[method]
                if was is not None:
                    owner.__dict__[method] = was


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as long ``slow`` takes: the median over repeats, each against its neighbour."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory(call: Call, device: torch.device) -> int | None:
    """Most bytes in use while the call runs: of the device, or, on a CPU, of this process; None where unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: begin the high-water mark anew
    except OSError:
        call()
        return None
    call()
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) * 1024
    return None


def ceiling(timing: Timing, dtype: torch.dtype, size: int = 0, tries: int = 5) -> float:
    """Operations per second of a large matrix product, the best of some tries: what this device can do at most."""
    size = size or (8192 if timing.device.type == "cuda" else 2048)
    one, other = torch.randn(2, size, size, device=timing.device, dtype=dtype).unbind(0)
    torch.mm(one, other)
    return 2 * size**3 / min(timing.seconds(lambda: torch.mm(one, other)) for _ in range(tries))
