"""HASAC's reparametrised actors and twin Q-networks (docs/reference/baselines.md, "HASAC actor", "HASAC critics").

Each agent has a network of its own, without padding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.data import EnvSpec, View
from dima.nn.mlp import RELU_GAIN, Tanh, mlp, relu
from dima.nn.normalizer import Normalizer
from dima.policies.base import Policy
from dima.policies.distributions import MASKED_LOGIT

LOG_STD = (-20.0, 2.0)  # bounds of the log standard deviation
Sample = tuple[Tensor, Tensor]  # action (R, A) and log-probability (R,), both differentiable


class SoftActor(nn.Module, ABC):
    """Policy of one agent: observation (R, O) -> actions (R, A)."""

    @abstractmethod
    def sample(self, obs: Tensor, action_mask: Tensor) -> Sample:
        """Reparametrised sample of the action; ``action_mask`` is (R, A) bool."""

    @abstractmethod
    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """Action without noise, (R, A)."""


class TanhGaussian(SoftActor):
    """Tanh-squashed Gaussian; the last hidden activation is a tanh too, as in HARL."""

    def __init__(self, hidden: Sequence[int], obs_dim: int, action_dim: int) -> None:
        super().__init__()
        layers = mlp((obs_dim, *hidden, 2 * action_dim), relu)
        if hidden:
            layers[-2] = Tanh()
        self.net = layers

    def sample(self, obs: Tensor, action_mask: Tensor) -> Sample:
        mean, log_std = self._moments(obs)
        noise = torch.randn_like(mean)
        unbounded = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without cancellation
        log_jacobian = 2 * (math.log(2) - unbounded - F.softplus(-2 * unbounded))
        return unbounded.tanh(), (density - log_jacobian).sum(-1)

    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        return self._moments(obs)[0].tanh()

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(obs).float().chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)


class GumbelSoftmax(SoftActor):
    """Straight-through Gumbel-softmax of temperature 1: one-hot forward, soft backward."""

    def __init__(self, hidden: Sequence[int], obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(obs_dim),
            *mlp((obs_dim, *hidden, action_dim), relu, norm=True, gain=RELU_GAIN, head_gain=0.01),
        )

    def sample(self, obs: Tensor, action_mask: Tensor) -> Sample:
        log_probs = self._log_probs(obs, action_mask)
        exponential = torch.empty_like(log_probs).exponential_().clamp_(min=1e-20)
        soft = (log_probs - exponential.log()).softmax(-1)  # -log of an exponential is Gumbel noise
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        action = hard + soft - soft.detach()
        return action, (action * log_probs).sum(-1)

    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        best = self._log_probs(obs, action_mask).argmax(-1)
        return F.one_hot(best, action_mask.shape[-1]).to(obs.dtype)

    def _log_probs(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        return torch.where(action_mask, self.net(obs).float(), MASKED_LOGIT).log_softmax(-1)


class SoftActors(Policy):
    """Policies of a team; observations and actions are padded outside, each agent's network is not.

    Args:
        hidden: widths of each network.
        spec: of the task.
        normalize_obs: standardise observations by their running mean and deviation.
    """

    def __init__(self, hidden: Sequence[int], spec: EnvSpec, normalize_obs: bool = False) -> None:
        super().__init__()
        self.spec, self.hidden = spec, tuple(hidden)
        self.obs_scales = nn.ModuleList(Normalizer((size,)) for size in spec.obs_sizes if normalize_obs)
        kind = GumbelSoftmax if spec.discrete else TanhGaussian
        self.members = nn.ModuleList(
            kind(hidden, obs, action) for obs, action in zip(spec.obs_sizes, spec.action_sizes, strict=True)
        )

    def update_statistics(self, obs: Tensor, alive: Tensor | None = None) -> None:
        """Update the running normalisers, if there are any, with real observations (..., N, O) of those ``alive``."""
        for agent, scale in enumerate(self.obs_scales):
            assert isinstance(scale, Normalizer)
            scale.update(obs[..., agent, : self.spec.obs_sizes[agent]], None if alive is None else alive[..., agent])

    @torch.no_grad()
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        if mode:
            action = self.mode(view.obs, view.action_mask)
            return action, torch.zeros(action.shape[:-1], device=action.device)
        return self.sample(view.obs, view.action_mask)

    def sample_agent(self, agent: int, obs: Tensor, action_mask: Tensor) -> Sample:
        """Sample one agent's action (R, A), padded, and its log-probability (R,), from (R, N, O) and (R, N, A)."""
        action, log_prob = self._member(agent).sample(*self._own(agent, obs, action_mask))
        return self._padded(action), log_prob

    def sample(self, obs: Tensor, action_mask: Tensor) -> Sample:
        """Sample the joint action (R, N, A) and its log-probabilities (R, N)."""
        samples = [self.sample_agent(agent, obs, action_mask) for agent in range(self.spec.n_agents)]
        return torch.stack([action for action, _ in samples], dim=1), torch.stack([logp for _, logp in samples], dim=1)

    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """Joint action without noise, (R, N, A)."""
        modes = (self._member(n).mode(*self._own(n, obs, action_mask)) for n in range(self.spec.n_agents))
        return torch.stack([self._padded(action) for action in modes], dim=1)

    def _member(self, agent: int) -> SoftActor:
        member = self.members[agent]
        assert isinstance(member, SoftActor)
        return member

    def _own(self, agent: int, obs: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spec
        own = obs[:, agent, : spec.obs_sizes[agent]]
        if self.obs_scales:
            own = self.obs_scales[agent](own)
        return own, action_mask[:, agent, : spec.action_sizes[agent]]

    def _padded(self, action: Tensor) -> Tensor:
        return F.pad(action, (0, self.spec.action_dim - action.shape[-1]))


class TwinCritic(nn.Module):
    """Two independent Q-networks: state (R, S), joint action (R, N, A) -> (2, R)."""

    entries: Tensor  # (M,) positions of the real entries among the N * A of a joint action

    def __init__(self, hidden: Sequence[int], spec: EnvSpec) -> None:
        super().__init__()
        entries = torch.from_numpy(spec.action_valid).flatten().nonzero()[:, 0]
        self.register_buffer("entries", entries, persistent=False)
        sizes = (spec.state_dim + len(entries), *hidden, 1)
        self.twins = nn.ModuleList(mlp(sizes, relu) for _ in range(2))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        features = self._features(state, action)
        return torch.stack([twin(features)[..., 0].float() for twin in self.twins])

    def min_value(self, state: Tensor, action: Tensor) -> Tensor:
        """Smaller of both values (R,), with gradient to the action but not to the weights."""
        action = action.flatten(-2)[..., self.entries]
        value: Tensor = _MinValue.apply(state, action, *self.twins)  # type: ignore[no-untyped-call]
        return value

    def _features(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state, action.flatten(-2)[..., self.entries]], dim=-1)


