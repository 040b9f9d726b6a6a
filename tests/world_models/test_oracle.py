"""The simulator as a world model: its steps are the environment's own."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import dima
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.data import Episode
from dima.envs import make_env, suite_config
from dima.envs.base import JointEnv
from dima.errors import ConfigError, EnvError
from dima.experience.replay import Replay, Rows
from dima.recording.record import record
from dima.storage.run_folder import RunFolder
from dima.training.offline import fit, fit_config
from dima.training.online import resume, train
from dima.world_models.imagined import EpisodeInitialStates
from dima.world_models.oracle import OracleModelConfig, OracleWorldModel
from dima.world_models.rollout import forecast

ROBOTS = ["ant-4x2", "halfcheetah-2x3", "hopper-3x1", "walker2d-2x3"]
CLIPPED = {"hopper-3x1": 10.0, "walker2d-2x3": 10.0}  # velocities, in the observation


def play(env: JointEnv, seed: int, limit: int, strength: float = 1.0) -> Episode:
    """An episode of random actions."""
    rng = np.random.default_rng(seed)
    joint, _ = env.reset(seed=seed)
    seen, steps = [joint], []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = (strength * rng.uniform(-1, 1, env.action_space.shape)).astype(np.float32)
        joint, reward, terminated, _, _ = env.step(action)
        steps.append((action, np.float32(reward), terminated, not terminated and len(steps) + 1 == limit))
        seen.append(joint)
    views = {name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in joint}
    action, reward, terminated, truncated = (torch.from_numpy(np.stack(column)) for column in zip(*steps, strict=True))
    return Episode(**views, action=action, reward=reward, terminated=terminated, truncated=truncated)


def recorded(task: str, limit: int = 60, strength: float = 1.0) -> tuple[OracleWorldModel, list[Episode]]:
    """The world model and two episodes; on a robot that can fall, it does."""
    env = make_env(f"mamujoco/{task}")
    return OracleModelConfig().build(env.spec), [play(env, seed, limit, strength) for seed in (3, 4)]


def rows_of(model: OracleWorldModel, episodes: list[Episode], horizon: int = 0) -> Rows:
    """Every step as the newest real one, with those before it and after it."""
    replay = Replay.of(episodes, model.spec, "cpu")
    starts = np.cumsum([0] + [len(one) + 1 for one in episodes[:-1]])
    anchors = [t for n, one in zip(starts, episodes, strict=True) for t in range(n, n + len(one) - horizon)]
    return replay.gather(torch.tensor(anchors), model.context - 1, 0)


@pytest.mark.parametrize("task", ROBOTS)
def test_steps_from_recorded_states_are_the_environment_s(task: str) -> None:
    model, episodes = recorded(task, strength=0.3 if task in CLIPPED else 1.0)
    action, reward, terminated = (
        torch.cat([getattr(e, name) for e in episodes]) for name in ("action", "reward", "terminated")
    )
    state, obs = (torch.cat([getattr(e, name)[1:] for e in episodes]) for name in ("state", "obs"))
    before = torch.cat([e.state[:-1] for e in episodes])
    latent = model.start(rows_of(model, episodes))
    assert torch.equal(model.observe(latent).state, before)
    step = model.step(latent, action)
    view = model.observe(step.latent)

    limit = CLIPPED.get(task, torch.inf)
    exact = (before.abs() < limit).all(1)
    assert exact.float().mean() > 0.7
    close = torch.isclose(view.state, state, rtol=1e-5, atol=1e-5).all(1)[exact]
    # where a foot touches the ground just at the end of a simulator step, the rounding of recorded states decides
    assert close.float().mean() > 0.98
    assert torch.equal(view.obs[:, :, : state.shape[1]], view.state[:, None].expand(-1, model.spec.n_agents, -1))
    torch.testing.assert_close(view.obs[exact][close], obs[exact][close], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step.reward[exact][close], reward[exact][close], rtol=1e-5, atol=1e-5)
    assert torch.equal(step.continuation[exact] == 0, terminated[exact])
    assert set(step.continuation.tolist()) <= {0.0, 1.0}
    if task != "halfcheetah-2x3":
        assert terminated.any()


@pytest.mark.parametrize("task", ["ant-4x2", "halfcheetah-2x3"])
def test_a_rollout_is_the_episode(task: str) -> None:
    """Only the start is rounded: afterwards the simulations go on as they are."""
    model, episodes = recorded(task, limit=25)
    start = EpisodeInitialStates(make_env(f"mamujoco/{task}"), model.context, "cpu").draw(1)
    start.state[0, -1], start.obs[0, -1] = episodes[0].state[0], episodes[0].obs[0]
    found = forecast(model, start, episodes[0].action[None])
    torch.testing.assert_close(found.state[0], episodes[0].state, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.obs[0], episodes[0].obs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.reward[0], episodes[0].reward, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.continuation[0] == 0, episodes[0].terminated)


def test_a_snapshot_is_continued_exactly() -> None:
    env, other = make_env("mamujoco/walker2d-2x3"), make_env("mamujoco/walker2d-2x3")
    env.reset(seed=0)
    rng, ended = np.random.default_rng(0), False
    while not ended:
        other.restore(env.snapshot())
        action = rng.uniform(-1, 1, env.action_space.shape)
        joint, *result, _ = env.step(action)
        continued, *same, _ = other.step(action)
        assert same == result
        assert all(np.array_equal(continued[name], joint[name]) for name in joint)
        ended = result[1]


def test_latents_are_values() -> None:
    model, episodes = recorded("ant-4x2", 10)
    latent, draw = model.start(rows_of(model, episodes)), torch.Generator().manual_seed(0)
    action, other = (2 * torch.rand(2, *latent.previous_action.shape, generator=draw) - 1).unbind(0)
    before = deepcopy(latent)
    one, between, two = model.step(latent, action), model.step(latent, other), model.step(latent, action)
    assert not torch.equal(between.latent.state, one.latent.state)
    assert torch.equal(one.reward, two.reward)
    assert all(torch.equal(value, vars(two.latent)[name]) for name, value in vars(one.latent).items())
    assert all(torch.equal(value, vars(before)[name]) for name, value in vars(latent).items())
    assert torch.equal(model.step(latent, 3 * action).reward, model.step(latent, (3 * action).clamp(-1, 1)).reward)
    rows = torch.arange(len(action)) % 2 == 0
    mixed = model.reset_rows(latent, one.latent, rows)
    assert torch.equal(mixed.state, torch.where(rows[:, None], one.latent.state, latent.state))


def test_a_terminated_row_stays_as_it_is() -> None:
    model, episodes = recorded("hopper-3x1")
    latent, action = model.start(rows_of(model, episodes)), torch.cat([e.action for e in episodes])
    rewards = []
    for _ in range(40):
        before = latent
        latent, reward, continuation = model.step(latent, action)
        over = before.terminated
        assert torch.equal(latent.state[over], before.state[over])
        assert torch.equal(latent.obs[over], before.obs[over])
        assert not reward[over].any()
        assert not continuation[over].any()
        assert latent.state.isfinite().all()
        rewards.append(reward)
    assert latent.terminated.float().mean() > 0.5
    assert torch.equal(continuation, 1 - latent.terminated.float())


def test_the_time_limit_ends_no_rollout() -> None:
    env = make_env("mamujoco/halfcheetah-2x3", suite_config("mamujoco/halfcheetah-2x3")(episode_limit=1))
    model = OracleModelConfig().build(env.spec)
    latent = model.start(EpisodeInitialStates(env, model.context, "cpu").draw(1))
    for _ in range(3):
        latent, reward, continuation = model.step(latent, torch.ones(1, 2, 3))
        assert reward.item() != 0
        assert continuation.item() == 1


def test_a_run_trains_resumes_exactly_and_is_diagnosed(tiny, tmp_path) -> None:
    env = {"episode_limit": 30}
    learner = {"workers": 2}
    whole = tiny("mamujoco/ant-4x2", "oracle", steps=420, env=env, learner=learner)
    half = tiny("mamujoco/ant-4x2", "oracle", "half", steps=300, env=env, learner=learner)
    folder = train(whole).folder
    train(half)
    resume(half.folder, steps=420)
    tensors = []
    for path in (whole.folder, half.folder):
        with RunFolder.open(path) as run:
            records = run.records()
            assert all(math.isfinite(value) for record in records for value in record.values())
            assert "policy/policy_loss" in records[-1]
            tensors.append(run.load().tree["algorithm"])
    one, other = (saved["ppo"]["networks"] for saved in tensors)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert tensors[0]["world_model"] == {}

    agent = dima.load(folder, "cpu")
    assert math.isfinite(agent.evaluate(2).mean)
    settings = DiagnosisConfig(episodes=2, segments=4, horizon=3, samples=3, calibration_segments=4, orders=2, starts=2)
    found = dima.diagnose(folder, settings, device="cpu")
    assert found.error.standardised["state"]["model"].step.at(1) < 1e-3
    dima.imagine(folder, [1], "recorded", start=0, width=64, out=tmp_path / "imagined", device="cpu")
    envs = agent.as_vector_env(3, horizon=2, seed=0)
    envs.reset(seed=1)
    for _ in range(3):
        now, _, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(now)


def test_on_a_dataset_nothing_is_fitted_and_the_error_is_that_of_rounding(recording, tmp_path) -> None:
    data = recording("mamujoco/halfcheetah-2x3", env={"episode_limit": 15})
    record(data)
    fixed = {"run": str(tmp_path / "run"), "device": "cpu", "threads": 1, "iterations": 1, "evaluation_horizon": 3}
    summary = fit(fit_config(data.out, "oracle", "debug", fixed | {"evaluation_segments": 8, "tensorboard": False}))
    with RunFolder.open(summary.folder) as run:
        (found,) = run.records()
    assert all(found[f"held_out/{name}"] < 1e-3 for name in ("state_1", "state_3", "obs_3", "reward", "continuation"))


@pytest.mark.parametrize(
    ("task", "env", "expected"),
    [
        ("toy/walk", {}, "toy/walk: its state cannot be set, it has no method set_state: add one"),
        ("toy/switches", {}, "toy/switches: action masks do not follow from its state"),
        ("mamujoco/ant-4x2", {"standardize": True}, "standardised one by one"),
        ("mamujoco/ant-4x2", {"observation": "local-1"}, "local observations do not follow from the state alone"),
    ],
)
def test_a_task_whose_state_cannot_be_set_is_one_line(tiny, task: str, env: dict, expected: str) -> None:
    config = tiny(task, "oracle", env=env)
    with pytest.raises(EnvError) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("algorithm oracle: ")
    assert expected in str(caught.value)
    assert not config.folder.exists()


def test_a_spec_without_an_environment_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^algorithm = 'oracle' needs the task's environment: "):
        OracleModelConfig().build(replace(make_env("toy/walk").spec, make=None))
