"""PPO actors: observations -> action distributions (docs/reference/baselines.md, "PPO actor").

One network is shared by all agents of a team, or each agent has its own. Padded features have no effect.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count
from dima.data import EnvSpec, View
from dima.nn.mlp import RELU_GAIN, MaskedLayerNorm, mlp, relu
from dima.nn.normalizer import Normalizer
from dima.policies.base import Policy
from dima.policies.distributions import ActionDistribution, Beta, Categorical, Gaussian, PerAgent

MAX_STD = 0.5  # ceiling of the Gaussian's standard deviation, which starts at 0.73 of it (DIMA, HARL)


@dataclass(frozen=True)
class ActorConfig(Config):
    """The policy network: each agent's own observation -> its action distribution."""

    hidden: tuple[Count, ...] = (128, 128, 128)  # widths of the hidden layers
    distribution: Literal["gaussian", "beta"] = "gaussian"  # of continuous actions; discrete ones are categorical
    normalize_obs: bool = False  # standardise observations by their running mean and deviation
    norm: bool = True  # layer norms of the input and after each layer; without them weights start larger (MAMBA)
    input_norm: bool = True  # that of the input; of two features it keeps no more than which one is larger
    agent_id: Literal["auto", "always", "never"] = "auto"  # append a one-hot id; auto: if observations lack one


class TeamActor(Policy):
    """Policy of a team: observations ``(..., N, O)`` -> distribution of the joint action."""

    @torch.no_grad()
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        distribution: ActionDistribution = self(view.obs, view.action_mask)
        action = distribution.mode() if mode else distribution.sample()
        return action, distribution.log_prob(action)

    @abstractmethod
    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        """Action distribution of each agent.

        Args:
            obs: (..., N, O).
            action_mask: (..., N, A) bool, allowed choices; without effect on continuous actions.
        """

    @abstractmethod
    def update_statistics(self, obs: Tensor, alive: Tensor | None = None) -> None:
        """Update running normalisers with real observations (..., N, O) of agents that are ``alive`` (..., N)."""


class Actor(TeamActor):
    """One network for all agents: MLP with layer norm, Gaussian, Beta or categorical head."""

    action_valid: Tensor  # (N, A) float
    ids: Tensor  # (N, N) identity, or (N, 0) without ids

    def __init__(self, config: ActorConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.discrete = config, spec.discrete
        agents = spec.n_agents
        auto = agents > 1 and not spec.obs_has_id
        with_id = config.agent_id == "always" or (config.agent_id == "auto" and auto)
        obs_valid = torch.from_numpy(spec.obs_valid)
        ids = torch.eye(agents) if with_id else torch.zeros(agents, 0)
        features = torch.cat([obs_valid, torch.ones_like(ids, dtype=torch.bool)], dim=-1)
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid).float(), persistent=False)
        self.register_buffer("ids", ids, persistent=False)
        self.obs_scale = Normalizer((agents, spec.obs_dim), samples=spec.obs_samples) if config.normalize_obs else None
        self.input_norm = MaskedLayerNorm(features) if config.norm and config.input_norm else None
        beta = not spec.discrete and config.distribution == "beta"
        outputs = spec.action_dim * (2 if beta else 1)
        sizes = (features.shape[-1], *config.hidden, outputs)
        if config.norm:
            self.net = mlp(sizes, relu, norm=True, gain=RELU_GAIN, head_gain=0.01)
        else:
            self.net = mlp(sizes, relu)
            for weight in self.net.parameters():
                if weight.dim() > 1:
                    nn.init.orthogonal_(weight)
        if not spec.discrete and not beta:
            self.log_std = nn.Parameter(torch.ones(spec.action_dim))

    def update_statistics(self, obs: Tensor, alive: Tensor | None = None) -> None:
        if self.obs_scale is not None:
            self.obs_scale.update(obs, alive)

    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        if self.obs_scale is not None:
            obs = self.obs_scale.normalize(obs)
        if self.ids.shape[-1]:
            obs = torch.cat([obs, self.ids.expand(*obs.shape[:-1], -1)], dim=-1)
        if self.input_norm is not None:
            obs = self.input_norm(obs)  # and zero padding, which is zero already without it
        out = self.net(obs).float()
        if self.discrete:
            return Categorical(out, action_mask & (self.action_valid > 0), self.action_valid)
        if self.config.distribution == "beta":
            alpha, beta = (1 + F.softplus(out)).chunk(2, dim=-1)
            return Beta(alpha, beta, self.action_valid)
        return Gaussian(out, MAX_STD * self.log_std.sigmoid(), self.action_valid)


class SeparateActors(TeamActor):
    """One network per agent, without padding."""

    def __init__(self, config: ActorConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        self.action_sizes = spec.action_sizes
        self.obs_sizes = spec.obs_sizes
        self.members = nn.ModuleList(Actor(config, spec.only(n)) for n in range(spec.n_agents))

    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        agents = range(len(self.members))
        return PerAgent([self.forward_agent(n, obs, action_mask) for n in agents], self.action_sizes)

    def forward_agent(self, agent: int, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        """One agent's action distribution, (..., 1, its action size); arguments as for the whole team."""
        own = slice(agent, agent + 1)
        policy: ActionDistribution = self.members[agent](
            obs[..., own, : self.obs_sizes[agent]], action_mask[..., own, : self.action_sizes[agent]]
        )
        return policy

    def update_statistics(self, obs: Tensor, alive: Tensor | None = None) -> None:
        for agent, member in enumerate(self.members):
            assert isinstance(member, Actor)
            own = slice(agent, agent + 1)
            member.update_statistics(obs[..., own, : self.obs_sizes[agent]], None if alive is None else alive[..., own])