class _MinValue(torch.autograd.Function):
    """Minimum over networks of linear layers and ReLUs, (R, S) and (R, E) -> (R,).

    Backward: gradient with respect to the action only, row by row through the smaller critic alone, which halves the
    work for twins.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, action: Tensor, *networks: nn.Sequential) -> Tensor:
        ctx.hidden, ctx.networks, values = [], networks, []
        ctx.state_dim = state.shape[-1]
        features = torch.cat([state, action], dim=-1)
        for network in networks:
            x, hidden = features, []
            for layer in network:
                x = layer(x)
                if isinstance(layer, nn.ReLU):
                    hidden.append(x)
            ctx.hidden.append(hidden)
            values.append(x[:, 0].float())
        smallest, ctx.which = torch.stack(values).min(0)
        return smallest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = None
        for number, (network, hidden) in enumerate(zip(ctx.networks, ctx.hidden, strict=True)):
            rows = (ctx.which == number).nonzero()[:, 0]
            first, *rest = (layer for layer in network if isinstance(layer, nn.Linear))
            weights = [first.weight[:, ctx.state_dim :], *(layer.weight for layer in rest)]
            flow = grad[rows, None] * weights.pop()
            for weight, active in zip(weights[::-1], hidden[::-1], strict=True):
                flow = torch.ops.aten.threshold_backward(flow, active.index_select(0, rows), 0) @ weight
            total = flow.new_zeros(len(grad), flow.shape[-1]) if total is None else total
            total[rows] = flow
        return None, total, *(None for _ in ctx.networks)
