"""What a piece of work costs: wall seconds, floating-point operations, peak memory, and what the device could do.

FLOPs are those of matrix products and convolutions, 2 for a multiply-add; norms, activations and optimisers are timed,
not counted. Padded agents and masked attention entries count in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_ATTENTION = {  # PyTorch's counter misses the CPU's
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass
class Cost:
    """Wall seconds and floating-point operations."""

    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.flops + other.flops)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.seconds * times, self.flops * times)


class Counter(TorchDispatchMode):
    """Adds up the operations of a block by the formulas of PyTorch's ``FlopCounterMode``.

    That one also follows modules, which fails where weights that require gradients are used without. What
    ``torch.compile`` made of a function is not seen: count the same function as it was before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func._overloadpacket
        if operation in _ATTENTION:
            self.flops += _ATTENTION[operation](*(getattr(value, "shape", value) for value in args))
        elif operation in flop_registry:
            self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def cost_of(name: str, costs: dict[str, Cost], count: Counter, device: torch.device) -> Iterator[None]:
    """Add what the block takes to ``costs[name]``."""
    synchronize(device)
    began, before = time.perf_counter(), count.flops
    yield
    synchronize(device)
    spent = Cost(time.perf_counter() - began, count.flops - before)
    costs[name] = costs.get(name, Cost()) + spent


@contextmanager
def watched(
    places: dict[str, tuple[Any, str]], costs: dict[str, Cost], count: Counter, device: torch.device
) -> Iterator[None]:
    """While the block runs, add what each (object, method) takes to its part's cost."""

    def watch(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with cost_of(name, costs, count, device):
                return method(*args, **kwargs)

        return call

    for name, (owner, method) in places.items():
        owner.__dict__[method] = watch(name, getattr(owner, method))
    try:
        yield
    finally:
        for owner, method in places.values():
            del owner.__dict__[method]


def synchronize(device: torch.device) -> None:
    """Wait until everything that was launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def interleaved(
    variants: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every call of every variant, A B, B A, A B, ...: what disturbs the machine disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name in list(variants) if repeat % 2 == 0 else reversed(list(variants)):
            seconds[name].append(seconds_of(variants[name], device))
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as long ``slow`` takes: the median over repeats, each against its neighbour."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes in use while the call runs: of the device, or, on a CPU, of this process; None where unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: begin the high-water mark anew
        call()
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) * 1024
    call()
    return None


def ceiling(device: torch.device, dtype: torch.dtype, size: int = 0, tries: int = 5) -> float:
    """Operations per second of a large matrix product, the best of some tries: what this device can do at most."""
    size = size or (8192 if device.type == "cuda" else 2048)
    one, other = torch.randn(2, size, size, device=device, dtype=dtype).unbind(0)
    torch.mm(one, other)
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(one, other), device) for _ in range(tries))


def parameters(module: Any) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in module.parameters())
