"""Pre-norm attention, feed-forward and Transformer blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.nn.blocked_attention import blocked_attention
from dima.nn.dropout import Dropout

KeysValues = tuple[Tensor, Tensor]  # (..., heads, M, head_dim) each


class GegluFeedForward(nn.Module):
    """Pre-norm feed-forward layer with a gated GELU, ``(..., D) -> (..., D)``, residual included."""

    def __init__(self, dim: int, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.lift = nn.Linear(dim, 2 * expansion * dim)
        self.lower = nn.Linear(expansion * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.lift(self.norm(x)).chunk(2, dim=-1)
        change: Tensor = self.dropout(self.lower(value * F.gelu(gate)))
        return x + change


class Attention(nn.Module):
    """Pre-norm multi-head attention with its residual, ``(..., L, D) -> (..., L, D)``.

    Args:
        dim: width D of the queries.
        heads: number of heads.
        head_dim: width of a head.
        context_dim: width of the attended tokens; ``None`` means self-attention.
        dropout: probability of dropping an attention weight while training.
        bias: of queries, keys and values.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        context_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim) if context_dim is not None else None
        self.query = nn.Linear(dim, inner, bias=bias)
        self.key_value = nn.Linear(dim if context_dim is None else context_dim, 2 * inner, bias=bias)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from ``x`` to ``context`` (itself by default).

        Args:
            x: (..., L, D).
            context: (..., M, D'), for cross-attention.
            mask: boolean, broadcast to (..., heads, L, M), True where attention is allowed.
        """
        query = self.norm(x)
        keys, values = self.keys_values(query if self.context_norm is None else self.context_norm(context))
        return x + self.attend(query, keys, values, mask)

    def keys_values(self, attended: Tensor) -> KeysValues:
        """Keys and values of normed tokens (..., M, D'), (..., heads, M, head_dim) each."""
        keys, values = self.key_value(attended).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of normed queries (..., L, D) over split keys and values, projected, without the residual."""
        return self.out(self.mix(query, keys, values, mask))

    def mix(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention before its output projection, (..., L, heads * head_dim)."""
        query = self.split(self.query(query)).expand(*keys.shape[:-2], -1, -1)
        mixed = softmax_attention(query, keys, values, mask, self.dropout if self.training else 0.0)
        return mixed.transpose(-3, -2).flatten(-2)

    def split(self, x: Tensor) -> Tensor:
        """Split heads: (..., L, heads * head_dim) -> (..., heads, L, head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward with dropout; can run step by step along keys and values.

    Args:
        dim: width of the tokens.
        heads: number of heads, ``dim / heads`` wide each.
        dropout: probability of dropping an attention weight or a residual feature while training.
        bias: of queries, keys and values.
    """

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool = False) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dim // heads, dropout=dropout, bias=bias)
        self.feed = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within ``x`` (..., L, D); ``mask`` as for :class:`Attention`."""
        return self.step(x, mask)[0]

    def step(self, x: Tensor, mask: Tensor | None, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """Attend to the tokens of the past and then within ``x`` (..., L, D).

        Args:
            x: new tokens.
            mask: boolean, broadcast to (..., heads, L, M + L), True where attention is allowed.
            past: keys and values of the M tokens before.

        Returns:
            The new tokens' features (..., L, D), and the keys and values of all tokens so far.
        """
        query = self.attention.norm(x)
        keys, values = self.attention.keys_values(query)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=-2), torch.cat([past[1], values], dim=-2)
        x = x + self.dropout(self.attention.attend(query, keys, values, mask))
        return x + self.feed(x), (keys, values)


def softmax_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of queries (..., L, E) to keys and values (..., M, E), by the fastest way.

    Args:
        query: of each head.
        keys: of each head.
        values: of each head.
        mask: boolean, (L, M) or one for each sequence (B, 1, L, M), True where attention is allowed, for each query
            somewhere; None: everywhere.
        dropout: probability of dropping an attention weight.
    """
    if dropout and query.dim() == 4 and query.device.type == "cpu" and query.dtype == torch.float32:
        return blocked_attention(query, keys, values, mask, dropout)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
