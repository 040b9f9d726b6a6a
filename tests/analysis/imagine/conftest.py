"""A toy environment, and world models that predict it more or less well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from torch import Tensor

from dima.data import EnvSpec, View
from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.world_models.base import Step, WorldModel

PACE = 0.5


class Stride(ParallelEnv):
    """Two agents on a line: each moves by half its action; the reward is where they are. Past ``goal`` it is over."""

    metadata = {"name": "stride"}  # noqa: RUF012

    def __init__(self, limit: int = 40, goal: float = np.inf, jitter: bool = False) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        self.episode_limit, self.goal, self.jitter = limit, goal, jitter
        self.unseeded = np.random.default_rng(0)

    def observation_space(self, agent):
        return spaces.Box(-np.inf, np.inf, (2 if agent == "a" else 1,), np.float32)

    def action_space(self, agent):
        return spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.steps = self.possible_agents[:], 0
        self.x = (self.unseeded if self.jitter else np.random.default_rng(seed)).uniform(-1, 1, 2).astype(np.float32)
        return self._see(), {a: {} for a in self.agents}

    def step(self, actions):
        self.steps += 1
        self.x = self.x + np.float32(PACE) * np.concatenate([actions[a] for a in self.possible_agents])
        over, late = bool(np.abs(self.x).max() > self.goal), self.steps >= self.episode_limit
        team = self.possible_agents
        self.agents = [] if over or late else team[:]
        rewards = dict.fromkeys(team, float(self.x.mean()))
        return self._see(), rewards, dict.fromkeys(team, over), dict.fromkeys(team, late), {a: {} for a in team}

    def state(self):
        return self.x

    def _see(self):
        return {"a": self.x, "b": self.x[1:]}


class Dots(Scene[np.ndarray]):
    """Draws :class:`Stride`: grey as light as the first agent is far; the pose is both places."""

    seconds = 0.2

    def __init__(self, env: Stride) -> None:
        self.env = env

    def now(self):
        return self.env.x.copy()

    def poses(self, states, first):
        return list(states)

    def draw(self, pose):
        return np.full((12, 16, 3), np.clip(128 + 10 * pose[0], 0, 255), np.uint8)

    def measures(self, pose):
        return {"x": float(pose[0])}


@dataclass
class Latent:
    """Latent of :class:`DriftingModel`."""

    x: Tensor  # (B, 2)
    previous: Tensor  # (B, 2, 1)


class DriftingModel(WorldModel[Latent]):
    """True dynamics of :class:`Stride` with a drift; predicts no termination.

    Args:
        spec: of the environment.
        drift: added to both places at every step.
        noise: standard deviation of the noise that is added.
    """

    context = 3

    def __init__(self, spec: EnvSpec, drift: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.spec, self.drift, self.noise = spec, drift, noise
        self.rows: Any = None

    def start(self, rows):
        self.rows = rows
        return Latent(rows.state[:, -1], torch.zeros(len(rows.state), 2, 1))

    def observe(self, latent):
        second = torch.stack([latent.x[:, 1], torch.zeros_like(latent.x[:, 1])], dim=1)
        mask = torch.ones(len(latent.x), 2, 1, dtype=torch.bool)
        return View(torch.stack([latent.x, second], dim=1), latent.x, mask, latent.previous)

    def step(self, latent, action):
        x = latent.x + PACE * action[..., 0] + self.drift + self.noise * torch.randn_like(latent.x)
        return Step(Latent(x, action), x.mean(-1), torch.ones(len(x)))

    def update_statistics(self, episodes): ...
    def objectives(self): ...


def homeward(view: View) -> tuple[Tensor, Tensor]:
    """A policy: the first agent goes on, away from zero, the second home."""
    action = torch.stack([view.obs[:, 0, 0], -view.obs[:, 1, 0]], dim=1)[..., None].clamp(-1, 1)
    return action, torch.zeros(len(action), 2)


@pytest.fixture
def stride() -> Callable[..., JointEnv]:
    """Builds the environment."""
    return lambda **options: JointEnv(Stride(**options), name="stride")


@pytest.fixture
def drifting_model() -> type[DriftingModel]:
    return DriftingModel


@pytest.fixture
def dots() -> Callable[[JointEnv], Dots]:
    return lambda env: Dots(env.parallel_env)


@pytest.fixture
def policy() -> Callable[[View], tuple[Tensor, Tensor]]:
    return homeward
