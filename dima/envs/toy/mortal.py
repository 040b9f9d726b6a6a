"""Toy tasks whose agents leave one by one: by chance, and through what they do."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from gymnasium import spaces

from dima.envs.toy.worlds import Observations, Step, Toy, ToyConfig


class Mortal(Toy):
    """Base class of these tasks: who is there; only they act, observe and are rewarded.

    A task defines ``_start``, ``_live`` and ``_observe`` (of all agents).
    """

    agents_leave = True

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        self._alive = np.ones(self.config.n_agents, dtype=bool)
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> Step:
        """Move those who are there; the last to leave ends the episode."""
        team = self.agents
        rewards, over = self._live({i: actions[a] for i, a in enumerate(self.possible_agents) if a in team})
        self._steps += 1
        gone = {a: over or not self._alive[i] for i, a in enumerate(self.possible_agents) if a in team}
        cut = {agent: not gone[agent] and self._steps >= self.episode_limit for agent in team}
        self.agents = [agent for agent in team if not (gone[agent] or cut[agent])]
        seen, earned = self._observe(), dict(zip(self.possible_agents, map(float, rewards), strict=True))
        return {a: seen[a] for a in team}, {a: earned[a] for a in team}, gone, cut, {a: {} for a in team}

    @abstractmethod
    def _live(self, actions: dict[int, Any]) -> tuple[np.ndarray, bool]:
        """Move, marking in ``_alive`` who dies; returns rewards (N,) and whether the task is over for all."""


class Crossfire(Mortal):
    """Agents shoot at an enemy of health 2 N, who shoots back at one of them, drawn at random.

    Actions: 0 duck, 1 shoot (allowed while loaded), 2 load (allowed while not). A shot hits and earns its share of the
    enemy's health, so that all of them sum to 1; the last one wins. The enemy kills its target with probability 0.4 if
    that one shot, 0.1 if it loaded, never if it ducked. Agents observe whether they are loaded, the enemy's health and
    how many of them are there; the state has no word on who that is.
    """

    name = "crossfire"

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        features: dict[str, spaces.Space[Any]] = {
            "observation": spaces.Box(0, 1, (3,), np.float32),
            "action_mask": spaces.Box(0, 1, (3,), np.int8),
        }
        self.observation_spaces = {agent: spaces.Dict(features) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}
        self.state_space = spaces.Box(0, 1, (1 + self.config.n_agents,), np.float32)

    def state(self) -> np.ndarray:
        """(1 + N,) float32: the enemy's health as a share, who is loaded."""
        return np.array([self._health / (2 * self.config.n_agents), *self._loaded], dtype=np.float32)

    def _start(self) -> None:
        self._health = 2 * self.config.n_agents
        self._loaded = self._rng.random(self.config.n_agents) < 0.5

    def _live(self, actions: dict[int, Any]) -> tuple[np.ndarray, bool]:
        rewards = np.zeros(self.config.n_agents)
        for i, action in actions.items():
            if action == 1 and self._loaded[i] and self._health:
                self._health, rewards[i] = self._health - 1, 0.5 / self.config.n_agents
            self._loaded[i] = {0: self._loaded[i], 1: False, 2: True}[int(action)]
        target, risk = self._rng.choice(list(actions)), self._rng.random()
        if risk < {0: 0.0, 1: 0.4, 2: 0.1}[int(actions[target])]:
            self._alive[target], self._loaded[target] = False, False
        return rewards, self._health == 0

    def _observe(self) -> Observations:
        shared = self._health / (2 * self.config.n_agents), self._alive.mean()
        return {
            agent: {
                "observation": np.array([loaded, *shared], dtype=np.float32),
                "action_mask": np.array([1, loaded, not loaded], dtype=np.int8),
            }
            for agent, loaded in zip(self.possible_agents, self._loaded, strict=True)
        }


class Cliff(Mortal):
    """Agents walk on [-1, 1] in gusts of wind and earn the more, the further right they are; beyond an end they fall.

    An agent observes its position and how many of them are there; there is no ``state()``.
    """

    name = "cliff"

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.observation_spaces = {a: spaces.Box(-2, 2, (2,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: spaces.Box(-1, 1, (1,), np.float32) for a in self.possible_agents}

    def _start(self) -> None:
        self._position = self._rng.uniform(-0.5, 0.5, self.config.n_agents)

    def _live(self, actions: dict[int, Any]) -> tuple[np.ndarray, bool]:
        gusts = 0.1 * self._rng.normal(size=self.config.n_agents).clip(-3, 3)
        for i, action in actions.items():
            self._position[i] += 0.3 * float(np.clip(action[0], -1, 1)) + gusts[i]
        self._alive &= np.abs(self._position) <= 1
        return np.where(self._alive, 0.5 + 0.5 * self._position, 0), False

    def _observe(self) -> Observations:
        share = self._alive.mean()
        return {a: np.array([x, share], np.float32) for a, x in zip(self.possible_agents, self._position, strict=True)}
