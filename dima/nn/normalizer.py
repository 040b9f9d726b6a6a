"""Running normalisation of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GRAIN = torch.finfo(torch.float32).eps  # relative distance between neighbouring float32 numbers
TINY = torch.finfo(torch.float32).tiny  # smallest float32 number of full precision
LIMIT = 1e3  # deviations; none of a million samples is further from their own mean
UNSCALED = (0.01, 100.0)  # sizes of numbers that a network learns to predict without normalisation


class Normalizer(nn.Module):
    """Running mean and variance of each feature; ``forward`` standardises, whatever the feature's unit.

    A feature that never varied by more than float32 resolves is divided by its size if that is above 1: constant ids
    and padding pass unchanged, no constant is large. Before the first update all features pass unchanged. Values are
    bounded by ``LIMIT``, for a feature that was nearly constant until now may be any number of deviations off.

    Statistics are float64; a sample that was stored as float32 is only as exact as that: 0.008 at 1e5.

    Args:
        shape: of one sample, ``(S,)``, ``(N, O)`` or ``()``; samples come as ``(..., *shape)``.
        samples: shape of the number of samples: ``()``, or ``(N, 1)`` where agents may be missing from some.
        least: constants above this are divided by their size; ``TINY`` for rewards, of which 1e-6 may be all there is.
    """

    count: Tensor  # samples, float64, samples seen
    mean: Tensor  # shape, float64
    var: Tensor  # shape, float64, population variance
    shift: Tensor  # shape, float64, subtracted by normalize
    scale: Tensor  # shape, float32, divided by in normalize

    def __init__(self, shape: Sequence[int], least: float = 1.0, samples: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape, self.least = tuple(shape), least
        self.register_buffer("count", torch.zeros(tuple(samples), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape))

    @property
    def varies(self) -> Tensor:
        """Shape, bool: which features vary by more than float32 resolves at their mean."""
        return self.var.sqrt() > GRAIN * self.mean.abs() + TINY

    @torch.no_grad()
    def update(self, x: Tensor, valid: Tensor | None = None) -> None:
        """Add samples to the statistics (Chan's exact merge of two sets of moments).

        Args:
            x: (..., *shape).
            valid: (...) bool, False for samples to ignore; (..., N) where agents are counted apart.
        """
        x, counted = x.reshape(-1, *self.shape).double(), self.count.shape or [1] * len(self.shape)
        if valid is None:
            weight = x.new_ones(len(x), *counted)
        else:
            weight = valid.reshape(-1, *counted).double()
            x = torch.where(weight > 0, x, 0.0)
        fresh = weight.sum(0).reshape(self.count.shape)
        mean = (x * weight).sum(0) / fresh.clamp(min=1)
        square = ((x - mean).square() * weight).sum(0)
        total = (self.count + fresh).clamp(min=1)
        delta = mean - self.mean
        square = self.var * self.count + square + delta.square() * (self.count * fresh / total)
        self.mean.add_(delta * (fresh / total))
        self.var.copy_(square / total)
        self.count.add_(fresh)
        constant, varies = self.mean.abs().clamp(min=self.least), self.varies
        self.shift.copy_(torch.where(varies, self.mean, 0.0))
        self.scale.copy_(torch.where(varies, self.var.sqrt(), constant))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Standardise (..., *shape): the data's units -> standard deviations from the mean."""
        return ((x.double() - self.shift) / self.scale).clamp(-LIMIT, LIMIT).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """Invert :meth:`normalize`, up to its bound."""
        return (x.double() * self.scale + self.shift).float()
