"""Networks of the world model; all weights are shared by the agents (docs/reference/mamba.md, "Networks")."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.nn.mlp import mlp, relu
from dima.nn.one_hot import begin_one_hot
from dima.nn.team_transformer import TeamTransformer, xavier_
from dima.world_models.mamba.config import NetworkConfig


class Transition(nn.Module):
    """Previous actions and latents of all agents -> their next deterministic states.

    The only place where agents hear of each other: attention over the team, then a GRU of each agent's own.
    """

    def __init__(self, config: NetworkConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.embed = nn.Linear(spec.action_dim + config.stochastic, config.hidden)
        self.attention = TeamTransformer(spec.n_agents, config.hidden, config.layers, config.heads, config.dropout)
        self.memory = nn.GRUCell(config.hidden, config.deterministic)

    def forward(
        self, action: Tensor, stochastic: Tensor, deterministic: Tensor, communication: Tensor | None = None
    ) -> Tensor:
        """(B, N, A), (B, N, C * K), (B, N, D) -> (B, N, D).

        Args:
            action: of the step before.
            stochastic: the latent before.
            deterministic: the latent before.
            communication: (N, N) bool, which agents (columns) an agent hears of; None: all.
        """
        message = self.attention(self.embed(torch.cat([action, stochastic], dim=-1)).relu(), communication)
        following: Tensor = self.memory(message.flatten(0, 1), deterministic.flatten(0, 1))
        return following.float().view_as(deterministic)


class Filter(nn.Module):
    """Observations -> posteriors of the latents, one time step at a time."""

    def __init__(self, config: NetworkConfig, spec: EnvSpec) -> None:
        super().__init__()
        width = config.hidden
        self.config, self.shape = config, (config.categoricals, config.classes)
        self.encoder = mlp((spec.obs_dim, width, width, width, width), relu)
        self.transition = Transition(config, spec)
        self.posterior = mlp((config.deterministic + width, width, config.stochastic), relu)

    def posterior_logits(self, deterministic: Tensor, embedding: Tensor) -> Tensor:
        """(..., D), (..., hidden) -> (..., C, K)."""
        return self.posterior(torch.cat([deterministic, embedding], dim=-1)).unflatten(-1, self.shape)


class Dynamics(nn.Module):
    """Everything that is learnt from real experience.

    Args:
        config: sizes.
        spec: of the task.
        classify: whether previous actions are predicted.
    """

    def __init__(self, config: NetworkConfig, spec: EnvSpec, classify: bool = True) -> None:
        super().__init__()
        width, feature = config.hidden, config.features
        self.shape = (config.categoricals, config.classes)
        self.filter = Filter(config, spec)
        self.prior = mlp((config.deterministic, width, config.stochastic), relu)
        read = partial(begin_one_hot, variables=config.categoricals, classes=config.classes)
        self.trunk = nn.Sequential(read(mlp((feature, width, width, width), relu)), nn.ReLU())  # of the two below
        self.decoder = nn.Linear(width, spec.obs_dim)
        self.reward = read(mlp((feature, width, width, 1), nn.ELU))
        self.continuation = read(mlp((feature, width, width, 1), nn.ELU))
        masks = spec.discrete and spec.masks_actions
        self.availability = read(mlp((feature, width, width, spec.action_dim), nn.ELU)) if masks else None
        self.classifier = (
            nn.Sequential(
                nn.Linear(width, width), nn.ELU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, spec.action_dim)
            )
            if classify
            else None
        )
        xavier_(self)

    def prior_logits(self, deterministic: Tensor) -> Tensor:
        """(..., D) -> (..., C, K)."""
        return self.prior(deterministic).unflatten(-1, self.shape)
