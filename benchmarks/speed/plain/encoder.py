"""The Perceiver over the agents' actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.speed.plain.layers import PlainAttention, PlainFeedForward
from dima.data import EnvSpec
from dima.world_models.dima.action_encoder import ActionEncoderConfig


class PlainEncoder(nn.Module):
    """Actions (B, C, N, A) and their visibility (B, C, N) -> condition (B, D)."""

    def __init__(self, config: ActionEncoderConfig, spec: EnvSpec, steps: int, out_dim: int) -> None:
        super().__init__()
        width, dim = config.token_dim, config.latent_dim
        self.embed: nn.Module = (
            nn.Linear(spec.action_dim, width, bias=False)
            if spec.discrete
            else nn.Sequential(nn.Linear(spec.action_dim, width), nn.SiLU(), nn.Linear(width, width))
        )
        self.agent = nn.Parameter(torch.zeros(spec.n_agents, width))
        self.time = nn.Parameter(torch.zeros(steps, 1, width))
        self.latents = nn.Parameter(torch.zeros(config.latents, dim))
        self.read = PlainAttention(dim, 1, config.head_dim, context_dim=width)
        self.read_feed = PlainFeedForward(dim)
        self.mix = nn.ModuleList()
        for _ in range(config.depth):
            self.mix += [PlainAttention(dim, config.heads, config.head_dim), PlainFeedForward(dim)]
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out_dim))

    def forward(self, action: Tensor, visible: Tensor) -> Tensor:
        tokens = (self.embed(action) + self.agent + self.time).flatten(1, 2)
        latents = self.latents[None].repeat(len(action), 1, 1)
        latents = self.read_feed(self.read(latents, tokens, visible.flatten(1)[:, None, None, :]))
        for layer in self.mix:
            latents = layer(latents)
        return self.out(latents.mean(dim=1))
