"""Toy tasks whose agents stay together, and what all toys share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.config import Config, EpisodeSteps, Range

Observations = dict[str, Any]
Step = tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class ToyConfig(Config):
    """Size of a toy task."""

    n_agents: Annotated[int, Range(1, 1000)] = 2  # toy/uneven has at most 3 different agents, then they repeat
    episode_limit: EpisodeSteps = 30  # steps until truncation


class Toy(ParallelEnv[str, Any, Any]):
    """Base class of the toy tasks: names, spaces, seeds, the time limit.

    A task sets ``observation_spaces`` and ``action_spaces`` and defines ``_start``, ``_move`` and ``_observe``.
    """

    name = "toy"

    def __init__(self, config: ToyConfig | None = None) -> None:
        self.config = config or ToyConfig()
        self.metadata = {"name": self.name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.possible_agents = [f"agent_{i}" for i in range(self.config.n_agents)]
        self.agents: list[str] = []
        self.episode_limit = self.config.episode_limit
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's observation space."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's action space."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode; without a seed the random stream continues."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self._steps = self.possible_agents[:], 0
        self._start()
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Step:
        """Move all agents at once."""
        rewards, terminated = self._move([actions[agent] for agent in self.possible_agents])
        self._steps += 1
        truncated, team = self._steps >= self.episode_limit, self.possible_agents
        if terminated or truncated:
            self.agents = []
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in team}
        rewarded = dict(zip(team, map(float, rewards), strict=True))
        return self._observe(), rewarded, dict.fromkeys(team, terminated), dict.fromkeys(team, truncated), infos

    def _start(self) -> None:
        raise NotImplementedError

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        """Move, and return the agents' rewards and whether the task terminated."""
        raise NotImplementedError

    def _observe(self) -> Observations:
        raise NotImplementedError


