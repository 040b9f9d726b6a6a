"""The toy tasks behave as documented."""

from __future__ import annotations

import numpy as np
import pytest
from pettingzoo.test.parallel_test import parallel_api_test
from pettingzoo.test.seed_test import parallel_seed_test

from dima.config import Config
from dima.envs import make_env
from dima.envs.toy import WORLDS, Linear, Switches, ToyConfig, Uneven, Walk
from dima.errors import ConfigError


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_pettingzoo_accepts_them(name, n):
    config = ToyConfig(n_agents=n)
    parallel_api_test(WORLDS[name](config), num_cycles=80)
    parallel_seed_test(lambda: WORLDS[name](config), num_cycles=40)
    assert make_env(f"toy/{name}", config).spec.n_agents == n


def test_linear_mean_and_covariance_are_as_documented():
    env, rng = Linear(ToyConfig(n_agents=3, episode_limit=9)), np.random.default_rng(0)
    state, action = rng.normal(size=4), rng.uniform(-1, 1, (3, 2))
    nexts = []
    env.reset(seed=0)
    for _ in range(20_000):
        env._s = state
        env._move(list(action))
        nexts.append(env._s)
    drawn = np.stack(nexts)
    by_hand = env.A @ state + sum(env.B[k] @ action[k] for k in range(3))
    assert np.allclose(env.mean(state, action), by_hand)
    error = np.sqrt(np.diag(env.noise_cov) / len(drawn))
    assert (np.abs(drawn.mean(0) - by_hand) < 5 * error).all()
    assert np.allclose(np.cov(drawn.T), env.noise_cov, atol=0.05 * env.noise_cov.max())


def test_linear_is_stable_and_its_means_come_in_batches():
    env = Linear()
    assert np.abs(np.linalg.eigvals(env.A)).max() < 1
    states, actions = np.ones((5, 7, 4)), np.ones((5, 7, 2, 2))
    assert env.mean(states, actions).shape == (5, 7, 4)
    assert np.array_equal(Linear().A, env.A)  # the world is the same every time


def test_linear_observations_and_rewards_are_as_documented():
    env = Linear()
    seen, _ = env.reset(seed=0)
    assert np.allclose(seen["agent_1"], env.C[1] @ env._s, atol=1e-6)
    _, rewards, *_ = env.step({a: np.zeros(2, np.float32) for a in env.agents})
    assert np.isclose(rewards["agent_0"], -np.square(env.state()).sum() / 4, rtol=1e-5)


def test_walking_to_the_target_beats_standing():
    def played(policy):
        env = Walk()
        seen, _ = env.reset(seed=0)
        total = 0.0
        while env.agents:
            seen, rewards, gone, cut, _ = env.step({a: policy(seen[a]) for a in env.agents})
            total += sum(rewards.values())
        assert not any(gone.values())
        assert all(cut.values())
        assert env._steps == 30
        return total

    walk = played(lambda o: np.clip(5 * (o[1:] - o[:1]), -1, 1))
    assert walk > 0.5 * played(lambda o: np.zeros(1))


def switches(n=3, on=()):
    env = Switches(ToyConfig(n_agents=n))
    env.reset(seed=0)
    env._on = np.isin(np.arange(n), on)
    return env


def test_switches_in_order_end_the_task():
    env = switches()
    for i in range(3):
        _, rewards, gone, cut, _ = env.step({f"agent_{k}": int(k == i) for k in range(3)})
    assert all(gone.values())
    assert not any(cut.values())
    assert not env.agents
    assert np.isclose(rewards["agent_0"], 0.9)
    assert env.state().tolist() == [1, 1, 1]


def test_a_switch_before_its_turn_turns_all_off():
    env = switches(on=[0])
    seen, rewards, *_ = env.step({"agent_0": 0, "agent_1": 0, "agent_2": 1})
    assert np.isclose(rewards["agent_0"], -0.6)
    assert env.state().tolist() == [0, 0, 0]
    assert seen["agent_0"]["observation"].tolist() == [0, 0, 0, 1]
    assert seen["agent_1"]["observation"].tolist() == [0, 0, 0, 0]


def test_masks_allow_what_makes_sense_and_the_rest_is_waiting():
    env = switches(on=[0])
    seen = env._observe()
    assert seen["agent_0"]["action_mask"].tolist() == [1, 0, 1]
    assert seen["agent_1"]["action_mask"].tolist() == [1, 1, 0]
    env.step({"agent_0": 1, "agent_1": 2, "agent_2": 0})
    assert env.state().tolist() == [1, 0, 0]
    env.step({"agent_0": 2, "agent_1": 0, "agent_2": 0})
    assert env.state().tolist() == [0, 0, 0]


def test_switches_start_differently_and_have_a_limit():
    env = Switches(ToyConfig(n_agents=4, episode_limit=5))
    starts = set()
    for seed in range(20):
        env.reset(seed=seed)
        starts.add(int(env.state().sum()))
    assert starts == {0, 1, 2, 3}
    env.reset(seed=0)
    for _ in range(5):
        _, _, gone, cut, _ = env.step(dict.fromkeys(env.possible_agents, 0))
    assert all(cut.values())
    assert not any(gone.values())


def test_uneven_agents_pay_for_themselves():
    env = Uneven(ToyConfig(n_agents=4))
    seen, _ = env.reset(seed=0)
    assert [len(v) for v in seen.values()] == [2, 5, 3, 2]
    seen, rewards, *_ = env.step({a: np.zeros(env.action_space(a).shape) for a in env.agents})
    assert all(np.isclose(rewards[a], -np.square(seen[a]).mean(), rtol=1e-5) for a in seen)
    assert len(set(rewards.values())) == 4


def test_unknown_worlds():
    with pytest.raises(ConfigError, match=r"toy/wakl: no such world: did you mean 'walk'\?"):
        make_env("toy/wakl")
    assert isinstance(ToyConfig(), Config)
    with pytest.raises(ConfigError, match="n_agents = 0 is out of range"):
        ToyConfig(n_agents=0)
