"""The denoiser's backbone: a one-dimensional U-Net over time, modulated by a condition vector.

Positions are time steps, channels are features (docs/reference/dima.md, "Backbone"; the layout follows DIAMOND's
two-dimensional U-Net, arXiv 2405.12399).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32  # channels that share their statistics in a group norm


class TimeConv(nn.Linear):
    """Zero-padded convolution of width 3 over time, ``(B, T, C) -> (B, T', C')``: a linear layer on windows.

    Args:
        channels: C.
        out_channels: C'.
        stride: distance between output steps.
        zero: start with zero weights.
    """

    taps: Tensor  # used by dima.world_models.dima.fused

    def __init__(self, channels: int, out_channels: int, stride: int = 1, zero: bool = False) -> None:
        super().__init__(3 * channels, out_channels)
        self.stride = stride
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        padded = F.pad(x, (0, 0, 1, 1))
        window = torch.cat([padded[:, k : k + steps : self.stride] for k in range(3)], dim=-1)
        return super().forward(window)


def group_norm(x: Tensor) -> Tensor:
    """(B, T, C): each group of channels has mean 0 and variance 1 over its channels and time."""
    return F.group_norm(x.transpose(1, 2), x.shape[-1] // GROUP).transpose(1, 2)


class GroupNorm(nn.Module):
    """Group norm with learnt scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, group_norm(x), self.weight)


class ResidualBlock(nn.Module):
    """Two convolutions after modulated group norms, and a skip; starts as the identity, since conv2 starts at zero."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        self.conv1 = TimeConv(channels, out_channels)
        self.conv2 = TimeConv(out_channels, out_channels, zero=True)
        self.widths = [channels, channels, out_channels, out_channels]  # of its scales and shifts

    def forward(self, x: Tensor, modulation: Iterator[Tensor]) -> Tensor:
        hidden = x
        for conv in (self.conv1, self.conv2):
            scale, shift = next(modulation)[:, None], next(modulation)[:, None]
            hidden = conv(F.silu(torch.addcmul(shift, group_norm(hidden), 1 + scale)))
        skipped: Tensor = self.skip(x)
        return skipped + hidden


class TemporalUNet(nn.Module):
    """The newest of T steps, ``(B, T, C_in), (B, D) -> (B, C_out)``.

    Args:
        steps: T, divisible by ``2 ** (len(channels) - 1)``.
        in_channels: features of a time step, C_in.
        out_channels: features of the output, C_out.
        condition_dim: width D of the condition.
        channels: width of each resolution, multiples of 32; every one after the first halves the time axis.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
    """

    def __init__(
        self,
        steps: int,
        in_channels: int,
        out_channels: int,
        condition_dim: int,
        channels: tuple[int, ...],
        blocks: int,
    ) -> None:
        super().__init__()
        self.lift = TimeConv(in_channels, channels[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        previous = channels[0]
        for depth, width in enumerate(channels):
            self.shrink.append(TimeConv(previous, previous, stride=2) if depth else nn.Identity())
            widths = [previous] + [width] * blocks
            self.down.append(nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths)))
            # on the way up every block also takes the features that the way down produced at the same place
            self.up.append(
                nn.ModuleList(
                    ResidualBlock(width + skip, width if n < blocks else previous)
                    for n, skip in enumerate(reversed(widths))
                )
            )
            self.grow.append(TimeConv(previous, previous) if depth else nn.Identity())
            previous = width
        self.middle = nn.ModuleList(ResidualBlock(previous, previous) for _ in range(2))
        self.out_norm = GroupNorm(channels[0])
        self.out = TimeConv(channels[0], out_channels, zero=True)
        # one projection yields every block's scales and shifts, in the order the blocks run
        in_order = chain(*self._blocks(self.down), self.middle, *reversed(self._blocks(self.up)))
        self.widths = [width for block in in_order for width in cast(ResidualBlock, block).widths]
        self.modulation = nn.Linear(condition_dim, sum(self.widths))

    def prepare(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:meth:`forward` for calls between which the weights stay what they are."""
        return self

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, C_in) tokens and (B, D) condition -> (B, C_out)."""
        modulation = iter(self.modulation(F.silu(condition)).split(self.widths, dim=-1))
        x = self.lift(x)
        skips = []
        for shrink, blocks in zip(self.shrink, self._blocks(self.down), strict=True):
            x = shrink(x)
            skips.append(x)
            for block in blocks:
                x = block(x, modulation)
                skips.append(x)
        for block in self.middle:
            x = block(x, modulation)
        for depth, blocks in reversed(list(enumerate(self._blocks(self.up)))):
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=-1), modulation)
            if depth:
                x = self.grow[depth](x.repeat_interleave(2, dim=1))
        newest: Tensor = self.out(F.silu(self.out_norm(x)))[:, -1]
        return newest

    @staticmethod
    def _blocks(levels: nn.ModuleList) -> list[nn.ModuleList]:
        """The blocks at each resolution, typed."""
        return cast("list[nn.ModuleList]", list(levels))
