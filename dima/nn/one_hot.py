"""Linear layer of one-hot choices: the rows that they choose, added up, in place of a product with zeros."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.nn.mlp import RowwiseSequential

MIN_ROWS = 256  # of fewer inputs the product costs less than the transposed copy of the matrix


class OneHotLinear(nn.Linear):
    """A linear layer whose input begins with one-hot choices, ``(..., C * K + R) -> (..., O)``.

    Equal to the layer up to rounding, gradients included. On a GPU, under autocast and in exported programs it is the
    product.

    Args:
        linear: the layer, whose parameters this one shares.
        variables: number C of choices, side by side.
        classes: number K of classes of each.
    """

    place: Tensor  # (C * K, C) of a class, in the column of its choice
    first: Tensor  # (C,) row of the matrix that belongs to the first class

    def __init__(self, linear: nn.Linear, variables: int, classes: int) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")  # draws no random numbers
        self.weight, self.bias = linear.weight, linear.bias
        place = torch.block_diag(*torch.arange(float(classes)).expand(variables, 1, -1).mT)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("first", torch.arange(variables) * classes, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        product = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or x.device.type != "cpu"
        if product or x.shape[:-1].numel() < MIN_ROWS:
            return super().forward(x)
        rows, width = x.flatten(0, -2), len(self.place)
        chosen, table = rows[:, :width], self.weight[:, :width]
        with torch.no_grad():
            row = (chosen @ self.place).round().long() + self.first
        added: Tensor = F.embedding_bag(row, table.t().contiguous(), mode="sum")
        added = _ProductGradient.apply(added, chosen, table.detach())  # type: ignore[no-untyped-call]
        out = added + F.linear(rows[:, width:], self.weight[:, width:], self.bias)
        return out.unflatten(0, x.shape[:-1])


class _ProductGradient(torch.autograd.Function):
    """Give choices the gradient of their product with a matrix (straight-through samples need it); changes no value."""

    @staticmethod
    def forward(ctx: Any, added: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return added.view_as(added)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return gradient, gradient @ ctx.saved_tensors[0] if ctx.needs_input_grad[1] else None, None


def begin_one_hot(net: RowwiseSequential, variables: int, classes: int) -> RowwiseSequential:
    """Make the first layer of an MLP, in place, a :class:`OneHotLinear`."""
    first = net[0]
    assert isinstance(first, nn.Linear)
    net[0] = OneHotLinear(first, variables, classes)
    return net
