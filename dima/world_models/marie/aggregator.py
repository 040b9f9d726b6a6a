"""Perceiver that aggregates what all agents see and do in a step (docs/reference/marie.md, "Aggregation")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Config, Count, DropoutRate, SmallCount, Whole
from dima.nn.attention import Attention, GegluFeedForward
from dima.nn.team_transformer import sinusoids


@dataclass(frozen=True)
class AggregatorConfig(Config):
    """Sizes of the Perceiver over the agents; published ones."""

    depth: Whole = 2  # self-attention blocks between the agents' latents, after the cross-attention
    heads: SmallCount = 8
    head_dim: Count = 64  # width of a head
    dropout: DropoutRate = 0.1  # of attention weights and feed-forward residuals
    slots: bool = False  # add a learnt vector of each token's place; published without: an agent's tokens are a set


class Aggregator(nn.Module):
    """All agents' tokens of a step (B, N, K + M, D) -> one vector for each agent (B, N, D).

    A learnt latent per agent attends to all tokens once, then the latents attend to each other.
    """

    agent: Tensor  # (N, 1, D) fixed

    def __init__(self, config: AggregatorConfig, agents: int, tokens: int, dim: int) -> None:
        super().__init__()
        dropout = config.dropout
        self.register_buffer("agent", sinusoids(agents, dim)[:, None], persistent=False)
        self.slot = nn.Parameter(0.02 * torch.randn(tokens, dim)) if config.slots else None
        self.latents = nn.Parameter(torch.randn(agents, dim))
        self.read = Attention(dim, config.heads, config.head_dim, context_dim=dim, dropout=dropout, bias=True)
        self.read_feed = GegluFeedForward(dim, dropout=dropout)
        self.mix = nn.Sequential(
            *(
                layer
                for _ in range(config.depth)
                for layer in (
                    Attention(dim, config.heads, config.head_dim, dropout=dropout, bias=True),
                    GegluFeedForward(dim, dropout=dropout),
                )
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.agent if self.slot is None else tokens + self.agent + self.slot
        latents = self.read(self.latents.expand(len(tokens), -1, -1), tokens.flatten(1, 2))
        aggregate: Tensor = self.mix(self.read_feed(latents))
        return aggregate
