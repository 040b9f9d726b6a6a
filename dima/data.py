"""Records of tensors that the rooms exchange, and the letters of their axes.

B batch, T time, N agents, S state features, O observation features, A action features.

Agents may differ in observation and action size: arrays are padded to the largest, ``EnvSpec`` knows which
entries are real, and padding is zero everywhere. A discrete action is a one-hot vector of length A, so every
array of actions is ``(..., N, A)`` floating point; a continuous action may exceed [-1, 1]: the environment
adapter clips it and maps it to the environment's own bounds.

Where agents may leave before the others (die), who is still there is a part of the state: its last N features, 1 or 0.
So it is stored, predicted and imagined like the rest; ``EnvSpec.alive`` reads it. An agent that has left observes zeros
and acts zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:  # importing PyTorch takes seconds, which `dima tasks` and help texts do without
    import torch
    from torch import Tensor

R = TypeVar("R", bound="Record")
S = TypeVar("S", "Tensor", np.ndarray)


def rows_of(store: Tensor, which: Tensor) -> Tensor:
    """``store[which]`` for row numbers of any shape, several times as fast on a CPU."""
    return store.index_select(0, which.flatten()).unflatten(0, which.shape)


@dataclass(frozen=True)
class EnvSpec:
    """Agents and sizes of an environment, from which networks and buffers are built."""

    agents: tuple[str, ...]  # names, in the order of every N axis
    state_dim: int
    obs_sizes: tuple[int, ...]  # real observation features of each agent
    action_sizes: tuple[int, ...]  # real action features (continuous) or choices (discrete) of each agent
    discrete: bool
    masks_actions: bool = False  # the environment forbids some discrete actions in some states
    obs_has_id: bool = False  # observations identify the agent
    episode_limit: int | None = None  # steps after which an episode is truncated, if known
    agents_leave: bool = False  # agents may leave before the others: the state ends with N flags of who is there
    # infos whose value at an episode's end is reported in evaluations, such as success
    episode_metrics: tuple[str, ...] = field(default=(), compare=False)
    # builds another environment of the task, a dima.envs.base.JointEnv; unknown where the rest was read from a file
    make: Callable[[], Any] | None = field(default=None, compare=False, repr=False)

    @property
    def n_agents(self) -> int:
        return len(self.agents)

    @property
    def obs_dim(self) -> int:
        return max(self.obs_sizes)

    @property
    def action_dim(self) -> int:
        return max(self.action_sizes)

    def to_dict(self) -> dict[str, Any]:
        """All but ``make`` as plain data, equal to what JSON returns."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}

    def alive(self, state: S) -> S | None:
        """(..., N) bool: who is there in states (..., S); None where nobody leaves before the others."""
        return state[..., -self.n_agents :] > 0.5 if self.agents_leave else None

    def own_state(self, state: S) -> S:
        """What the environment's own ``state()`` says, without the flags of who is there."""
        return state[..., : -self.n_agents] if self.agents_leave else state

    @property
    def own_state_dim(self) -> int:
        """Size of :meth:`own_state`."""
        return self.state_dim - self.n_agents * self.agents_leave

    @property
    def obs_samples(self) -> tuple[int, ...]:
        """Shape of the number of observations (N, O) in running statistics: one for each agent where some may leave."""
        return (self.n_agents, 1) if self.agents_leave else ()

    def only(self, agent: int) -> EnvSpec:
        """The spec of one agent alone, without padding."""
        own = slice(agent, agent + 1)
        return replace(
            self, agents=self.agents[own], obs_sizes=self.obs_sizes[own], action_sizes=self.action_sizes[own]
        )

    @property
    def obs_names(self) -> list[str]:
        """Names of every agent's real observation features: the agent and a number."""
        return [f"{agent}:{i}" for agent, size in zip(self.agents, self.obs_sizes, strict=True) for i in range(size)]

    @cached_property
    def obs_valid(self) -> np.ndarray:
        """(N, O) bool: which observation features are real."""
        return np.arange(self.obs_dim) < np.array(self.obs_sizes)[:, None]

    @cached_property
    def action_valid(self) -> np.ndarray:
        """(N, A) bool: which action features are real."""
        return np.arange(self.action_dim) < np.array(self.action_sizes)[:, None]


