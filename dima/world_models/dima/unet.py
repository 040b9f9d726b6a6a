"""The denoiser's backbone: a one-dimensional U-Net over time, steered by a condition vector.

Tokens are time steps, channels are features (DIMA section 3; the layout follows DIAMOND's two-dimensional one).

There are only a few steps, so a convolution is one dense product over all of them, by a matrix that is laid out once
for many calls (:meth:`TemporalUNet.kernels`). Channels of one group norm lie together, ``(B, G, T, C)``: then a group
is contiguous, and nothing is moved between a convolution and the norms around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32  # channels that share their statistics in a group norm

Shape = tuple[int, int]  # groups and channels in each
Kernel = tuple[Tensor, Tensor]  # a convolution as a dense layer: (G' T' C', G T C) weight and (G' T' C') bias


class TimeConv(nn.Module):
    """Width-3 convolution over time, ``(B, G, T, C) -> (B, G', T', C')``.

    Args:
        channels: G and C.
        out_channels: G' and C'.
        taps: (T', T, 3) from :func:`taps`.
        zero: start with zero weights.
    """

    taps: Tensor

    def __init__(self, channels: Shape, out_channels: Shape, taps: Tensor, zero: bool = False) -> None:
        super().__init__()
        self.channels, self.out_channels = channels, out_channels
        self.register_buffer("taps", taps, persistent=False)
        self.linear = nn.Linear(3 * channels[0] * channels[1], out_channels[0] * out_channels[1])
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def kernel(self) -> Kernel:
        """The weight of every input step in every output step."""
        weight = self.linear.weight.view(*self.out_channels, 3, *self.channels)
        steps = self.taps.shape[0]
        dense = torch.einsum("otk,ghkij->gohitj", self.taps, weight).flatten(3).flatten(0, 2)
        bias = self.linear.bias.view(self.out_channels[0], 1, -1).expand(-1, steps, -1).flatten()
        return dense, bias

    def forward(self, x: Tensor, kernel: Kernel) -> Tensor:
        """Apply :meth:`kernel`."""
        steps = self.taps.shape[0]
        return F.linear(x.flatten(1), *kernel).view(-1, self.out_channels[0], steps, self.out_channels[1])


Kernels = dict[TimeConv, Kernel]


def taps(steps: int, stride: int = 1, repeat: int = 1) -> Tensor:
    """(T', T, 3): how often each weight of a zero-padded width-3 convolution joins an input step to an output step.

    Args:
        steps: T.
        stride: distance of output steps.
        repeat: how often every input step is repeated before the convolution.
    """
    wide = F.pad(torch.eye(repeat * steps), (0, 0, 1, 1))
    joined = torch.stack([wide[k : k + repeat * steps : stride] for k in range(3)], dim=-1)
    return joined.unflatten(1, (steps, repeat)).sum(2)


def group_norm(x: Tensor) -> Tensor:
    """(B, G, T, C): each group has mean 0 and variance 1 over its channels and time."""
    return F.layer_norm(x, x.shape[2:])


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift come from the condition."""

    def __init__(self, channels: Shape) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, steering: Iterator[Tensor]) -> Tensor:
        scale, shift = (next(steering).unflatten(-1, (self.channels[0], 1, -1)) for _ in range(2))
        return torch.addcmul(shift, group_norm(x), 1 + scale)


class GroupNorm(nn.Module):
    """Group norm whose scale and shift are learnt."""

    def __init__(self, channels: Shape) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels[0] * channels[1]))
        self.bias = nn.Parameter(torch.zeros(channels[0] * channels[1]))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p.view(self.channels[0], 1, -1) for p in (self.weight, self.bias))
        return torch.addcmul(bias, group_norm(x), weight)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a skip; the second starts at zero, so the block starts as the identity."""

    def __init__(self, channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        here, there, every = _grouped(channels), _grouped(out_channels), taps(steps)
        self.out_channels = there
        self.skip = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        self.norm1 = AdaptiveGroupNorm(here)
        self.conv1 = TimeConv(here, there, every)
        self.norm2 = AdaptiveGroupNorm(there)
        self.conv2 = TimeConv(there, there, every, zero=True)

    @property
    def modulated(self) -> list[int]:
        """How many channels each scale and shift is for, in the order they are taken."""
        return [math.prod(norm.channels) for norm in (self.norm1, self.norm2) for _ in range(2)]

    def forward(self, x: Tensor, steering: Iterator[Tensor], kernels: Kernels) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x, steering)), kernels[self.conv1])
        hidden = self.conv2(F.silu(self.norm2(hidden, steering)), kernels[self.conv2])
        if isinstance(self.skip, nn.Linear):  # it mixes the channels of each step
            x = self.skip(x.transpose(1, 2).flatten(2)).unflatten(2, self.out_channels).transpose(1, 2)
        return hidden + x


class TemporalUNet(nn.Module):
    """The newest of T steps, ``(B, T, C_in), (B, M) -> (B, C_out)``.

    Args:
        steps: T, divisible by ``2 ** (len(channels) - 1)``.
        in_channels: features of a time step, C_in.
        out_channels: features of the answer, C_out.
        condition_dim: width of the condition.
        channels: width of each level, multiples of 32; every level after the first halves the time axis.
        blocks: residual blocks on each level, on the way down; one more on the way up.
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
        self.lift = TimeConv((1, in_channels), _grouped(channels[0]), taps(steps))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        previous, left = channels[0], steps
        for level, width in enumerate(channels):
            same = _grouped(previous), _grouped(previous)
            self.shrink.append(TimeConv(*same, taps(left, stride=2)) if level else nn.Identity())
            left = left // 2 if level else left
            widths = [previous] + [width] * blocks
            self.down.append(nn.ModuleList(ResidualBlock(a, b, left) for a, b in pairwise(widths)))
            # on the way up every block takes the features that the way down produced at the same place
            self.up.append(
                nn.ModuleList(
                    ResidualBlock(width + skip, width if n < blocks else previous, left)
                    for n, skip in enumerate(reversed(widths))
                )
            )
            self.grow.append(TimeConv(*same, taps(left, repeat=2)) if level else nn.Identity())
            previous = width
        self.middle = nn.ModuleList(ResidualBlock(previous, previous, left) for _ in range(2))
        self.out_norm = GroupNorm(_grouped(channels[0]))
        self.out = TimeConv(_grouped(channels[0]), (1, out_channels), taps(steps)[-1:], zero=True)
        # one projection yields every block's scales and shifts, in the order the blocks run
        in_order = chain(*_stages(self.down), self.middle, *reversed(_stages(self.up)))
        self.widths = [width for block in in_order for width in cast(ResidualBlock, block).modulated]
        self.modulation = nn.Linear(condition_dim, sum(self.widths))

    def kernels(self) -> Kernels:
        """Every convolution as a dense layer, for as many calls as the weights stay what they are."""
        return {conv: conv.kernel() for conv in self.modules() if isinstance(conv, TimeConv)}

    def steer(self, condition: Tensor) -> Tensor:
        """(..., D) condition -> (..., M) scales and shifts of all norms."""
        modulation: Tensor = self.modulation(F.silu(condition))
        return modulation

    def forward(self, x: Tensor, modulation: Tensor, kernels: Kernels) -> Tensor:
        """Apply the network.

        Args:
            x: (B, T, C_in).
            modulation: (B, M) from :meth:`steer`.
            kernels: from :meth:`kernels`.
        """
        steering = iter(modulation.split(self.widths, dim=-1))  # once: its way back is one concatenation
        x = self.lift(x[:, None], kernels[self.lift])
        skips = []
        for shrink, level in zip(self.shrink, _stages(self.down), strict=True):
            if isinstance(shrink, TimeConv):
                x = shrink(x, kernels[shrink])
            skips.append(x)
            for block in level:
                x = block(x, steering, kernels)
                skips.append(x)
        for block in self.middle:
            x = block(x, steering, kernels)
        for grow, level in zip(reversed(self.grow), reversed(_stages(self.up)), strict=True):
            for block in level:
                x = block(torch.cat([x, skips.pop()], dim=1), steering, kernels)
            if isinstance(grow, TimeConv):
                x = grow(x, kernels[grow])
        return self.out(F.silu(self.out_norm(x)), kernels[self.out]).flatten(1)


def _grouped(channels: int) -> Shape:
    return channels // GROUP, GROUP


def _stages(levels: nn.ModuleList) -> list[nn.ModuleList]:
    """The blocks of each level, typed."""
    return cast("list[nn.ModuleList]", list(levels))
