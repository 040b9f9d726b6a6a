"""Critic of observations with a value for each agent (docs/reference/marie.md, "Actor and critic")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Count
from dima.data import EnvSpec
from dima.nn.attention import Attention
from dima.nn.mlp import RELU_GAIN, MaskedLayerNorm, RowwiseSequential, mlp, orthogonal_, relu
from dima.nn.normalizer import Normalizer
from dima.nn.team_transformer import sinusoids
from dima.policies.team_critic import TeamCriticConfig


@dataclass(frozen=True)
class AttentionCriticConfig(TeamCriticConfig):
    """The value network: observations of all agents -> a value for each."""

    width: Count = 128  # of every layer up to the attention between agents
    hidden: tuple[Count, ...] = (128, 128, 128)  # widths of the layers after it (norm)
    normalize_obs: bool = False  # standardise observations by their running mean and deviation (norm)
    norm: bool = True  # layer norms of the input and after each layer; without them the critic is MAMBA's


class AttentionCritic(nn.Module):
    """Observations of all agents -> the value that each expects, having seen the others'.

    A fixed sinusoid tells whose an embedded observation is, and pre-norm Transformer layers let the agents see each
    other; then each goes through the same MLP.
    """

    agent: Tensor  # (N, D) sinusoids of the agents' numbers

    def __init__(self, config: AttentionCriticConfig, spec: EnvSpec) -> None:
        super().__init__()
        dim, valid = config.width, torch.from_numpy(spec.obs_valid)
        self.obs_scale = Normalizer(valid.shape) if config.normalize_obs else None
        self.input_norm = MaskedLayerNorm(valid)
        self.embed = nn.Sequential(orthogonal_(nn.Linear(spec.obs_dim, dim)), nn.ReLU())
        self.register_buffer("agent", sinusoids(spec.n_agents, dim), persistent=False)
        self.mix = nn.ModuleList(
            Attention(dim, config.heads, dim // config.heads, bias=True) for _ in range(config.layers)
        )
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in self.mix
        )
        for layer in (*self.mix.modules(), *self.feed.modules()):
            if isinstance(layer, nn.Linear):
                orthogonal_(layer, 1.0)
        trunk = mlp((dim, *config.hidden, 1), relu, norm=True, gain=RELU_GAIN, head_gain=1.0)
        self.trunk = RowwiseSequential(nn.ReLU(), nn.LayerNorm(dim), trunk)

    def update_statistics(self, obs: Tensor) -> None:
        """Update the running normaliser, if there is one, with real observations (..., N, O)."""
        if self.obs_scale is not None:
            self.obs_scale.update(obs)

    def forward(self, state: Tensor) -> Tensor:
        """(..., N * O), the agents' observations side by side -> normalised values (..., N)."""
        obs = state.reshape(-1, *self.input_norm.valid.shape)
        if self.obs_scale is not None:
            obs = self.obs_scale.normalize(obs)
        x = self.embed(self.input_norm(obs)) + self.agent
        for mix, feed in zip(self.mix, self.feed, strict=True):
            x = mix(x)
            x = x + feed(x)
        value: Tensor = self.trunk(x)
        return value[..., 0].float().reshape(*state.shape[:-1], -1)
