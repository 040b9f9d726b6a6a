"""A scripted PettingZoo environment, and whether MuJoCo can draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.envs.render import headless
from dima.errors import EnvError


class Puppet(ParallelEnv):
    """Two agents that end after 3 steps; tests replace what it returns by assigning to its hooks.

    Args:
        observation: agent -> observation space.
        action: agent -> action space.
        hooks: name -> function(step, value) -> value, for observations, rewards, terminations, truncations, infos,
            state and agents; "reset" and "step" are called before anything else happens.
    """

    def __init__(self, observation=None, action=None, limit=3, with_state=True, **hooks: Any) -> None:
        self.metadata = {"name": "puppet"}
        self.observation_spaces = observation or {a: spaces.Box(-9, 9, (2,), np.float32) for a in ("left", "right")}
        self.action_spaces = action or {a: spaces.Box(-1, 1, (1,), np.float32) for a in self.observation_spaces}
        self.possible_agents = list(self.observation_spaces)
        self.agents: list[str] = []
        self.limit, self.hooks, self.played = limit, hooks, []
        if not with_state:
            self.state = super().state

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def reset(self, seed=None, options=None):
        self.steps, self.rng = 0, np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self._hook("reset", None)
        self.agents = self._hook("agents", self.agents)
        return self._see(), self._hook("infos", {a: {} for a in self.possible_agents})

    def step(self, actions):
        self.steps += 1
        self.played.append(actions)
        self._hook("step", None)
        over = self.steps >= self.limit
        if over:
            self.agents = []
        self.agents = self._hook("agents", self.agents)
        team = self.possible_agents
        return (
            self._see(),
            self._hook("rewards", {a: float(i) for i, a in enumerate(team)}),
            self._hook("terminations", dict.fromkeys(team, False)),
            self._hook("truncations", dict.fromkeys(team, over)),
            self._hook("infos", {a: {} for a in team}),
        )

    def state(self):
        return self._hook("state", np.full(3, self.steps, dtype=np.float32))

    def _see(self):
        seen = {}
        for agent, space in self.observation_spaces.items():
            box = space["observation"] if isinstance(space, spaces.Dict) else space
            value = np.full(box.shape, self.steps, box.dtype) if isinstance(box, spaces.Box) else int(box.start)
            if isinstance(space, spaces.Dict):
                mask = np.ones(self.action_spaces[agent].n, dtype=np.int8)
                value = {"observation": value, "action_mask": mask}
            seen[agent] = value
        return self._hook("observations", seen)

    def _hook(self, name, value):
        return self.hooks[name](self.steps, value) if name in self.hooks else value


@pytest.fixture
def puppet():
    return Puppet


@pytest.fixture
def drawing() -> None:
    """Skips where MuJoCo has nothing to draw with."""
    try:
        headless.backend()
    except EnvError as error:
        pytest.skip(str(error))
