"""The particle tasks."""

from __future__ import annotations

import numpy as np
import pytest
from pettingzoo.test.parallel_test import parallel_api_test
from pettingzoo.test.seed_test import parallel_seed_test

from dima.envs import make_env, make_parallel_env
from dima.envs.check import random_action
from dima.envs.mpe import MODULES, MpeConfig, greedy_spread
from dima.errors import ConfigError


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("continuous", [False, True])
def test_they_run_to_their_time_limit(name, continuous):
    config = MpeConfig(continuous_actions=continuous, max_cycles=4)
    env, rng = make_env(f"mpe/{name}", config), np.random.default_rng(0)
    joint, _ = env.reset(seed=0)
    ends = []
    for _ in range(4):
        joint, _, *end, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
        ends.append(tuple(end))
    assert ends == [(False, False)] * 3 + [(False, True)]
    assert env.spec.discrete is not continuous
    assert env.spec.episode_limit == 4
    assert env.spec.n_agents == MODULES[name][1]
    parallel_api_test(make_parallel_env(f"mpe/{name}", config), num_cycles=20)
    parallel_seed_test(lambda: make_parallel_env(f"mpe/{name}", config), num_cycles=20)


def spread(act, episodes=20):
    env, total = make_env("mpe/simple_spread"), 0.0
    for seed in range(episodes):
        joint, ended = env.reset(seed=seed)[0], False
        while not ended:
            joint, reward, terminated, truncated, _ = env.step(act(env, joint))
            total, ended = total + reward, terminated or truncated
    return total / episodes


def test_the_scripted_player_is_far_better_than_chance():
    rng = np.random.default_rng(0)
    greedy = spread(lambda env, joint: greedy_spread(joint["obs"]))
    chance = spread(lambda env, joint: random_action(env.spec, joint["action_mask"], rng))
    assert greedy > 0.75 * chance
    assert chance < -20


def test_the_scripted_player_shares_landmarks_out():
    """Both agents are nearest to the landmark at 0.3; the first leaves it to the second. The third has arrived."""
    agents, landmarks, obs = np.array([0.0, 0.2, 5.0]), np.array([0.3, -0.5, 5.0]), np.zeros((3, 18))
    obs[:, 4:10:2] = landmarks - agents[:, None]
    assert greedy_spread(obs).argmax(-1).tolist() == [1, 2, 0]
    obs[:, 4:10] = obs[:, 4:10].reshape(3, 3, 2)[..., ::-1].reshape(3, 6)  # the same along the other axis
    assert greedy_spread(obs).argmax(-1).tolist() == [3, 4, 0]


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"mpe/simple_sprad: no such task: did you mean 'simple_spread'\?"):
        make_env("mpe/simple_sprad")


@pytest.mark.parametrize("name", MODULES)
def test_every_state_feature_is_what_it_is_called(name):
    env, rng = make_env(f"mpe/{name}"), np.random.default_rng(0)
    joint, _ = env.reset(seed=1)
    for _ in range(3):
        joint, *_ = env.step(random_action(env.spec, joint["action_mask"], rng))
    world = env.parallel_env.unwrapped.world
    agents, things = {agent.name: agent for agent in world.agents}, {mark.name: mark for mark in world.landmarks}
    names = env.state_names()
    assert len(names) == len(set(names)) == env.spec.state_dim
    for feature, value in zip(names, joint["state"], strict=True):
        kind, _, rest = feature.partition(": ")
        if kind == "goals":  # a colour of the landmark that is meant
            marks = [mark.color for mark in world.landmarks]
            color = ("red", "green", "blue").index(rest.split()[0])
            assert np.isclose([mark[color] for mark in marks], value).any()
        elif kind == "messages":
            word, _, who, _, _ = rest.split()
            assert value == pytest.approx(agents[who].state.c[int(word)])
        else:
            what, axis = rest.rsplit(" ", 1)
            seen, _, me = what.rpartition("from ")
            if kind == "velocities":
                truth = agents[me].state.p_vel
            elif kind == "positions":
                truth = agents[me].state.p_pos
            else:
                other = things[f"landmark {seen.strip()}"] if kind == "landmarks" else agents[seen.strip()]
                truth = other.state.p_pos - agents[me].state.p_pos
            assert value == pytest.approx(truth["xy".index(axis)], abs=1e-6), feature
