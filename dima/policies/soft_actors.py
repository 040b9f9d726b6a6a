"""Actors that are improved through their samples, and the twin critic that judges them (HASAC; model-free section 2).

Each agent has a network of its own, at its own sizes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.nn.mlp import RELU_GAIN, Tanh, mlp, relu
from dima.policies.distributions import FORBIDDEN

LOG_STD = (-20.0, 2.0)  # bounds of a logarithm of a standard deviation
Draw = tuple[Tensor, Tensor]  # (R, A) action, (R,) its log-probability; both differentiable


class SoftActor(nn.Module, ABC):
    """One agent's observation (R, O) -> its actions."""

    @abstractmethod
    def draw(self, obs: Tensor, action_mask: Tensor) -> Draw:
        """A random action that gradients flow through; ``action_mask`` is (R, A) bool."""

    @abstractmethod
    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """(R, A) the action without noise."""


class TanhGaussian(SoftActor):
    """A Gaussian squashed into (-1, 1); its last hidden layer is squashed too, as in the authors' networks."""

    def __init__(self, hidden: Sequence[int], obs_dim: int, action_dim: int) -> None:
        super().__init__()
        layers = mlp((obs_dim, *hidden, 2 * action_dim), relu)
        if hidden:
            layers[-2] = Tanh()
        self.net = layers

    def draw(self, obs: Tensor, action_mask: Tensor) -> Draw:
        mean, log_std = self._moments(obs)
        noise = torch.randn_like(mean)
        before = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without its cancellation
        squashed = 2 * (math.log(2) - before - F.softplus(-2 * before))
        return before.tanh(), (density - squashed).sum(-1)

    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        return self._moments(obs)[0].tanh()

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(obs).float().chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)


class Gumbel(SoftActor):
    """A choice, one-hot on the way forward and softened on the way back (straight-through, temperature 1)."""

    def __init__(self, hidden: Sequence[int], obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(obs_dim),
            *mlp((obs_dim, *hidden, action_dim), relu, norm=True, gain=RELU_GAIN, head_gain=0.01),
        )

    def draw(self, obs: Tensor, action_mask: Tensor) -> Draw:
        log_probs = self._log_probs(obs, action_mask)
        clocks = torch.empty_like(log_probs).exponential_().clamp_(min=1e-20)
        soft = (log_probs - clocks.log()).softmax(-1)  # minus the logarithm of an exponential is a Gumbel
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        action = hard + soft - soft.detach()
        return action, (action * log_probs).sum(-1)

    def mode(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        best = self._log_probs(obs, action_mask).argmax(-1)
        return F.one_hot(best, action_mask.shape[-1]).to(obs.dtype)

    def _log_probs(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        return torch.where(action_mask, self.net(obs).float(), FORBIDDEN).log_softmax(-1)


class SoftActors(nn.Module):
    """A team of them; observations and actions are padded to the widest agent outside, not inside."""

    def __init__(self, hidden: Sequence[int], spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        kind = Gumbel if spec.discrete else TanhGaussian
        self.members = nn.ModuleList(
            kind(hidden, obs, action) for obs, action in zip(spec.obs_sizes, spec.action_sizes, strict=True)
        )

    def draw(self, agent: int, obs: Tensor, action_mask: Tensor) -> Draw:
        """One agent's action (R, A), padded, and its log-probability (R,), from (R, N, O) and (R, N, A)."""
        action, log_prob = self._member(agent).draw(*self._own(agent, obs, action_mask))
        return self._padded(action), log_prob

    def draw_all(self, obs: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Everybody's action (R, N, A) and log-probability (R, N)."""
        drawn = [self.draw(agent, obs, action_mask) for agent in range(self.spec.n_agents)]
        return torch.stack([action for action, _ in drawn], dim=1), torch.stack([told for _, told in drawn], dim=1)

    def mode_all(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """Everybody's action without noise, (R, N, A)."""
        chosen = (self._member(n).mode(*self._own(n, obs, action_mask)) for n in range(self.spec.n_agents))
        return torch.stack([self._padded(action) for action in chosen], dim=1)

    def _member(self, agent: int) -> SoftActor:
        member = self.members[agent]
        assert isinstance(member, SoftActor)
        return member

    def _own(self, agent: int, obs: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spec
        return obs[:, agent, : spec.obs_sizes[agent]], action_mask[:, agent, : spec.action_sizes[agent]]

    def _padded(self, action: Tensor) -> Tensor:
        return F.pad(action, (0, self.spec.action_dim - action.shape[-1]))


class TwinCritic(nn.Module):
    """State (R, S) and joint action (R, N, A) -> two independent values (2, R)."""

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

    def lower(self, state: Tensor, action: Tensor) -> Tensor:
        """(R,) the lower of both values, for those who act: no gradient reaches the critics' weights."""
        action = action.flatten(-2)[..., self.entries]
        value: Tensor = _Lower.apply(state, action, *self.twins)  # type: ignore[no-untyped-call]
        return value

    def _features(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.cat([state, action.flatten(-2)[..., self.entries]], dim=-1)


class _Lower(torch.autograd.Function):
    """The lower value of several networks of linear layers and ReLUs, (R, S) and (R, E) -> (R,).

    The way back goes to the second input only, and through the lower network alone on each row, which halves its work
    for twins.
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
        lower, ctx.which = torch.stack(values).min(0)
        return lower

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = None
        for number, (network, hidden) in enumerate(zip(ctx.networks, ctx.hidden, strict=True)):
            rows = (ctx.which == number).nonzero()[:, 0]
            first, *others = (layer for layer in network if isinstance(layer, nn.Linear))
            weights = [first.weight[:, ctx.state_dim :], *(layer.weight for layer in others)]
            flow = grad[rows, None] * weights.pop()
            for weight, active in zip(weights[::-1], hidden[::-1], strict=True):
                flow = torch.ops.aten.threshold_backward(flow, active.index_select(0, rows), 0) @ weight
            found = flow.new_zeros(len(grad), flow.shape[-1]) if found is None else found
            found[rows] = flow
        return None, found, *(None for _ in ctx.networks)
