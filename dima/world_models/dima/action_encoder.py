"""Perceiver IO over the agents' recent actions, seen through a reveal mask (DIMA section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Config, Count
from dima.data import EnvSpec
from dima.nn.attention import Attention, GegluFeedForward, pooled


@dataclass(frozen=True)
class ActionEncoderConfig(Config):
    """Sizes of the Perceiver that turns actions into a condition vector."""

    token_dim: Count = 256  # width of an action token
    latents: Count = 32  # latent vectors that read the tokens
    latent_dim: Count = 512  # width of a latent vector
    depth: Count = 2  # self-attention blocks after the cross-attention
    heads: Count = 8  # heads of a self-attention block; the cross-attention has one
    head_dim: Count = 64  # width of a head


class ActionEncoder(nn.Module):
    """Agents' actions at the conditioning steps -> one condition vector.

    Each action is a token: the action embedded, plus a learned agent vector, plus a learned time vector. Latent
    vectors attend to the visible tokens once and then to each other; their mean is the condition. Hidden tokens
    are masked keys, so the answer cannot depend on them.
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
        """(B, C, N, A) actions and (..., B, C, N) bool visibility -> (..., B, D) condition.

        Leading axes of ``visible`` hold several masks of the same actions. At least one token must be visible in every
        row.
        """
        tokens = (self.embed(action) + self.agent + self.time).flatten(1, 2)
        rows = visible.shape[:-2]
        assert self.read.context_norm is not None
        # masks share the tokens' keys and values, and all rows the latents' queries
        keys, values = (
            x.expand(*rows, -1, -1, -1).reshape(-1, *x.shape[1:])
            for x in self.read.keys_values(self.read.context_norm(tokens))
        )
        mask = visible.reshape(-1, 1, 1, tokens.shape[1])
        read = self.read.mix(self.read.norm(self.latents), keys, values, mask)
        mixed = pooled(self.mix, self.read_feed.after(self.latents, read, self.read.out))
        return self.out(mixed).unflatten(0, rows)
