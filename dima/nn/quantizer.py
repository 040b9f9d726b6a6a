"""Discrete bottlenecks: a codebook learnt by moving averages, and finite scalar quantisation.

Both map continuous tokens to a finite set and pass gradients straight through.
Sources: van den Oord et al. 2017, appendix A.1 (moving averages); Mentzer et al. 2023, section 3 (FSQ).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.runtime.device import autocast


class VectorQuantizer(nn.Module):
    """Nearest entry of a codebook that follows the tokens by exponential moving averages.

    Args:
        entries: size of the codebook.
        dim: width D of an entry.
        decay: how much of the old averages an update keeps.
        dead_below: entries used less than this (in average tokens per batch) are replaced by tokens of the batch.
    """

    codebook: Tensor  # (K, D)
    usage: Tensor  # (K,) moving average of the tokens that chose an entry, per batch
    total: Tensor  # (K, D) moving average of their sum

    def __init__(self, entries: int, dim: int, decay: float = 0.8, dead_below: float = 0.0) -> None:
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        codebook = torch.empty(entries, dim)
        nn.init.kaiming_uniform_(codebook)
        self.register_buffer("codebook", codebook)
        # every entry starts as if it had won one token, itself: an unused one stays where it is while both fade
        self.register_buffer("usage", torch.ones(entries))
        self.register_buffer("total", codebook.clone())

    def nearest(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (...,) index of the nearest entry."""
        flat = tokens.reshape(-1, tokens.shape[-1])
        # the squared length of the token is the same for every entry
        with autocast(flat.device, "float32"):  # entries lie close together
            distance = torch.addmm(self.codebook.square().sum(-1), flat, self.codebook.T, alpha=-2)
        return distance.argmin(dim=-1).reshape(tokens.shape[:-1])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> quantised tokens, their indices, and the commitment loss (a scalar)."""
        index = self.nearest(tokens.detach())
        quantized = F.embedding(index, self.codebook)
        commitment = (tokens - quantized).square().mean()
        if self.training:
            self._follow(tokens.detach(), index)
        return tokens + (quantized - tokens).detach(), index, commitment

    @torch.no_grad()
    def _follow(self, tokens: Tensor, index: Tensor) -> None:
        flat, index = tokens.reshape(-1, tokens.shape[-1]).to(self.total.dtype), index.reshape(-1)
        count = torch.zeros_like(self.usage).index_add_(0, index, torch.ones_like(index, dtype=self.usage.dtype))
        total = torch.zeros_like(self.total).index_add_(0, index, flat)
        self.usage.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        # Laplace smoothing keeps rarely used entries from dividing by almost nothing
        size = self.usage.sum()
        smooth = (self.usage + 1e-5) / (size + 1e-5 * len(self.usage)) * size
        self.codebook.copy_(self.total / smooth[:, None])
        if self.dead_below:
            self._revive(flat)

    def _revive(self, flat: Tensor) -> None:
        """Move dead entries onto random tokens of the batch (fixed shapes: every entry draws a token)."""
        dead = (self.usage < self.dead_below)[:, None]
        fresh = flat[torch.randint(len(flat), (len(self.usage),), device=flat.device)]
        self.codebook.copy_(torch.where(dead, fresh, self.codebook))
        self.total.copy_(torch.where(dead, fresh * self.dead_below, self.total))
        self.usage.copy_(torch.where(dead[:, 0], self.dead_below, self.usage))


class FiniteScalarQuantizer(nn.Module):
    """Each coordinate of a token is rounded to a fixed number of levels; the codebook is their product.

    Args:
        levels: number of levels of each coordinate; tokens have ``len(levels)`` coordinates.
    """

    reach: Tensor
    shift: Tensor
    offset: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        count = torch.tensor(levels)
        half = (count - 1) * (1 + 1e-3) / 2
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        self.register_buffer("reach", half)
        self.register_buffer("offset", offset)
        self.register_buffer("shift", (offset / half).atanh())
        self.register_buffer("scale", count // 2)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(strides))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., len(levels)) -> quantised tokens in [-1, 1], their indices, and a commitment loss of zero."""
        bounded = (tokens + self.shift).tanh() * self.reach - self.offset
        rounded = bounded + (bounded.round() - bounded).detach()
        index = ((rounded.detach() + self.scale) * self.basis).sum(-1).long()
        return rounded / self.scale, index, tokens.new_zeros(())
