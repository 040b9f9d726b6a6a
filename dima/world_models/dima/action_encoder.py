"""Perceiver over the agents' recent actions, seen through a reveal mask.

Perceiver IO (arXiv 2107.14795); docs/reference/dima.md, "Condition".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Config, Count, SmallCount
from dima.data import EnvSpec
from dima.nn.attention import Attention, GegluFeedForward


@dataclass(frozen=True)
class ActionEncoderConfig(Config):
    """Sizes of the Perceiver that encodes actions."""

    token_dim: Count = 256  # width of an action token
    latents: Count = 32  # latent vectors that attend to the tokens
    latent_dim: Count = 512  # width of a latent vector
    depth: SmallCount = 2  # self-attention blocks after the cross-attention
    heads: Count = 8  # heads of a self-attention block; the cross-attention has one
    head_dim: Count = 64  # width of a head


class ActionEncoder(nn.Module):
    """Agents' actions at the conditioning steps -> one condition vector.

    An action's token is its embedding plus a learnt vector of the agent and one of the time step. Latent vectors attend
    to the visible tokens once and then to each other; their mean is the condition. Hidden tokens are masked keys, so
    the condition cannot depend on them.
    """

    def __init__(self, config: ActionEncoderConfig, spec: EnvSpec, steps: int, out_dim: int) -> None:
        super().__init__()
        width = config.token_dim
        # a linear layer on a one-hot action is the embedding table of a discrete one
        self.embed = (
            nn.Linear(spec.action_dim, width, bias=False)
            if spec.discrete
            else nn.Sequential(nn.Linear(spec.action_dim, width), nn.SiLU(), nn.Linear(width, width))
        )
        self.agent = nn.Parameter(0.02 * torch.randn(spec.n_agents, width))
        self.time = nn.Parameter(0.02 * torch.randn(steps, 1, width))
        self.latents = nn.Parameter(0.02 * torch.randn(config.latents, config.latent_dim))
        self.read = Attention(config.latent_dim, 1, config.head_dim, context_dim=width)
        self.read_feed = GegluFeedForward(config.latent_dim)
        self.mix = nn.Sequential(
            *(
                layer
                for _ in range(config.depth)
                for layer in (
                    Attention(config.latent_dim, config.heads, config.head_dim),
                    GegluFeedForward(config.latent_dim),
                )
            )
        )
        self.out = nn.Sequential(nn.LayerNorm(config.latent_dim), nn.Linear(config.latent_dim, out_dim))

    def forward(self, action: Tensor, visible: Tensor) -> Tensor:
        """(B, C, N, A) actions and (B, C, N) bool visibility -> (B, D); each row needs a visible action."""
        tokens = (self.embed(action) + self.agent + self.time).flatten(1, 2)  # (B, C N, D)
        latents = self.mix(self.read_tokens(tokens, visible.flatten(1)[:, None, None]))
        condition: Tensor = self.out(latents.mean(dim=1))
        return condition

    def read_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The latents (B, L, D') after cross-attention to tokens (B, C N, D); ``mask`` is True on visible ones."""
        latents: Tensor = self.read_feed(self.read(self.latents.expand(len(tokens), -1, -1), tokens, mask))
        return latents
