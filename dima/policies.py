"""Actors, what they draw actions from, the central critic and the scale of its values (model-free sections 2, 3).

One network is shared by all agents of a team, or each has its own; padded features and actions have no effect.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, Positive
from dima.data import EnvSpec
from dima.nets import RELU_GAIN, MaskedLayerNorm, Normalizer, mlp

FORBIDDEN = -1e10  # logit of an action that must not be taken; finite, so that entropies are
EDGE = 1e-6  # Beta samples keep this distance from the ends of the unit interval, where densities vanish


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)  # what it overwrites is not needed to go backward


class ActionDistribution(ABC):
    """What the agents of a team draw their actions from, independently of each other."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Random actions (..., N, A), zero on padding, without gradient."""

    @abstractmethod
    def mode(self) -> Tensor:
        """Most probable actions (..., N, A), zero on padding."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """(..., N, A) -> (..., N): log-density or log-probability of each agent's whole action."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """(..., N) in nats, summed over action features."""


@dataclass
class Gaussian(ActionDistribution):
    """Independent normals, unbounded: whoever executes the action clips it to [-1, 1]."""

    mean: Tensor  # (..., N, A)
    std: Tensor  # broadcasts to (..., N, A)
    valid: Tensor  # (N, A) float, 1 on real entries

    @torch.no_grad()
    def sample(self) -> Tensor:
        return (self.mean + self.std * torch.randn_like(self.mean)) * self.valid

    def mode(self) -> Tensor:
        return self.mean.detach() * self.valid

    def log_prob(self, action: Tensor) -> Tensor:
        score = (action - self.mean) / self.std
        density = -0.5 * score.square() - (self.std.log() + 0.5 * math.log(2 * math.pi))
        return (density * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        per_entry = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return (per_entry * self.valid).sum(-1).expand(self.mean.shape[:-1])


@dataclass
class Beta(ActionDistribution):
    """Independent Beta distributions stretched over [-1, 1]; both parameters above 1, so there is one mode."""

    alpha: Tensor  # (..., N, A)
    beta: Tensor  # (..., N, A)
    valid: Tensor  # (N, A) float, 1 on real entries

    @torch.no_grad()
    def sample(self) -> Tensor:
        unit = torch.distributions.Beta(self.alpha, self.beta, validate_args=False).sample()
        return (2 * unit.clamp(EDGE, 1 - EDGE) - 1) * self.valid

    def mode(self) -> Tensor:
        alpha, beta = self.alpha.detach(), self.beta.detach()
        # far out softplus underflows and both are 1: every action is then as good as the middle one
        unit = (alpha - 1 + EDGE) / (alpha + beta - 2 + 2 * EDGE)
        return (2 * unit.clamp(EDGE, 1 - EDGE) - 1) * self.valid

    def log_prob(self, action: Tensor) -> Tensor:
        unit = ((action + 1) / 2).clamp(EDGE, 1 - EDGE)
        density = (self.alpha - 1) * unit.log() + (self.beta - 1) * (-unit).log1p() - self._log_volume()
        return (density * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        alpha, beta = self.alpha, self.beta
        both = (alpha + beta - 2) * (alpha + beta).digamma()
        per_entry = self._log_volume() - (alpha - 1) * alpha.digamma() - (beta - 1) * beta.digamma() + both
        return (per_entry * self.valid).sum(-1)

    def _log_volume(self) -> Tensor:
        return self.alpha.lgamma() + self.beta.lgamma() - (self.alpha + self.beta).lgamma() + math.log(2)


class Categorical(ActionDistribution):
    """One choice per agent among those allowed, as a one-hot vector.

    Args:
        logits: (..., N, A).
        allowed: broadcasts to (..., N, A), bool; at least one choice per agent.
        valid: (N, A) float, 1 on real entries.
    """

    def __init__(self, logits: Tensor, allowed: Tensor, valid: Tensor) -> None:
        self.valid = valid
        self.log_probs = torch.where(allowed, logits, FORBIDDEN).log_softmax(-1)

    @torch.no_grad()
    def sample(self) -> Tensor:
        # the winner of independent exponential clocks with rates p; a forbidden choice has rate 0
        clocks = torch.empty_like(self.log_probs).exponential_().clamp_(min=1e-20)
        return self._one_hot((self.log_probs.exp() / clocks).argmax(-1, keepdim=True))

    def mode(self) -> Tensor:
        return self._one_hot(self.log_probs.argmax(-1, keepdim=True))

    def log_prob(self, action: Tensor) -> Tensor:
        return (self.log_probs * (action * self.valid)).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def _one_hot(self, choice: Tensor) -> Tensor:
        return torch.zeros_like(self.log_probs).scatter_(-1, choice, 1.0)


@dataclass
class Separate(ActionDistribution):
    """What agents with policies of their own draw from, side by side."""

    parts: list[ActionDistribution]  # one agent each, in order, without padding
    sizes: tuple[int, ...]  # action entries of each

    def sample(self) -> Tensor:
        return self._joint([part.sample() for part in self.parts])

    def mode(self) -> Tensor:
        return self._joint([part.mode() for part in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        each = zip(self.parts, action.split(1, dim=-2), self.sizes, strict=True)
        return torch.cat([part.log_prob(own[..., :size]) for part, own, size in each], dim=-1)

    def entropy(self) -> Tensor:
        return torch.cat([part.entropy() for part in self.parts], dim=-1)

    def _joint(self, actions: list[Tensor]) -> Tensor:
        widest = max(self.sizes)
        return torch.cat([F.pad(action, (0, widest - action.shape[-1])) for action in actions], dim=-2)


@dataclass(frozen=True)
class ActorConfig(Config):
    """The network that chooses each agent's action from its own observation."""

    hidden: tuple[Count, ...] = (128, 128, 128)  # widths of the hidden layers
    distribution: Literal["gaussian", "beta"] = "gaussian"  # of continuous actions; discrete ones are categorical
    std_scale: Positive = 0.5  # ceiling of the Gaussian's standard deviation; it starts at 0.73 of it
    normalize_obs: bool = False  # put observations in units of their running mean and deviation first
    agent_id: Literal["auto", "always", "never"] = "auto"  # append a one-hot id; auto: unless observations tell


class TeamActor(nn.Module, ABC):
    """Observations ``(..., N, O)`` of a team -> distribution of its actions."""

    @abstractmethod
    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        """What each agent would do.

        Args:
            obs: (..., N, O).
            action_mask: (..., N, A) bool, allowed choices; without effect on continuous actions.
        """

    @abstractmethod
    def observe(self, obs: Tensor) -> None:
        """Let running normalisers see real observations (..., N, O)."""


class Actor(TeamActor):
    """Observations ``(..., N, O)`` -> distribution of actions, one network for all agents (model-free section 2.1)."""

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
        self.obs_scale = Normalizer((agents, spec.obs_dim)) if config.normalize_obs else None
        self.input_norm = MaskedLayerNorm(features)
        beta = not spec.discrete and config.distribution == "beta"
        outputs = spec.action_dim * (2 if beta else 1)
        sizes = (features.shape[-1], *config.hidden, outputs)
        self.net = mlp(sizes, _relu, norm=True, gain=RELU_GAIN, head_gain=0.01)
        if not spec.discrete and not beta:
            self.log_std = nn.Parameter(torch.ones(spec.action_dim))

    def observe(self, obs: Tensor) -> None:
        if self.obs_scale is not None:
            self.obs_scale.update(obs)

    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        if self.obs_scale is not None:
            obs = self.obs_scale.normalize(obs)
        if self.ids.shape[-1]:
            obs = torch.cat([obs, self.ids.expand(*obs.shape[:-1], -1)], dim=-1)
        out = self.net(self.input_norm(obs)).float()  # the norm silences padding
        if self.discrete:
            return Categorical(out, action_mask & (self.action_valid > 0), self.action_valid)
        if self.config.distribution == "beta":
            alpha, beta = (1 + F.softplus(out)).chunk(2, dim=-1)
            return Beta(alpha, beta, self.action_valid)
        return Gaussian(out, self.config.std_scale * self.log_std.sigmoid(), self.action_valid)


class SeparateActors(TeamActor):
    """A network of its own for each agent, at the agent's own sizes."""

    def __init__(self, config: ActorConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.sizes = spec.action_sizes
        self.obs_sizes = spec.obs_sizes
        self.members = nn.ModuleList(Actor(config, spec.only(n)) for n in range(spec.n_agents))

    def forward(self, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        return Separate([self.one(n, obs, action_mask) for n in range(len(self.members))], self.sizes)

    def one(self, agent: int, obs: Tensor, action_mask: Tensor) -> ActionDistribution:
        """What one agent would do, (..., 1, its own size); arguments as for the whole team."""
        own = slice(agent, agent + 1)
        policy: ActionDistribution = self.members[agent](
            obs[..., own, : self.obs_sizes[agent]], action_mask[..., own, : self.sizes[agent]]
        )
        return policy

    def observe(self, obs: Tensor) -> None:
        for agent, member in enumerate(self.members):
            assert isinstance(member, Actor)
            member.observe(obs[..., agent : agent + 1, : self.obs_sizes[agent]])


@dataclass(frozen=True)
class CriticConfig(Config):
    """The network that values the global state for the whole team."""

    hidden: tuple[Count, ...] = (256, 256)  # widths of the hidden layers
    previous_action: bool = True  # also show it the joint action that led to the state


class Critic(nn.Module):
    """Global state -> the team's value, in the units of a :class:`ValueNorm` (DIMA section 6)."""

    entries: Tensor  # (M,) positions of the real entries among the N * A of a joint action

    def __init__(self, config: CriticConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        entries = torch.from_numpy(spec.action_valid).flatten().nonzero()[:, 0]
        self.padded = len(entries) < spec.n_agents * spec.action_dim
        self.register_buffer("entries", entries, persistent=False)
        self.state_scale = Normalizer((spec.state_dim,))
        inputs = spec.state_dim + (len(entries) if config.previous_action else 0)
        self.net = mlp((inputs, *config.hidden, 1), _relu, norm=True, gain=RELU_GAIN, head_gain=1.0)

    def forward(self, state: Tensor, previous_action: Tensor) -> Tensor:
        """Value of each state.

        Args:
            state: (..., S) in the environment's units.
            previous_action: (..., N, A) joint action that led there, clipped here to the [-1, 1] that was executed.

        Returns:
            (...) normalised values.
        """
        features = self.state_scale.normalize(state)
        if self.config.previous_action:
            joint = previous_action.flatten(-2)
            if self.padded:
                joint = joint[..., self.entries]
            features = torch.cat([features, joint.clamp(-1, 1)], dim=-1)
        value: Tensor = self.net(features)[..., 0].float()
        return value


class ValueNorm(nn.Module):
    """Debiased moving mean and variance of returns, so that the critic works in units of about 1 (section 3).

    Float64 inside: the variance is a difference of large numbers. Before the first update the mean is 0 and the
    variance at its floor.

    Args:
        beta: what a moving average keeps per update; near 1 it is the plain average of all updates.
        floor: least variance, in squared units of the return.
    """

    mean: Tensor  # () float64, moving averages that started from zero
    square: Tensor
    weight: Tensor

    def __init__(self, beta: float = 0.99999, floor: float = 0.01) -> None:
        super().__init__()
        self.beta, self.floor = beta, floor
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count in a batch of returns of any shape, as one step of the averages."""
        x = x.double()
        self.mean.lerp_(x.mean(), 1 - self.beta)
        self.square.lerp_(x.square().mean(), 1 - self.beta)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.beta)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in use, two float64 scalars."""
        weight = self.weight.clamp(min=1e-12)
        mean = self.mean / weight
        return mean, (self.square / weight - mean.square()).clamp(min=self.floor).sqrt()

    def normalize(self, x: Tensor) -> Tensor:
        """Returns -> the critic's units, float32."""
        mean, std = self.moments()
        return ((x.double() - mean) / std).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """The critic's units -> returns, float32."""
        mean, std = self.moments()
        return (x.double() * std + mean).float()
