"""Seconds and floating-point operations of a block.

FLOPs are those of matrix products and convolutions, 2 for a multiply-add; norms, activations and optimisers are timed,
not counted. Padded agents and masked attention entries count in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """Seconds and floating-point operations."""

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


def parameters(module: Any) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in module.parameters())
