"""The file that docs/smac.md gives to owners of StarCraft, played on a stand-in with the game's interface."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pettingzoo.test.parallel_test import parallel_api_test

from dima.envs import make_env
from dima.envs.check import check_environment, random_action
from dima.envs.pettingzoo import PettingZooConfig

PAGE = Path(__file__).parents[2] / "docs" / "smac.md"


class Game:
    """Two allies and an enemy who dies of three shots; the second ally dies in the second step."""

    crashes = False

    def __init__(self, map_name, continuing_episode=False, seed=None, **settings):
        self.settings = settings | {"map_name": map_name}
        self.continuing, self.closed = continuing_episode, False

    def get_env_info(self):
        return {"state_shape": 3, "obs_shape": 2, "n_actions": 3, "n_agents": 2, "episode_limit": 4}

    def reset(self):
        self.steps, self.health = 0, 3
        return self.get_obs(), self.get_state()

    def get_obs(self):
        return [np.full(2, self.health * alive, np.float64) for alive in self.alive]

    def get_state(self):
        return np.array([self.health, *self.alive], np.float32)

    @property
    def alive(self):
        return [True, self.steps < 2]

    def get_avail_agent_actions(self, agent):
        return [0, 1, 1] if self.alive[agent] else [1, 0, 0]  # no-op, wait, shoot

    def step(self, actions):
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action], "a masked action"
        self.steps += 1
        if self.crashes and self.steps == 2:
            return 0, True, {}
        self.health -= min(self.health, sum(action == 2 for action in actions))
        won, timeout = self.health == 0, self.health > 0 and self.steps == 4
        info = {"battle_won": won, "dead_allies": 2 - sum(self.alive), "dead_enemies": int(won)}
        if timeout and self.continuing:
            info["episode_limit"] = True
        return sum(action == 2 for action in actions) / 3, won or timeout, info

    def close(self):
        self.closed = True


class Generated(Game):
    def __init__(self, capability_config, **settings):
        super().__init__(**settings)
        self.teams = capability_config


@pytest.fixture
def battles(tmp_path, monkeypatch):
    """The page's module, importable by name, on the stand-in."""
    for name, things in {
        "smacv2": {},
        "smacv2.env": {"StarCraft2Env": Game},
        "smacv2.env.starcraft2": {},
        "smacv2.env.starcraft2.wrapper": {"StarCraftCapabilityEnvWrapper": Generated},
    }.items():
        module = ModuleType(name)
        vars(module).update(things)
        monkeypatch.setitem(sys.modules, name, module)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    (tmp_path / "battles.py").write_text(code[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "battles", raising=False)


def outcome(env, choose):
    """How an episode ends: steps, return, termination and truncation, success."""
    joint, infos = env.reset(seed=0)
    total, steps, ends = 0.0, 0, (False, False)
    while not any(ends):
        assert not any(info["success"] for info in infos.values())
        action = np.eye(3, dtype=np.float32)[np.where(joint["action_mask"][:, choose], choose, 0)]
        joint, reward, *ends, infos = env.step(action)
        total, steps = total + reward, steps + 1
    return steps, round(total, 6), tuple(ends), {info["success"] for info in infos.values()}


@pytest.mark.parametrize("factory", ["smac", "smacv2"])
def test_it_is_fit_for_training(battles, factory):
    env = make_env(f"battles:{factory}")
    assert (env.spec.n_agents, env.spec.obs_dim, env.spec.action_dim, env.spec.state_dim) == (2, 2, 3, 3)
    assert env.spec.masks_actions
    assert env.spec.episode_limit == 4
    report = check_environment(f"battles:{factory}")
    assert report.ok, report.lines
    env.close()
    assert env.parallel_env.game.closed


def test_victory_time_limit_and_crash_are_told_apart(battles, monkeypatch):
    env = make_env("battles:smac", PettingZooConfig(arguments='{"map_name": "8m", "seed": 3}'))
    assert env.parallel_env.game.settings == {"map_name": "8m"}
    parallel_api_test(env.parallel_env, num_cycles=20)
    assert outcome(env, choose=2) == (2, pytest.approx(4 / 3), (True, False), {True})
    assert outcome(env, choose=1) == (4, 0.0, (False, True), {False})
    monkeypatch.setattr(Game, "crashes", True)
    assert outcome(env, choose=1) == (2, 0.0, (False, True), {False})


def test_the_dead_are_given_the_no_op(battles):
    env = make_env("battles:smac")
    joint, _ = env.reset()
    for _ in range(2):
        joint, *_ = env.step(np.eye(3, dtype=np.float32)[[1, 1]])
    assert joint["action_mask"].tolist() == [[False, True, True], [True, False, False]]
    env.step(random_action(env.spec, joint["action_mask"], np.random.default_rng(0)))
