"""SMAX; what needs its package is skipped where that is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from pettingzoo.test.parallel_test import parallel_api_test

from dima.envs import all_tasks, make_env, make_parallel_env
from dima.envs.check import check_environment, random_action
from dima.envs.smax import MAPS, SmaxConfig
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, EnvError

installed = pytest.mark.skipif(find_spec("jaxmarl") is None, reason="needs the extra dima-marl[smax]")
EAST, STOP, SHOOT = 1, 4, 5  # actions; from SHOOT on: at the enemy of that number


def shoot_weakest(env, joint):
    """Shoot at the weakest enemy in range, else go to meet them; (N, A) one-hot."""
    n, enemies, mask = env.spec.n_agents, env.spec.action_dim - SHOOT, joint["action_mask"]
    units = joint["obs"][:, : -(4 + 6)].reshape(n, n - 1 + enemies, -1)  # others' features, of allies first
    health = np.where(mask[:, SHOOT:], units[:, n - 1 :, 0], np.inf)
    otherwise = np.where(mask[:, EAST], EAST, STOP)
    choice = np.where(mask[:, SHOOT:].any(1), SHOOT + health.argmin(1), otherwise)
    return np.eye(env.spec.action_dim, dtype=np.float32)[choice]


def battle(env, act, seed):
    """Joint observations, rewards, how it ended, and whether it was won, of an episode."""
    joint, infos = env.reset(seed=seed)
    joints, rewards, ends = [joint], [], (False, False)
    while not any(ends):
        assert not any(info["success"] for info in infos.values())
        joint, reward, *ends, infos = env.step(act(env, joint))
        joints.append(joint)
        rewards.append(reward)
    successes = {info["success"] for info in infos.values()}
    assert len(successes) == 1
    return joints, rewards, tuple(ends), successes.pop()


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda env, joint: random_action(env.spec, joint["action_mask"], rng)


def test_its_tasks_are_listed_without_its_package():
    before = set(sys.modules)
    listed = {task.name: task for task in all_tasks() if task.name.startswith("smax/")}
    assert set(listed) == {f"smax/{name}" for name in MAPS}
    assert listed["smax/5m_vs_6m"].n_agents == 5
    assert "needs dima-marl[smax]" in listed["smax/3m"].note
    assert not {"jax", "jaxmarl"} & (set(sys.modules) - before)


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    config = SmaxConfig(max_steps=7)  # of no other test: nothing is built yet
    with pytest.raises(EnvError, match=r"^smax/3m needs the package jaxmarl .*: pip install 'dima-marl\[smax\]'$"):
        make_env("smax/3m", config)
    with pytest.raises(ConfigError, match=r"^smax/5m_vs_6: no such map: did you mean '5m_vs_6m'\?$"):
        make_env("smax/5m_vs_6")


@installed
def test_the_maps_are_those_of_the_package():
    make_parallel_env("smax/3m")  # imports it, silently
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert {name: (s.num_allies, s.num_enemies) for name, s in MAP_NAME_TO_SCENARIO.items()} == {
        name: (allies, enemies) for name, (allies, enemies, _) in MAPS.items()
    }


@installed
def test_it_is_a_pettingzoo_environment():
    parallel_api_test(make_parallel_env("smax/3m"), num_cycles=60)
    report = check_environment("smax/3m")
    assert report.ok
    assert [f.text for f in report.findings if f.verdict == "note"] == [
        "PettingZoo's seed test is left out: it ignores action masks; ours follows"
    ]


@installed
def test_seeds_decide_everything_and_differ():
    env, other = make_env("smax/3m"), make_env("smax/3m")
    first = battle(env, at_random(0), seed=3)
    battle(other, at_random(1), seed=4)
    for again in (battle(env, at_random(0), seed=3), battle(other, at_random(0), seed=3)):
        for one, two in zip(first[0], again[0], strict=True):
            assert all(np.array_equal(one[name], two[name]) for name in one)
        assert first[1:] == again[1:]
    starts = [env.reset(seed=seed)[0]["state"] for seed in (5, 5 + 2**32, 6)]
    assert not any(np.array_equal(starts[0], start) for start in starts[1:])  # no bit of a seed is lost
    following = [env.reset()[0]["state"] for _ in range(2)]
    assert not np.array_equal(*following)


@installed
def test_those_who_shoot_win_and_success_says_so():
    env = make_env("smax/3m")
    battles = [battle(env, shoot_weakest, seed) for seed in range(12)]
    assert sum(won for *_, won in battles) >= 5
    for _, rewards, ends, success in battles:
        assert sum(rewards) == pytest.approx(2, abs=1e-4) if success else sum(rewards) < 1.5
        assert ends == (True, False)
    assert not any(battle(env, at_random(seed), seed)[3] for seed in range(5))


@installed
def test_the_dead_stay_and_may_only_stop():
    env = make_env("smax/3m")
    seen = 0
    for seed in range(6):
        joints, _, _, _ = battle(env, shoot_weakest, seed)
        for joint in joints[:-1]:
            dead = joint["state"][[10 * unit for unit in range(3)]] == 0  # health
            for agent in np.flatnonzero(dead):
                seen += 1
                assert not joint["obs"][agent].any()
                assert np.flatnonzero(joint["action_mask"][agent]).tolist() == [STOP]
            assert joint["action_mask"][~dead, :SHOOT].all()
    assert seen
    names = env.state_names()
    assert len(names) == len(set(names)) == env.spec.state_dim
    assert names[0] == "ally_0: health"


@installed
def test_a_time_limit_is_a_truncation():
    env = make_env("smax/3m", SmaxConfig(max_steps=4))
    joints, _, ends, won = battle(env, shoot_weakest, 0)
    assert (len(joints), ends, won, env.spec.episode_limit) == (5, (False, True), False, 4)


@installed
def test_every_map_is_of_its_size():
    """Sizes of a map with unequal teams, as in the list of tasks."""
    env = make_env("smax/5m_vs_6m")
    assert (env.spec.n_agents, env.spec.action_dim, env.spec.state_dim) == (5, SHOOT + 6, 12 * 11)
    joint, _ = env.reset(seed=0)
    assert joint["state"][2] == pytest.approx(16, abs=3)  # the y of the first ally, on a map of 32 by 32


@installed
def test_it_refuses_processes_and_is_not_forked():
    with pytest.raises(EnvError, match=r"^smax/3m cannot be forked into a process per environment"):
        VectorEnv(lambda: make_env("smax/3m"), 2, processes=True)
    with VectorEnv(lambda: make_env("smax/3m"), 2) as envs:
        assert not envs.forkable
