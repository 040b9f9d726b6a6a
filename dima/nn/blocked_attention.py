"""Attention with dropout on a CPU, where PyTorch has no fused kernel for it.

Scores are computed for a few sequences and queries at a time, so that they stay in the processor's cache, and only up
to the last key that a mask lets any of these queries see: half of a causal mask is never computed. Equal to
:func:`torch.nn.functional.scaled_dot_product_attention` up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from dima.nn.dropout import keep_mask

QUERIES = 48  # of a block
SCORES = 2**18  # of a block, at most about this many: 1 MiB


class Block(NamedTuple):
    """A part of the scores (B, H, L, M)."""

    rows: slice  # of B
    queries: slice  # of L
    keys: slice  # of M


@torch.compiler.disable  # type: ignore[untyped-decorator]  # how far a mask reaches is no constant
def blocked_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention (B, H, L, E) of queries (B, H, L, E) to keys and values (B, H, M, E); it can be differentiated once.

    Args:
        query: of each head.
        keys: of each head.
        values: of each head.
        mask: bool (L, M) or (B, 1, L, M), True where attention is allowed, for each query somewhere; None: everywhere.
        dropout: probability of dropping an attention weight.
    """
    mixed: Tensor = _BlockedAttention.apply(query, keys, values, mask, dropout)  # type: ignore[no-untyped-call]
    return mixed


class _BlockedAttention(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        # a slice of contiguous heads needs no copy before its products
        scaled, keys, values = (query * query.shape[-1] ** -0.5).contiguous(), keys.contiguous(), values.contiguous()
        hidden = None if mask is None else ~mask.expand(len(query), 1, *mask.shape[-2:])
        mixed = torch.empty_like(scaled)
        ctx.blocks, ctx.weights, ctx.kept = list(_blocks(scaled, keys, hidden)), [], []
        for rows, queries, seen in ctx.blocks:
            scores = scaled[rows, :, queries] @ keys[rows, :, seen].transpose(-1, -2)
            if hidden is not None:
                scores.masked_fill_(hidden[rows, :, queries, seen], -torch.inf)
            weights = scores.softmax(-1)
            kept = keep_mask(weights.shape, dropout)
            mixed[rows, :, queries] = (weights * kept) @ values[rows, :, seen]
            ctx.weights.append(weights)
            ctx.kept.append(kept)
        ctx.scale = 1 / (1 - dropout)
        ctx.save_for_backward(scaled, keys, values, mixed.mul_(ctx.scale))
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        scaled, keys, values, mixed = ctx.saved_tensors
        d_query, d_keys, d_values = torch.empty_like(scaled), torch.zeros_like(keys), torch.zeros_like(values)
        # the sum over keys of a weight times its gradient, which a softmax subtracts
        mean = (gradient * mixed).sum(-1, keepdim=True)
        gradient = (gradient * ctx.scale).contiguous()
        for (rows, queries, seen), weights, kept in zip(ctx.blocks, ctx.weights, ctx.kept, strict=True):
            above = gradient[rows, :, queries]
            d_values[rows, :, seen] += (weights * kept).transpose(-1, -2) @ above
            d_scores = (above @ values[rows, :, seen].transpose(-1, -2)).mul_(kept)
            d_scores.sub_(mean[rows, :, queries]).mul_(weights)
            d_query[rows, :, queries] = d_scores @ keys[rows, :, seen]
            d_keys[rows, :, seen] += d_scores.transpose(-1, -2) @ scaled[rows, :, queries]
        return d_query.mul_(scaled.shape[-1] ** -0.5), d_keys, d_values, None, None


def _blocks(query: Tensor, keys: Tensor, hidden: Tensor | None) -> Iterator[Block]:
    (batch, heads, length, _), count = query.shape, keys.shape[-2]
    size = max(1, SCORES // (heads * min(QUERIES, length) * count))
    ends = {}
    for first in range(0, length, QUERIES):
        seen = None if hidden is None else ~hidden[:, :, first : first + QUERIES].flatten(0, 2).all(0)
        ends[first] = count if seen is None else int(seen.nonzero()[-1]) + 1
    for row in range(0, batch, size):
        for first, end in ends.items():
            yield Block(slice(row, row + size), slice(first, first + QUERIES), slice(0, end))
