"""Regression by classification: HL-Gauss targets (Imani and White 2018, arXiv 1806.04613), and symlog."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


class HLGauss(nn.Module):
    """A number as a histogram: the mass of a Gaussian around it in each of equal bins.

    Args:
        low: lower end of the bins; targets below count as ``low``.
        high: upper end.
        bins: number of bins.
        sigma: standard deviation of the Gaussian, in bins.
    """

    edges: Tensor  # (bins + 1,)
    centres: Tensor  # (bins,)

    def __init__(self, low: float, high: float, bins: int, sigma: float = 0.75) -> None:
        super().__init__()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        self.sigma = sigma * (high - low) / bins
        self.register_buffer("edges", edges.float(), persistent=False)
        self.register_buffer("centres", ((edges[1:] + edges[:-1]) / 2).float(), persistent=False)

    def encode(self, target: Tensor) -> Tensor:
        """(...) -> (..., bins) probabilities."""
        target = target.clamp(self.edges[0], self.edges[-1])  # further out all masses would underflow
        below = torch.special.erf((self.edges - target[..., None]) / (math.sqrt(2) * self.sigma))
        mass = below.diff(dim=-1)
        return mass / mass.sum(-1, keepdim=True)

    def decode(self, logits: Tensor) -> Tensor:
        """(..., bins) -> (...) mean of the histogram."""
        return (logits.softmax(-1) * self.centres).sum(-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy (...) of logits (..., bins) with the histogram of a target (...)."""
        return -(self.encode(target) * logits.log_softmax(-1)).sum(-1)
