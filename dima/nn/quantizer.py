"""Discrete bottlenecks: vector quantisation with an EMA codebook, and finite scalar quantisation (FSQ).

Both map continuous tokens to a finite set, with straight-through gradients.
Sources: van den Oord et al. 2017, appendix A.1 (EMA codebook); Mentzer et al. 2023, section 3 (FSQ).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.runtime.device import autocast


class VectorQuantizer(nn.Module):
    """Vector quantisation by the nearest entry of a codebook of exponential moving averages.

    Args:
        entries: size K of the codebook.
        dim: width D of an entry.
        decay: of the moving averages.
        dead_below: entries with a smaller usage (tokens per batch, averaged) are replaced by tokens of the batch.
        usage: tokens that each entry counts before the first batch, at its initial place. With 0 an unused entry is
            thrown far out by the first batch and comes back as its total decays: it may pass where the data is.
    """

    codebook: Tensor  # (K, D)
    usage: Tensor  # (K,) moving average of the number of tokens assigned to an entry, per batch
    total: Tensor  # (K, D) moving average of their sum

    def __init__(self, entries: int, dim: int, decay: float = 0.8, dead_below: float = 0.0, usage: float = 1.0) -> None:
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        codebook = torch.empty(entries, dim)
        nn.init.kaiming_uniform_(codebook)
        self.register_buffer("codebook", codebook)
        # with one token, itself, an unused entry keeps its value while usage and total decay
        self.register_buffer("usage", torch.full((entries,), usage))
        self.register_buffer("total", codebook.clone())

    def index(self, tokens: Tensor) -> Tensor:
        """Index of the nearest entry; (..., D) -> (...,)."""
        flat = tokens.reshape(-1, tokens.shape[-1])
        # squared distance up to the token's squared norm, which is the same for every entry
        with autocast(flat.device, "float32"):  # entries lie close together
            distance = torch.addmm(self.codebook.square().sum(-1), flat, self.codebook.T, alpha=-2)
        return distance.argmin(dim=-1).reshape(tokens.shape[:-1])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise (..., D): tokens of the same shape, indices (...,), and the commitment loss ()."""
        index = self.index(tokens.detach())
        quantized = self.entries(index)
        commitment = (tokens - quantized).square().mean()
        if self.training:
            self._update_codebook(tokens.detach(), index)
        return tokens + (quantized - tokens).detach(), index, commitment

    def entries(self, index: Tensor) -> Tensor:
        """The entries of indices; (...,) -> (..., D)."""
        return F.embedding(index, self.codebook)

    @torch.no_grad()
    def _update_codebook(self, tokens: Tensor, index: Tensor) -> None:
        flat, index = tokens.reshape(-1, tokens.shape[-1]).to(self.total.dtype), index.reshape(-1)
        count = torch.zeros_like(self.usage).index_add_(0, index, torch.ones_like(index, dtype=self.usage.dtype))
        total = torch.zeros_like(self.total).index_add_(0, index, flat)
        self.usage.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        # Laplace smoothing avoids dividing by a usage near zero
        size = self.usage.sum()
        smooth = (self.usage + 1e-5) / (size + 1e-5 * len(self.usage)) * size
        self.codebook.copy_(self.total / smooth[:, None])
        if self.dead_below:
            self._replace_dead(flat)

    def _replace_dead(self, flat: Tensor) -> None:
        """Replace dead entries by random tokens of the batch (drawn for every entry: fixed shapes)."""
        dead = (self.usage < self.dead_below)[:, None]
        fresh = flat[torch.randint(len(flat), (len(self.usage),), device=flat.device)]
        self.codebook.copy_(torch.where(dead, fresh, self.codebook))
        self.total.copy_(torch.where(dead, fresh * self.dead_below, self.total))
        self.usage.copy_(torch.where(dead[:, 0], self.dead_below, self.usage))


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantisation: each coordinate of a token is rounded to a fixed number of levels.

    Args:
        levels: number of levels of each coordinate; tokens have ``len(levels)`` coordinates.
    """

    reach: Tensor
    count: Tensor  # levels of each coordinate
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
        self.register_buffer("count", count, persistent=False)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(strides))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise (..., len(levels)): tokens in [-1, 1], indices (...,), and a commitment loss () of zero."""
        bounded = (tokens + self.shift).tanh() * self.reach - self.offset
        rounded = bounded + (bounded.round() - bounded).detach()
        index = ((rounded.detach() + self.scale) * self.basis).sum(-1).long()
        return rounded / self.scale, index, tokens.new_zeros(())

    def index(self, tokens: Tensor) -> Tensor:
        """Index of the nearest levels; (..., len(levels)) -> (...,)."""
        return self(tokens)[1]

    def entries(self, index: Tensor) -> Tensor:
        """The quantised tokens of indices; (...,) -> (..., len(levels))."""
        return (index[..., None] // self.basis % self.count - self.scale) / self.scale
