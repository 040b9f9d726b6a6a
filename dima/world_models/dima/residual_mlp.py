"""The denoiser's backbone for state vectors: a residual MLP modulated by a condition vector.

Pre-norm residual blocks whose layer norms take scale and shift from the condition, as in DiT (arXiv 2212.09748,
section 3.2). A state vector has no order along which a convolution could share weights: at equal processor time this
network predicts more exactly than the U-Net (docs/world-models.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 2  # hidden width of a block, in widths of the block


class ModulatedBlock(nn.Module):
    """Two layers after a modulated layer norm, and a skip; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(width, EXPANSION * width)
        self.lower = zeroed(nn.Linear(EXPANSION * width, width))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        hidden = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)
        out: Tensor = x + self.lower(F.silu(self.lift(hidden)))
        return out


class ResidualMLP(nn.Module):
    """The newest of T steps, ``(B, T, C_in), (B, D) -> (B, C_out)``; all steps are one input vector.

    Args:
        steps: T.
        in_channels: features of a time step, C_in.
        out_channels: features of the output, C_out.
        condition_dim: width D of the condition.
        width: of the residual blocks.
        blocks: how many there are.
    """

    def __init__(
        self, steps: int, in_channels: int, out_channels: int, condition_dim: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(steps * in_channels, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(blocks))
        self.modulation = nn.Linear(condition_dim, 2 * width * blocks)
        self.norm = nn.LayerNorm(width)
        self.out = zeroed(nn.Linear(width, out_channels))

    def prepare(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:meth:`forward` for calls between which the weights stay what they are."""
        return self

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, C_in) tokens and (B, D) condition -> (B, C_out)."""
        modulation = self.modulation(F.silu(condition)).chunk(2 * len(self.blocks), dim=-1)
        x = self.lift(x.flatten(1))
        for block, scale, shift in zip(self.blocks, modulation[::2], modulation[1::2], strict=True):
            x = block(x, scale, shift)
        newest: Tensor = self.out(self.norm(x))
        return newest


def zeroed(linear: nn.Linear) -> nn.Linear:
    """Start a layer at zero."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
