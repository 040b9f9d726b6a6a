"""Dropout with cheap random numbers on a CPU, where PyTorch draws one for each element."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 16  # of a draw; a probability is met to 2**-17


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the same draws in compiled modules
def keep_mask(shape: torch.Size, dropout: float) -> Tensor:
    """Bools on the CPU, True with probability 1 - ``dropout``: four draws from each 64 random bits."""
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: shape.numel()].view(shape)
    return draws >= round(dropout * 2**BITS) - 2 ** (BITS - 1)


def dropout(x: Tensor, probability: float) -> Tensor:
    """``x`` with elements set to zero with this probability, the others divided by one minus it."""
    if not probability:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    return x * keep_mask(x.shape, probability).to(x.dtype).mul_(1 / (1 - probability))


class Dropout(nn.Module):
    """:func:`dropout` while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability) if self.training else x
