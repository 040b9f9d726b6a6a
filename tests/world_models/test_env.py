"""Imagined environments: the PettingZoo and Gymnasium APIs, and the real task's spaces."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from pettingzoo.test import parallel_api_test, parallel_seed_test

import dima
from dima.agent import Agent
from dima.envs import make_parallel_env
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, DatasetError, EnvError, RunFolderError
from dima.experience.episodes import play, random_policy
from dima.recording.config import record_config
from dima.recording.record import record
from dima.training.offline import fit, fit_config
from dima.training.online import train
from dima.training.run_config import RunConfig
from dima.world_models.env import ImaginedVectorEnv

TASKS = ("toy/walk", "toy/switches", "toy/uneven", "mpe/simple_speaker_listener")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fitted")


@pytest.fixture(scope="module")
def fitted(home: Path):
    """The folder of a run briefly fitted to random episodes of a task."""

    def make(task: str) -> Path:
        data, run = home / task / "data", home / task / "run"
        if not run.exists():
            record(record_config(task).override({"out": str(data), "steps": 60, "episode_steps": 10, "device": "cpu"}))
            once = {f"{part}_fit": {"updates": 1, "batch": 4} for part in ("denoiser", "decoder", "reward")}
            fixed = {"run": str(run), "device": "cpu", "threads": 1, "tensorboard": False, "iterations": 1}
            fixed |= {"evaluation_horizon": 2, "evaluation_segments": 2, "learner": {"world_model": once}}
            fit(fit_config(data, "dima", "debug", fixed))
        return run

    return make


@pytest.fixture
def agent(fitted):
    return lambda task: dima.load(fitted(task), device="cpu")


# -- the PettingZoo form ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_it_follows_the_pettingzoo_api(agent, task: str):
    loaded: Agent = agent(task)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(loaded.as_env(seed=0, horizon=6), num_cycles=20)
        parallel_seed_test(partial(loaded.as_env, horizon=6), num_cycles=20)


@pytest.mark.parametrize("task", TASKS)
def test_spaces_agents_and_types_equal_the_real_tasks(agent, task: str):
    env, real = agent(task).as_env(seed=0, horizon=30), make_parallel_env(task)
    assert env.possible_agents == real.possible_agents
    observations, infos = env.reset(seed=1)
    real_observations, real_infos = real.reset(seed=1)
    for name in env.possible_agents:
        assert env.observation_space(name) == real.observation_space(name)
        assert env.action_space(name) == real.action_space(name)
        assert env.observation_space(name) is env.observation_space(name)
        assert infos[name].keys() == {key for key in real_infos[name] if key == "action_mask"}
    assert not hasattr(real, "state_space") or env.state().shape == real.state_space.shape
    for _ in range(5):
        for name, value in observations.items():
            assert env.observation_space(name).contains(value)
            assert type(value) is type(real_observations[name])
        actions = {name: env.action_space(name).sample() for name in env.agents}
        observations, rewards, *_ = env.step(actions)
        assert len(set(rewards.values())) == 1 and rewards.keys() == set(env.possible_agents)
        if not env.agents:
            break


def test_a_whole_episode(agent):
    env = agent("toy/walk").as_env(seed=3, horizon=4)
    ends = []
    for _ in range(30):
        env.reset()
        steps = 0
        while env.agents:
            *_, terminations, truncations, _ = env.step({a: np.zeros(1, np.float32) for a in env.agents})
            steps += 1
        assert terminations["agent_0"] == terminations["agent_1"] != truncations["agent_0"]
        ends.append(steps)
        assert not truncations["agent_0"] or steps == 4
    assert max(ends) == 4 and min(ends) < 4  # an untrained model ends about every second step
    with pytest.raises(EnvError, match="toy/walk, imagined: step without a running episode"):
        env.step({a: np.zeros(1, np.float32) for a in env.possible_agents})


def test_the_librarys_environment_tools_accept_it(agent):
    """The adapter sees the same task, so whatever plays there plays here."""
    loaded = agent("toy/switches")
    joint = JointEnv(loaded.as_env(horizon=5), name="imagined")
    assert joint.spec == replace(loaded.env.spec, episode_limit=5)
    assert joint.state_names() == loaded.env.state_names()

    def make() -> JointEnv:
        return JointEnv(loaded.as_env(horizon=5), name="imagined")

    with VectorEnv(make, 2) as envs:
        episodes = play(envs, random_policy(envs.spec), [1, 2, 3])
    assert all(1 <= len(episode) <= 5 for episode in episodes)


def test_wrong_actions_are_refused(agent):
    env = agent("toy/switches").as_env(seed=0)
    env.reset()
    with pytest.raises(EnvError, match="agent 'agent_1' was given no action"):
        env.step({"agent_0": 0})
    with pytest.raises(EnvError, match=r"agent 'agent_0' was given action 7: its space is Discrete\(3\)"):
        env.step({"agent_0": 7, "agent_1": 0})


def test_actions_reach_the_model(agent):
    """Two joint actions, the same noise: what follows differs."""
    env = agent("toy/walk").as_env(horizon=5)
    rewards = []
    for push in (-1, 1, 1):
        env.reset(seed=5)
        rewards.append(env.step({a: np.full(1, push, np.float32) for a in env.agents})[1])
    assert rewards[0] != rewards[1] == rewards[2]
    env.close()


# -- the vectorised form ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_many_teams_follow_the_gymnasium_api(agent, task: str):
    envs = agent(task).as_vector_env(5, horizon=3, seed=0)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    now, infos = envs.reset(seed=2)
    assert infos == {}
    envs.action_space.seed(0)
    ended = np.zeros(5, dtype=int)
    for _ in range(7):
        assert envs.observation_space.contains(now)
        before = now
        now, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert reward.shape == terminated.shape == truncated.shape == (5,)
        over = terminated | truncated
        ended += over
        if over.any():
            assert np.array_equal(infos["_final_obs"], over)
            for n in range(5):
                assert (infos["final_obs"][n] is not None) == over[n]
                if over[n]:
                    assert envs.single_observation_space.contains(infos["final_obs"][n])
                    assert not np.array_equal(infos["final_obs"][n]["state"], before["state"][n])
        else:
            assert infos == {}
    assert (ended >= 2).all()
    envs.close()


def test_a_batch_is_deterministic_given_its_seed(agent):
    def path(seed: int) -> list[np.ndarray]:
        envs = agent("toy/switches").as_vector_env(4, horizon=3)
        seen = [envs.reset(seed=seed)[0]["state"]]
        rng = np.random.default_rng(0)
        for _ in range(6):
            now, reward, *_ = envs.step(rng.random((4, 2, 3), dtype=np.float32))
            seen += [now["state"], reward]
        return seen

    one, same, other = path(1), path(1), path(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_of_one_equals_the_single_environment(agent):
    """The batched core at size 1, seen through either interface."""
    loaded = agent("toy/walk")
    single, many = loaded.as_env(horizon=9), loaded.as_vector_env(1, horizon=9)
    single.reset(seed=4)
    now, _ = many.reset(seed=4)
    over = False
    while not over:
        np.testing.assert_array_equal(single.state(), now["state"][0])
        _, rewards, terminations, truncations, _ = single.step({a: np.full(1, 0.5, np.float32) for a in single.agents})
        now, reward, terminated, truncated, infos = many.step(np.full((1, 2, 1), 0.5, np.float32))
        assert rewards["agent_0"] == reward[0]
        assert (terminations["agent_0"], truncations["agent_0"]) == (terminated[0], truncated[0])
        over = terminated[0] or truncated[0]
    np.testing.assert_array_equal(single.state(), infos["final_obs"][0]["state"])


@pytest.mark.parametrize("wrong", [np.zeros((4, 2, 2), np.float32), np.full((3, 2, 1), np.nan, np.float32)])
def test_wrong_batches_of_actions_are_refused(agent, wrong: np.ndarray):
    envs = agent("toy/walk").as_vector_env(3)
    envs.reset(seed=0)
    with pytest.raises(EnvError, match=r"expected finite numbers of shape \(3, 2, 1\)"):
        envs.step(wrong)


def test_a_batch_of_a_model_without_partial_reset_is_refused(agent):
    with pytest.raises(ConfigError, match="object cannot reset single rollouts of a batch"):
        ImaginedVectorEnv(SimpleNamespace(count=2, world_model=object()), agent("toy/walk").env)


# -- where episodes begin ---------------------------------------------------------------------------------------------


def test_episodes_start_in_the_requested_states(agent, home: Path):
    loaded = agent("toy/walk")
    stored = {tuple(row) for row in loaded.experience().store["state"].tolist()}
    envs = loaded.as_vector_env(20, seed=0)
    assert {tuple(row) for row in envs.reset()[0]["state"].round(4).tolist()} <= {
        tuple(np.float32(row).round(4).tolist()) for row in stored
    }
    fresh = loaded.as_vector_env(20, starts="episodes", seed=0).reset()[0]["state"]
    assert len({tuple(row) for row in fresh.tolist()}) == 20
    given = loaded.as_env(starts=home / "toy/walk" / "data", seed=0)
    given.reset()


def test_a_training_run_provides_its_replay(tiny):
    folder = train(tiny("toy/walk", steps=120)).folder
    loaded = dima.load(folder)
    assert loaded.experience().steps == 120
    env = loaded.as_env(seed=0)
    env.reset()
    assert env.episode_limit == RunConfig.from_dict(loaded.config.to_dict()).learner.horizon == 5


def test_a_model_free_run_has_no_world_model(tiny):
    loaded = dima.load(train(tiny(algorithm="mappo", steps=30)).folder)
    with pytest.raises(ConfigError, match="mappo learns no world model"):
        loaded.as_env()
    with pytest.raises(RunFolderError, match="mappo keeps no episodes"):
        loaded.experience()


def test_starts_of_another_task_are_refused(agent, home: Path, fitted):
    fitted("toy/switches")
    with pytest.raises(DatasetError, match="holds episodes of toy/switches, not of toy/walk"):
        agent("toy/walk").as_env(starts=home / "toy/switches" / "data")
    with pytest.raises(RunFolderError, match="does not exist"):
        agent("toy/walk").as_env(starts="nowhere")


@pytest.mark.parametrize(("count", "horizon", "said"), [(0, 5, "count = 0"), (2, 0, "horizon = 0")])
def test_sizes_out_of_range_are_refused(agent, count: int, horizon: int, said: str):
    with pytest.raises(ConfigError, match=said):
        agent("toy/walk").as_vector_env(count, horizon=horizon)


def test_acting_still_needs_no_random_state(agent):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    env = agent("toy/walk").as_env()
    env.reset()
    assert torch.equal(torch.get_rng_state(), before)
