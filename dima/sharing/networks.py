"""A policy's mode as a function of padded arrays; its networks described as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dima.config import Config, Count, checked_fields, shown
from dima.data import EnvSpec, View
from dima.errors import ConfigError
from dima.policies.actors import Actor, ActorConfig, SeparateActors
from dima.policies.base import PerceivingPolicy, Policy
from dima.policies.soft_actors import SoftActors
from dima.sharing.perceptions import build_perception, describe_perception

_PPO_ACTORS: dict[str, type[Actor] | type[SeparateActors]] = {"shared": Actor, "separate": SeparateActors}


@dataclass(frozen=True)
class SoftActorsConfig(Config):
    """HASAC's policies, a network per agent."""

    hidden: tuple[Count, ...] = ()  # widths of the hidden layers
    normalize_obs: bool = False  # standardise observations by their running mean and deviation


class JointPolicy(nn.Module):
    """The mode of a team's policy: observations ``(B, N, O)``, allowed actions ``(B, N, A)`` -> actions ``(B, N, A)``.

    Continuous actions are clipped to [-1, 1], which the agents' Boxes are scaled to; discrete ones are one-hot. With a
    memory, the step before's outputs are inputs as well, the action first, and zeros where an episode begins.

    Attributes:
        memory: name and shape (without B) of every output, where it is an input of the next step; empty without memory.

    Raises:
        ConfigError: the policy has a memory of the episode without saying of what kind.
    """

    def __init__(self, policy: Policy, spec: EnvSpec) -> None:
        super().__init__()
        self.policy, self.spec = policy, spec
        self.memory: dict[str, tuple[int, ...]] = {}
        if policy.recurrent:
            initial = _initial_memory(policy)
            own = {name: tuple(values.shape[1:]) for name, values in initial._asdict().items()}
            self.memory, self._kind = {"action": (spec.n_agents, spec.action_dim), **own}, type(initial)

    def forward(self, obs: Tensor, action_mask: Tensor, *memory: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The action; of a policy with a memory, what the next step remembers, in the order of :attr:`memory`."""
        spec, rows, after = self.spec, obs.shape[0], None
        view = View(
            obs=obs,
            state=obs.new_zeros(rows, spec.state_dim),  # policies act on observations alone
            action_mask=action_mask,
            previous_action=memory[0] if memory else obs.new_zeros(rows, spec.n_agents, spec.action_dim),
        )
        if memory:
            assert isinstance(self.policy, PerceivingPolicy)
            view.first = obs.new_zeros(rows, dtype=torch.bool)  # a memory of zeros is that of an episode's begin
            action, _, after = self.policy.step(view, self._kind(*memory[1:]), mode=True)
        else:
            action, _ = self.policy.act(view, mode=True)
        action = action if spec.discrete else action.clamp(-1, 1)
        return action if after is None else (action, *after)


def _initial_memory(policy: Policy) -> Any:
    """A memory of one row before an episode's first view, a NamedTuple."""
    initial: Any = policy.perception.initial_memory(1) if isinstance(policy, PerceivingPolicy) else None
    named = isinstance(initial, tuple) and "action" not in getattr(initial, "_fields", ["action"])
    if named and all(isinstance(one, Tensor) and one.dtype == torch.float32 and not one.any() for one in initial):
        return initial
    raise ConfigError(
        f"its policy {class_of(policy)} has a memory of the episode of an unknown kind: declare it by initial_memory "
        "of a dima.policies.base.Perception, or act with dima.load(run)"
    )


def class_of(policy: Policy) -> str:
    """Name of a policy's class, with those of its parts."""
    own = type(policy).__name__
    if isinstance(policy, PerceivingPolicy):
        return f"{own}({type(policy.perception).__name__}, {class_of(policy.policy)})"
    return own


def describe_network(policy: Policy) -> dict[str, Any] | None:
    """Kind and settings of a policy of the library as JSON data; None for a class of the user's own."""
    for kind, network in _PPO_ACTORS.items():
        if type(policy) is network:  # not one derived from it, which may compute something else
            assert isinstance(policy.config, ActorConfig)
            return {"kind": kind, "settings": policy.config.to_dict()}
    if type(policy) is SoftActors:
        settings = SoftActorsConfig(policy.hidden, normalize_obs=len(policy.obs_scales) > 0)
        return {"kind": "soft", "settings": settings.to_dict()}
    if type(policy) is PerceivingPolicy:
        perception, acting = describe_perception(policy.perception), describe_network(policy.policy)
        if perception is not None and acting is not None:
            return {"kind": "perceiving", "perception": perception, "policy": acting}
    return None


def build_network(described: Mapping[str, Any], spec: EnvSpec) -> Policy:
    """A policy with initial weights, from the description in an untrusted file.

    Raises:
        ConfigError: there is no such network, or a setting is invalid.
    """
    kind = described["kind"]
    if kind == "perceiving":
        perception, seen = build_perception(described["perception"], spec)
        if described["policy"]["kind"] == kind:  # such a description may have any depth
            raise ConfigError("a policy behind a perception has another perception")
        return PerceivingPolicy(perception, build_network(described["policy"], seen))
    settings = described["settings"]
    if kind in _PPO_ACTORS:
        return _PPO_ACTORS[kind](checked_fields(ActorConfig, settings), spec)
    if kind == "soft":
        soft = checked_fields(SoftActorsConfig, settings)
        return SoftActors(soft.hidden, spec, soft.normalize_obs)
    raise ConfigError(f"there is no network {shown(kind)}")
