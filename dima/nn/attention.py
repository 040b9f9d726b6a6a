"""Pre-norm attention, feed-forward and Transformer blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GegluFeedForward(nn.Module):
    """Pre-norm feed-forward layer with a gated GELU, ``(..., D) -> (..., D)``, residual included."""

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.lift = nn.Linear(dim, 2 * expansion * dim)
        self.lower = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lower(self._gated(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Mean of ``forward(x)`` over L, for x (..., L, D); the last layer is linear, so it is applied to the mean."""
        return x.mean(dim=-2) + self.lower(self._gated(x).mean(dim=-2))

    def after(self, common: Tensor, mixed: Tensor, out: nn.Linear) -> Tensor:
        """Compute ``forward(common + out(mixed))`` with the first layer folded into ``out``.

        Apart from its division a layer norm is linear. So norm and first layer are applied once to ``common`` and to
        the columns of ``out``, and each row mixes the results with its narrow ``mixed``.

        Args:
            common: (L, D), the same for every row.
            mixed: (..., L, I).
            out: I -> D.
        """
        x = common + out(mixed)
        variance = _centred(x).square().mean(dim=-1, keepdim=True)  # many times faster than var on a CPU
        scale = (variance + self.norm.eps).rsqrt()
        folded = torch.cat([_centred(out.weight.mT), _centred(common + out.bias)])  # (I + L, D)
        lifted = F.linear(folded, self.lift.weight * self.norm.weight)  # (I + L, 2E)
        position = torch.eye(len(common), dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1)
        coordinates = scale * torch.cat([mixed, position], dim=-1)  # (..., L, I + L)
        bias = F.linear(self.norm.bias, self.lift.weight, self.lift.bias)
        return x + self.lower(_geglu(F.linear(coordinates, lifted.mT, bias)))

    def _gated(self, x: Tensor) -> Tensor:
        return _geglu(self.lift(self.norm(x)))


def _geglu(lifted: Tensor) -> Tensor:
    value, gate = lifted.chunk(2, dim=-1)
    return value * F.gelu(gate)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


class Attention(nn.Module):
    """Pre-norm multi-head attention with its residual, ``(..., L, D) -> (..., L, D)``.

    Args:
        dim: width D of the queries.
        heads: number of heads.
        head_dim: width of a head.
        context_dim: width of the attended tokens; ``None`` means self-attention.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, context_dim: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim) if context_dim is not None else None
        self.query = nn.Linear(dim, inner, bias=False)
        self.key_value = nn.Linear(dim if context_dim is None else context_dim, 2 * inner, bias=False)
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

    def keys_values(self, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of normed tokens (..., M, D'), (..., heads, M, head_dim) each."""
        keys, values = self.key_value(attended).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def split(self, x: Tensor) -> Tensor:
        """Split heads: (..., L, heads * head_dim) -> (..., heads, L, head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of normed queries over split keys and values, projected, without the residual."""
        return self.out(self.mix(query, keys, values, mask))

    def mix(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention before its output projection, (..., L, heads * head_dim).

        Queries (L, D) are broadcast over the leading axes of the keys.
        """
        dropout = self.dropout if self.training else 0.0
        split = self.split(self.query(query)).expand(*keys.shape[:-2], -1, -1)
        mixed = F.scaled_dot_product_attention(split, keys, values, attn_mask=mask, dropout_p=dropout)
        return mixed.transpose(-3, -2).flatten(-2)


def pooled(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Mean of ``layers(x)`` over L, for x (..., L, D); the last layer, if any, is a feed-forward."""
    if not len(layers):
        return x.mean(dim=-2)
    last = layers[-1]
    assert isinstance(last, GegluFeedForward)
    return last.pooled(layers[:-1](x))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward with dropout and a key/value cache.

    Args:
        dim: width of the tokens.
        heads: number of heads, ``dim / heads`` wide each.
        dropout: probability of dropping an attention weight or a residual feature while training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dim // heads, dropout=dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Tensor | None = None, done: int = 0) -> Tensor:
        """Attend within ``x`` (..., L, D), or to the ``done`` tokens in the cache and then within ``x``.

        Args:
            x: new tokens.
            mask: boolean, broadcast to (..., heads, L, done + L), True where attention is allowed.
            cache: (2, ..., heads, capacity, head_dim) keys and values; those of ``x`` are written behind ``done``.
            done: tokens already in the cache.
        """
        query = self.attention.norm(x)
        keys, values = self.attention.keys_values(query)
        if cache is not None:
            end = done + x.shape[-2]
            cache[0, ..., done:end, :], cache[1, ..., done:end, :] = keys, values
            keys, values = cache[0, ..., :end, :], cache[1, ..., :end, :]
        x = x + self.dropout(self.attention.attend(query, keys, values, mask))
        return x + self.feed(x)
