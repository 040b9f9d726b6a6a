"""Critic of features with a value for each agent (docs/reference/mamba.md, "Actor and critic")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dima.config import Config, Count, SmallCount
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.mlp import mlp
from dima.nn.team_transformer import TeamTransformer, xavier_


@dataclass(frozen=True)
class TeamCriticConfig(Config):
    """The value network: features of all agents -> a value for each."""

    width: Count = 256  # of every layer
    layers: SmallCount = 1  # of the attention between agents
    heads: Count = 8  # of a layer; they divide its width

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"heads = {self.heads} does not divide width = {self.width}: choose another number")


class TeamCritic(nn.Module):
    """Features of all agents -> the value that each expects, having seen the others'."""

    def __init__(self, config: TeamCriticConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.agents, width = spec.n_agents, config.width
        self.embed = nn.Linear(spec.obs_dim, width)
        self.attention = TeamTransformer(spec.n_agents, width, config.layers, config.heads)
        self.head = mlp((width, width, 1))
        xavier_(self)

    def forward(self, state: Tensor) -> Tensor:
        """(..., N * F), the agents' features side by side -> values (..., N)."""
        x = self.attention(self.embed(state.unflatten(-1, (self.agents, -1))).relu())
        value: Tensor = self.head(x.relu())[..., 0].float()
        return value
