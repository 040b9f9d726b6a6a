"""Attention as a softmax of products, with the library's parameter names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainFeedForward(nn.Module):
    """Pre-norm GEGLU feed-forward layer with its residual, ``(..., D) -> (..., D)``."""

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.lift = nn.Linear(dim, 2 * expansion * dim)
        self.lower = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.lift(self.norm(x)).chunk(2, dim=-1)
        return x + self.lower(value * F.gelu(gate))


class PlainAttention(nn.Module):
    """Pre-norm multi-head attention with its residual: softmax(Q Kᵀ / √d) V, every score in memory."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, context_dim: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim) if context_dim is not None else None
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(context_dim or dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., L, D), (..., M, D') -> (..., L, D); ``mask`` is True where attention is allowed."""
        x_normed = self.norm(x)
        key, value = self.keys_values(x_normed if self.context_norm is None else self.context_norm(context))
        return x + self.attend(x_normed, key, value, mask)

    def keys_values(self, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Normed tokens (..., M, D') -> split keys and values (..., heads, M, d)."""
        key, value = self.key_value(attended).chunk(2, dim=-1)
        return self.split(key), self.split(value)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Normed queries (..., L, D) over split keys and values (..., heads, M, d), projected to (..., L, D)."""
        return self.out(self.mix(query, key, value, mask))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention before its output projection, (..., L, heads * d)."""
        query = self.split(self.query(query))
        score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            score = score.masked_fill(~mask, -torch.inf)
        out = self.dropout(score.softmax(dim=-1)) @ value
        return out.transpose(-3, -2).flatten(-2)

    def split(self, x: Tensor) -> Tensor:
        """(..., L, heads * d) -> (..., heads, L, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class PlainBlock(nn.Module):
    """A Transformer block over a growing cache of keys and values."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = PlainAttention(dim, heads, dim // heads, dropout=dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(..., L, D) -> (..., L, D), and the keys and values so far."""
        attention, normed = self.attention, self.attention.norm(x)
        key, value = attention.keys_values(normed)
        if cache is not None:
            key, value = torch.cat([cache[0], key], dim=-2), torch.cat([cache[1], value], dim=-2)
        x = x + self.dropout(attention.attend(normed, key, value, mask))
        return x + self.feed(x), (key, value)
