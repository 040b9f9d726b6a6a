"""A policy as a function of padded arrays; its networks described as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dima.config import Config, Count, checked_fields, shown
from dima.data import EnvSpec, View
from dima.errors import ConfigError
from dima.policies.actors import Actor, ActorConfig, SeparateActors
from dima.policies.base import Policy
from dima.policies.soft_actors import SoftActors

_PPO_ACTORS: dict[str, type[Actor] | type[SeparateActors]] = {"shared": Actor, "separate": SeparateActors}


@dataclass(frozen=True)
class SoftActorsConfig(Config):
    """HASAC's policies, a network per agent."""

    hidden: tuple[Count, ...] = ()  # widths of the hidden layers
    normalize_obs: bool = False  # standardise observations by their running mean and deviation


class JointPolicy(nn.Module):
    """A team's policy: observations ``(B, N, O)``, allowed actions ``(B, N, A)`` -> joint action ``(B, N, A)``.

    Continuous actions are clipped to [-1, 1], which the agents' Boxes are scaled to; discrete ones are one-hot.
    """

    def __init__(self, policy: Policy, spec: EnvSpec) -> None:
        super().__init__()
        self.policy, self.spec = policy, spec

    def forward(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """The policy's mode."""
        return self._act(obs, action_mask, mode=True)

    def sample(self, obs: Tensor, action_mask: Tensor) -> Tensor:
        """Actions drawn from the policy."""
        return self._act(obs, action_mask, mode=False)

    def _act(self, obs: Tensor, action_mask: Tensor, mode: bool) -> Tensor:
        spec, rows = self.spec, obs.shape[0]
        view = View(
            obs=obs,
            state=obs.new_zeros(rows, spec.state_dim),  # policies act on observations alone
            action_mask=action_mask,
            previous_action=obs.new_zeros(rows, spec.n_agents, spec.action_dim),
        )
        action, _ = self.policy.act(view, mode)
        return action if spec.discrete else action.clamp(-1, 1)


def describe_network(policy: Policy) -> dict[str, Any] | None:
    """Kind and settings of a policy of the library as JSON data; None for a class of the user's own."""
    for kind, network in _PPO_ACTORS.items():
        if type(policy) is network:  # not one derived from it, which may compute something else
            assert isinstance(policy.config, ActorConfig)
            return {"kind": kind, "settings": policy.config.to_dict()}
    if type(policy) is SoftActors:
        settings = SoftActorsConfig(policy.hidden, normalize_obs=len(policy.obs_scales) > 0)
        return {"kind": "soft", "settings": settings.to_dict()}
    return None


def build_network(described: Mapping[str, Any], spec: EnvSpec) -> Policy:
    """A policy with initial weights, from the description in an untrusted file.

    Raises:
        ConfigError: there is no such network, or a setting is invalid.
    """
    kind, settings = described["kind"], described["settings"]
    if kind in _PPO_ACTORS:
        return _PPO_ACTORS[kind](checked_fields(ActorConfig, settings), spec)
    if kind == "soft":
        soft = checked_fields(SoftActorsConfig, settings)
        return SoftActors(soft.hidden, spec, soft.normalize_obs)
    raise ConfigError(f"there is no network {shown(kind)}")
