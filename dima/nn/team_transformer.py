"""Post-norm Transformer encoder over the agents of a team."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dima.nn.attention import softmax_attention
from dima.nn.dropout import dropout


def sinusoids(rows: int, dim: int) -> Tensor:
    """Fixed sine and cosine features of an index, (rows, dim) (arXiv 1706.03762, section 3.5)."""
    place = torch.arange(rows)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-torch.log(torch.tensor(1e4)) / dim))
    return torch.stack([place.sin(), place.cos()], dim=-1).flatten(1)[:, :dim]


class PostNormLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and then a layer norm, ``(..., N, D) -> (..., N, D)``.

    Args:
        dim: width D.
        heads: number of heads, ``dim / heads`` wide each.
        feed: width of the feed-forward layer.
        dropout: probability of dropping an attention weight, a hidden or a residual feature while training.
    """

    def __init__(self, dim: int, heads: int, feed: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        for linear in (self.query_key_value, self.out):
            nn.init.zeros_(linear.bias)
        self.lift, self.lower = nn.Linear(dim, feed), nn.Linear(feed, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within ``x``; ``mask`` (N, N) bool is True where a row may attend to a column."""
        drop = self.dropout if self.training else 0.0
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        mixed = softmax_attention(query, key, value, mask, drop)
        x = self.norms[0](x + dropout(self.out(mixed.transpose(-3, -2).flatten(-2)), drop))
        hidden = dropout(self.lift(x).relu(), drop)
        normed: Tensor = self.norms[1](x + dropout(self.lower(hidden), drop))
        return normed


class TeamTransformer(nn.Module):
    """Layers over the agents of a team, whose index enters as sinusoids added to their features.

    Args:
        agents: number N of agents.
        dim: width D.
        layers: number of layers.
        heads: of each.
        dropout: of each.
    """

    places: Tensor  # (N, D)

    def __init__(self, agents: int, dim: int, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("places", sinusoids(agents, dim), persistent=False)
        self.layers = nn.ModuleList(PostNormLayer(dim, heads, dim, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., N, D) -> (..., N, D); ``mask`` as for :class:`PostNormLayer`."""
        x = x + self.places
        for layer in self.layers:
            x = layer(x, mask)
        return x


def xavier_(module: nn.Module) -> None:
    """Initialise every matrix Xavier-uniform, stacked ones as a whole; vectors stay as they are."""
    for weight in module.parameters():
        if weight.dim() > 1:
            nn.init.xavier_uniform_(weight)