class Linear(Toy):
    """s' = A s + sum over agents k of B_k a_k + noise; agent k observes C_k s; the reward is -|s'|^2 / S.

    Attributes:
        A: (S, S); B: (N, S, 2); C: (N, 3, S); noise_cov: (S, S), not diagonal; start_std: of the first state.
    """

    name, state_dim = "linear", 4

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        n, size, rng = self.config.n_agents, self.state_dim, np.random.default_rng(7)
        turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
        self.A = turn @ np.diag(np.linspace(0.7, 0.3, size)) @ turn.T + 0.1 * np.eye(size, k=1)
        self.B = 0.4 * rng.normal(size=(n, size, 2))
        self.C = rng.normal(size=(n, 3, size))
        root = 0.6 * np.eye(size) + 0.2 * np.tril(rng.normal(size=(size, size)), -1)
        self.noise_cov, self.start_std = root @ root.T, 1.0
        self._root = root
        self.observation_spaces = {a: _box(3) for a in self.possible_agents}
        self.action_spaces = {a: _actions(2) for a in self.possible_agents}
        self.state_space = _box(size)

    def mean(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Expected next state, (..., S), given the state (..., S) and the joint action (..., N, 2)."""
        mean: np.ndarray = state @ self.A.T + np.einsum("nsa,...na->...s", self.B, action)
        return mean

    def state(self) -> np.ndarray:
        """(S,) float32: s."""
        return self._s.astype(np.float32)

    def _start(self) -> None:
        self._s = self.start_std * self._rng.normal(size=self.state_dim)

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        noise = self._root @ self._rng.normal(size=self.state_dim)
        self._s = self.mean(self._s, np.stack(actions).astype(np.float64)) + noise
        return [-np.square(self._s).mean()] * len(actions), False

    def _observe(self) -> Observations:
        seen = (self.C @ self._s).astype(np.float32)
        return dict(zip(self.possible_agents, seen, strict=True))


class Walk(Toy):
    """Each agent walks on [-1, 1], at most 0.2 a step, and pays its distance to a target drawn for the episode.

    An agent observes its position and its target's; the state is all positions, then all targets.
    """

    name = "walk"

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.observation_spaces = {a: _box(2) for a in self.possible_agents}
        self.action_spaces = {a: _actions(1) for a in self.possible_agents}
        self.state_space = _box(2 * self.config.n_agents)

    def state(self) -> np.ndarray:
        """(2N,) float32: positions, then targets."""
        return np.concatenate([self._position, self._target]).astype(np.float32)

    def _start(self) -> None:
        self._position, self._target = self._rng.uniform(-1, 1, size=(2, self.config.n_agents))

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        pushed = np.clip(np.concatenate(actions), -1, 1)
        self._position = np.clip(self._position + 0.2 * pushed, -1, 1)
        return -np.abs(self._position - self._target), False

    def _observe(self) -> Observations:
        seen = np.stack([self._position, self._target], axis=1).astype(np.float32)
        return dict(zip(self.possible_agents, seen, strict=True))


class Switches(Toy):
    """Agent i owns switch i. Flipped in the order 0, 1, 2, ...; all on terminates; each step costs 0.1.

    Actions: 0 wait, 1 switch on (allowed while off), 2 switch off (allowed while on). Switching on before its turn
    turns every switch off and costs 0.5; finishing pays 1. A forbidden action counts as waiting. An episode starts
    with the first few switches on, drawn at random; agents observe all switches and whether it is their turn.
    """

    name = "switches"

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        n = self.config.n_agents
        self.observation_spaces = {
            a: spaces.Dict(
                {
                    "observation": spaces.Box(0, 1, (n + 1,), np.float32),
                    "action_mask": spaces.Box(0, 1, (3,), np.int8),
                }
            )
            for a in self.possible_agents
        }
        self.action_spaces = {a: spaces.Discrete(3) for a in self.possible_agents}
        self.state_space = spaces.Box(0, 1, (n,), np.float32)

    def state(self) -> np.ndarray:
        """(N,) float32: which switches are on."""
        return self._on.astype(np.float32)

    def _start(self) -> None:
        self._on = np.arange(self.config.n_agents) < self._rng.integers(self.config.n_agents)

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        before, reward = self._on.copy(), -0.1
        for i, action in enumerate(actions):
            if action == 2:
                self._on[i] = False
            elif action == 1 and not before[i]:
                self._on[i] = True
        if any(action == 1 and not before[i] and not before[:i].all() for i, action in enumerate(actions)):
            self._on[:] = False
            reward -= 0.5
        done = bool(self._on.all())
        return [reward + done] * len(actions), done

    def _observe(self) -> Observations:
        seen = {}
        for i, agent in enumerate(self.possible_agents):
            turn = self._on[:i].all() and not self._on[i]
            mask = np.array([1, not self._on[i], self._on[i]], dtype=np.int8)
            seen[agent] = {"observation": np.append(self._on, turn).astype(np.float32), "action_mask": mask}
        return seen


class Uneven(Toy):
    """Agents that observe 2, 5 and 3 features and have 1, 3 and 2 actions (repeated for more agents).

    Agent i has a state of its own, its observation: x' = 0.9 x + W a + noise. Its reward is -mean(x^2), so rewards
    differ; there is no ``state()``.
    """

    name = "uneven"

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        rng, sizes = np.random.default_rng(11), [(2, 1), (5, 3), (3, 2)]
        shapes = [sizes[i % 3] for i in range(self.config.n_agents)]
        self._pushes = [0.3 * rng.normal(size=shape) for shape in shapes]
        self.observation_spaces = {a: _box(o) for a, (o, _) in zip(self.possible_agents, shapes, strict=True)}
        self.action_spaces = {a: _actions(k) for a, (_, k) in zip(self.possible_agents, shapes, strict=True)}

    def _start(self) -> None:
        self._x = [self._rng.normal(size=len(push)) for push in self._pushes]

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        moved = zip(self._x, self._pushes, actions, strict=True)
        self._x = [0.9 * x + push @ a + 0.05 * self._rng.normal(size=len(x)) for x, push, a in moved]
        return [-np.square(x).mean() for x in self._x], False

    def _observe(self) -> Observations:
        return {a: x.astype(np.float32) for a, x in zip(self.possible_agents, self._x, strict=True)}


def _box(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _actions(size: int) -> spaces.Box:
    return spaces.Box(-1, 1, (size,), np.float32)
