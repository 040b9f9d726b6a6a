"""Running normalisation of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Running mean and variance of each feature; ``forward`` standardises, in float32.

    Features that (nearly) never vary pass through unchanged, so constant ids and padding survive. Before the first
    update all features do.

    Args:
        shape: of one sample, ``(S,)``, ``(N, O)`` or ``()``; samples come as ``(..., *shape)``.
    """

    count: Tensor  # () float64, samples seen
    mean: Tensor  # shape, float64
    var: Tensor  # shape, float64, population variance
    shift: Tensor  # shape, float32, subtracted by normalize
    scale: Tensor  # shape, float32, divided by in normalize

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(self.shape))

    @torch.no_grad()
    def update(self, x: Tensor, valid: Tensor | None = None) -> None:
        """Add samples to the statistics (Chan's exact merge of two sets of moments).

        Args:
            x: (..., *shape).
            valid: (...) bool, False for samples to ignore.
        """
        x = x.reshape(-1, *self.shape).double()
        if valid is None:
            weight = x.new_ones(len(x), *(1 for _ in self.shape))
        else:
            weight = valid.reshape(-1, *(1 for _ in self.shape)).double()
            x = torch.where(weight > 0, x, 0.0)
        fresh = weight.sum()
        mean = (x * weight).sum(0) / fresh.clamp(min=1)
        square = ((x - mean).square() * weight).sum(0)
        total = (self.count + fresh).clamp(min=1)
        delta = mean - self.mean
        square = self.var * self.count + square + delta.square() * (self.count * fresh / total)
        self.mean.add_(delta * (fresh / total))
        self.var.copy_(square / total)
        self.count.add_(fresh)
        # a standard deviation below 1e-4, or below float32 resolution at this mean, counts as no variation
        varies = self.var > 1e-8 + 1e-10 * self.mean.square()
        self.shift.copy_(torch.where(varies, self.mean, 0.0))
        self.scale.copy_(torch.where(varies, self.var.sqrt(), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Standardise (..., *shape): the data's units -> standard deviations from the mean."""
        return ((x - self.shift) / self.scale).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """Invert :meth:`normalize`."""
        return (x * self.scale + self.shift).float()
