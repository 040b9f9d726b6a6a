"""The temporal U-Net with PyTorch's convolutions and group norms, (B, C, T)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.world_models.dima.unet import GROUP


class PlainNorm(nn.Module):
    """Group norm, its scale and shift projected from the condition."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.groups = max(1, channels // GROUP)
        self.linear = nn.Linear(condition_dim, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.linear(condition)[:, :, None].chunk(2, dim=1)
        return F.group_norm(x, self.groups) * (1 + scale) + shift


class PlainResidual(nn.Module):
    """Two convolutions after modulated group norms, and a skip."""

    def __init__(self, channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.skip = nn.Conv1d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        self.norm1, self.norm2 = PlainNorm(channels, condition_dim), PlainNorm(out_channels, condition_dim)
        self.conv1 = nn.Conv1d(channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x, condition)))
        hidden = self.conv2(F.silu(self.norm2(hidden, condition)))
        return self.skip(x) + hidden


class PlainUNet(nn.Module):
    """``(B, T, C_in), (B, D) -> (B, T, C_out)``; arguments as for the library's."""

    def __init__(
        self, in_channels: int, out_channels: int, condition_dim: int, channels: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        self.lift = nn.Conv1d(in_channels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        previous = channels[0]
        for level, width in enumerate(channels):
            self.shrink.append(nn.Conv1d(previous, previous, 3, 2, 1) if level else nn.Identity())
            widths = [previous] + [width] * blocks
            self.down.append(nn.ModuleList(PlainResidual(a, b, condition_dim) for a, b in pairwise(widths)))
            self.up.append(
                nn.ModuleList(
                    PlainResidual(width + skip, width if n < blocks else previous, condition_dim)
                    for n, skip in enumerate(reversed(widths))
                )
            )
            self.grow.append(nn.Conv1d(previous, previous, 3, padding=1) if level else nn.Identity())
            previous = width
        self.middle = nn.ModuleList(PlainResidual(previous, previous, condition_dim) for _ in range(2))
        self.out_norm = nn.GroupNorm(max(1, channels[0] // GROUP), channels[0])
        self.out = nn.Conv1d(channels[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        condition = F.silu(condition)
        x, skips = self.lift(x.transpose(1, 2)), []
        for shrink, level in zip(self.shrink, self.down, strict=True):
            x = shrink(x)
            skips.append(x)
            for block in level:  # type: ignore[attr-defined]
                x = block(x, condition)
                skips.append(x)
        for block in self.middle:
            x = block(x, condition)
        for depth in reversed(range(len(self.up))):
            for block in self.up[depth]:  # type: ignore[attr-defined]
                x = block(torch.cat([x, skips.pop()], dim=1), condition)
            if depth:
                x = self.grow[depth](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.out(F.silu(self.out_norm(x))).transpose(1, 2)

    def copy_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the weights of the library's U-Net from its state dict."""
        mine: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if name.startswith("modulation."):
                continue
            if name.endswith(".skip.weight"):
                mine[name] = weight[..., None]
            elif weight.dim() == 2:  # (C', 3 C) over neighbouring steps -> (C', C, 3)
                mine[name] = weight.unflatten(1, (3, -1)).transpose(1, 2)
            else:
                mine[name] = weight
        blocks = [block for level in self.down for block in level]  # type: ignore[attr-defined]
        blocks += [*self.middle, *(block for level in reversed(self.up) for block in level)]  # type: ignore[call-overload]
        names = {module: name for name, module in self.named_modules()}
        norms = [norm for block in blocks for norm in (block.norm1, block.norm2)]
        sizes = [norm.linear.out_features for norm in norms]
        for kind in ("weight", "bias"):
            for norm, part in zip(norms, weights[f"modulation.{kind}"].split(sizes), strict=True):
                mine[f"{names[norm]}.linear.{kind}"] = part
        self.load_state_dict(mine)