@dataclass
class Record:
    """Tensors that are indexed, moved and concatenated together."""

    def __getitem__(self: R, index: Any) -> R:
        return self._each(lambda values: values[index])

    def part(self, kind: type[R]) -> R:
        """The fields of a smaller record."""
        return kind(**{f.name: getattr(self, f.name) for f in fields(kind)})

    @classmethod
    def cat(cls: type[R], parts: Sequence[R]) -> R:
        """Concatenate records along their first axis."""
        import torch

        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def to(self: R, device: torch.device | str) -> R:
        return self._each(lambda values: values.to(device))

    def clone(self: R) -> R:
        return self._each(lambda values: values.clone())

    def _each(self: R, change: Callable[[Tensor], Tensor]) -> R:
        """Change every tensor; what is None stays None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: None if value is None else change(value) for name, value in values.items()})


@dataclass
class View(Record):
    """Input of a policy: a team's observations at one time step, real or imagined, in the environment's units."""

    obs: Tensor  # (B, N, O)
    state: Tensor  # (B, S)
    action_mask: Tensor  # (B, N, A) bool, True where an action is allowed (all real entries when continuous)
    previous_action: Tensor  # (B, N, A) joint action of the time step before, zeros at an episode's start
    first: Tensor | None = None  # (B,) bool, the first step of a real episode; None where a world model imagines


Act: TypeAlias = "Callable[[View], tuple[Tensor, Tensor]]"  # view -> (B, N, A) actions, (B, N) log-probabilities


def choose(act: Act, view: View, spec: EnvSpec) -> tuple[Tensor, Tensor]:
    """Actions (B, N, A) and log-probabilities (B, N) of a policy, zero for agents that have left."""
    (action, log_prob), alive = act(view), spec.alive(view.state)
    return blank(action, alive), log_prob if alive is None else log_prob.where(alive, 0.0)


def blank(values: Tensor, alive: Tensor | None) -> Tensor:
    """``values`` (..., N, F), zero for agents that are not ``alive`` (..., N); None: all are."""
    return values if alive is None else values.where(alive[..., None], 0.0)


@dataclass
class Episode(Record):
    """A real episode of T steps; ``obs``, ``state`` and ``action_mask`` also hold the final observation."""

    obs: Tensor  # (T + 1, N, O)
    state: Tensor  # (T + 1, S)
    action_mask: Tensor  # (T + 1, N, A) bool
    action: Tensor  # (T, N, A)
    reward: Tensor  # (T,) mean over agents
    terminated: Tensor  # (T,) bool: the task ended; a time limit is not that
    truncated: Tensor  # (T,) bool: the time limit cut the episode

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def team_return(self) -> float:
        """Sum over steps of the mean reward over agents."""
        return float(self.reward.double().sum())


def check_episode(episode: Episode, spec: EnvSpec) -> None:
    """Make sure that an episode is one of a task's.

    Raises:
        ValueError: its tensors have other shapes or kinds.
    """
    import torch

    steps, agents = len(episode), spec.n_agents
    shapes = {
        "obs": (steps + 1, agents, spec.obs_dim),
        "state": (steps + 1, spec.state_dim),
        "action_mask": (steps + 1, agents, spec.action_dim),
        "action": (steps, agents, spec.action_dim),
        "reward": (steps,),
        "terminated": (steps,),
        "truncated": (steps,),
    }
    for name, shape in shapes.items():
        values, truth = getattr(episode, name), name in ("action_mask", "terminated", "truncated")
        if values.dtype is not (torch.bool if truth else torch.float32) or tuple(values.shape) != shape or not steps:
            raise ValueError(f"{name} of an episode is not of the task's sizes")


@dataclass
class Rollout(Record):
    """B segments of T steps for an on-policy update, real or imagined."""

    obs: Tensor  # (B, T, N, O)
    state: Tensor  # (B, T, S)
    action_mask: Tensor  # (B, T, N, A) bool
    previous_action: Tensor  # (B, T, N, A)
    action: Tensor  # (B, T, N, A)
    log_prob: Tensor  # (B, T, N) of each agent's action under the policy that chose it
    reward: Tensor  # (B, T)
    continuation: Tensor  # (B, T) probability that the task continues after this step: 1 - terminated if real
    boundary: Tensor  # (B, T) bool: the next row belongs to another episode (ended or cut), or there is none
    next_state: Tensor  # (B, T, S) true next state, also at a boundary


@dataclass
class TransitionBatch(Record):
    """Transitions of B environments over T steps, for off-policy learning."""

    obs: Tensor  # (B, T, N, O)
    state: Tensor  # (B, T, S)
    action_mask: Tensor  # (B, T, N, A) bool
    action: Tensor  # (B, T, N, A)
    reward: Tensor  # (B, T)
    terminated: Tensor  # (B, T) bool: the task ended in this step
    boundary: Tensor  # (B, T) bool: the next step belongs to another episode
    next_obs: Tensor  # (B, T, N, O) true next observations, also at a boundary
    next_state: Tensor  # (B, T, S)
    next_mask: Tensor  # (B, T, N, A) bool
