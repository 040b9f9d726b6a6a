"""The denoiser's backbone: a one-dimensional U-Net over time, steered by a condition vector.

Tokens are time steps, channels are features (DIMA section 3; the layout follows DIAMOND's two-dimensional one).
Arrays are ``(B, T, C)``, and a convolution is one matrix product over neighbouring steps: there are only four.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32  # channels that share their statistics in a group norm


class TimeConv(nn.Module):
    """Width-3 convolution over time, ``(B, T, C) -> (B, ceil(T / stride), C')``, zero padding."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1, zero: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.linear = nn.Linear(3 * channels, out_channels)
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        if steps == 2 and self.stride == 1:  # each step sees both: one dense product, without the zeros
            before, centre, after = self.linear.weight.chunk(3, dim=1)
            both = torch.cat([torch.cat([centre, after], dim=1), torch.cat([before, centre], dim=1)])
            return F.linear(x.flatten(1), both, self.linear.bias.repeat(2)).unflatten(1, (2, -1))
        padded = F.pad(x, (0, 0, 1, 1))
        neighbours = [padded[:, k : k + steps : self.stride] for k in range(3)]
        return self.linear(torch.cat(neighbours, dim=-1))


def group_norm(x: Tensor, groups: int) -> Tensor:
    """(B, T, C): each group of channels has mean 0 and variance 1 over itself and time.

    A layer norm of the groups laid side by side: PyTorch's group norm wants channels before time, and on a CPU the way
    back through it takes several times as long.
    """
    grouped = x.unflatten(-1, (groups, -1)).transpose(1, 2)
    return F.layer_norm(grouped, grouped.shape[2:]).transpose(1, 2).flatten(2)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift come from the condition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = max(1, channels // GROUP)
        self.width = 2 * channels  # how much of the modulation vector it takes

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, group_norm(x, self.groups), 1 + scale)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a skip; the second starts at zero, so the block starts as the identity."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        self.norm1 = AdaptiveGroupNorm(channels)
        self.conv1 = TimeConv(channels, out_channels)
        self.norm2 = AdaptiveGroupNorm(out_channels)
        self.conv2 = TimeConv(out_channels, out_channels, zero=True)
        self.modulation_width = self.norm1.width + self.norm2.width

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        first, second = modulation.split([self.norm1.width, self.norm2.width], dim=-1)
        hidden = self.conv1(F.silu(self.norm1(x, first)))
        hidden = self.conv2(F.silu(self.norm2(hidden, second)))
        return self.skip(x) + hidden


class TemporalUNet(nn.Module):
    """``(B, T, C_in), (B, D) -> (B, T, C_out)``; T must be divisible by ``2 ** (len(channels) - 1)``.

    Args:
        in_channels: features of a time step, C_in.
        out_channels: features of the answer, C_out.
        condition_dim: width D of the condition.
        channels: width of each level; every level after the first halves the time axis.
        blocks: residual blocks on each level, on the way down; one more on the way up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, condition_dim: int, channels: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        self.lift = TimeConv(in_channels, channels[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        previous = channels[0]
        for level, width in enumerate(channels):
            self.shrink.append(TimeConv(previous, previous, stride=2) if level else nn.Identity())
            widths = [previous] + [width] * blocks
            self.down.append(nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths)))
            # on the way up every block takes the features that the way down produced at the same place
            self.up.append(
                nn.ModuleList(
                    ResidualBlock(width + skip, width if n < blocks else previous)
                    for n, skip in enumerate(reversed(widths))
                )
            )
            self.grow.append(TimeConv(previous, previous) if level else nn.Identity())
            previous = width
        self.middle = nn.ModuleList(ResidualBlock(previous, previous) for _ in range(2))
        self.out_norm = nn.GroupNorm(max(1, channels[0] // GROUP), channels[0])
        self.out = TimeConv(channels[0], out_channels, zero=True)
        # one projection yields every block's scales and shifts, in the order the blocks run
        in_order = chain(*_stages(self.down), self.middle, *reversed(_stages(self.up)))
        self.widths = [cast(ResidualBlock, block).modulation_width for block in in_order]
        self.modulation = nn.Linear(condition_dim, sum(self.widths))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = iter(self.modulation(F.silu(condition)).split(self.widths, dim=-1))
        x = self.lift(x)
        skips = []
        for shrink, level in zip(self.shrink, _stages(self.down), strict=True):
            x = shrink(x)
            skips.append(x)
            for block in level:
                x = block(x, next(modulation))
                skips.append(x)
        for block in self.middle:
            x = block(x, next(modulation))
        for depth, level in reversed(list(enumerate(_stages(self.up)))):
            for block in level:
                x = block(torch.cat([x, skips.pop()], dim=-1), next(modulation))
            if depth:
                x = self.grow[depth](x.repeat_interleave(2, dim=1))
        x = self.out_norm(x.transpose(1, 2)).transpose(1, 2)
        return self.out(F.silu(x))


def _stages(levels: nn.ModuleList) -> list[nn.ModuleList]:
    """The blocks of each level, typed."""
    return cast("list[nn.ModuleList]", list(levels))
