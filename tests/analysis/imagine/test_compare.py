"""Imagined against real trajectories: the same start and actions, known errors, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dima.analysis.imagine.compare import compare
from dima.analysis.imagine.time_steps import play_steps, policy_actions
from dima.errors import ConfigError, DivergenceError, EnvError
from dima.experience.episodes import episode_seed


@pytest.mark.parametrize("actions", ["recorded", "policy"])
def test_a_perfect_model_imagines_what_happens(stride, drifting_model, policy, dots, actions: str) -> None:
    env = stride()
    found = compare(
        env, drifting_model(env.spec), policy, seed=1, horizons=[4, 9, 2], actions=actions, start=5, scene=dots(env)
    )
    assert (found.start, found.horizons, found.steps, found.action.shape) == (5, (2, 4, 9), 9, (9, 2, 1))
    for trajectory in (found.real, found.imagined):
        assert len(trajectory) == 9
        assert trajectory.state.shape == (10, 2) and trajectory.obs.shape == (10, 2, 2) and len(trajectory.poses) == 10
        np.testing.assert_allclose(np.stack(trajectory.poses), trajectory.state)
        assert trajectory.continuation.tolist() == [1.0] * 9
    np.testing.assert_allclose(found.imagined.state, found.real.state, rtol=1e-5)
    np.testing.assert_allclose(found.imagined.obs, found.real.obs, rtol=1e-5)
    np.testing.assert_allclose(found.imagined.reward, found.real.reward, rtol=1e-5)
    assert found.error("state").max() < 1e-4 < found.persistence_error("state")[1:].min()
    np.testing.assert_allclose(found.persistence_error("obs"), np.abs(found.real.obs - found.real.obs[0]))


def test_the_start_is_a_step_of_the_policy_s_own_episode(stride, drifting_model, policy) -> None:
    env = stride()
    model = drifting_model(env.spec)
    found = compare(env, model, policy, seed=1, horizons=[3], start=5)
    episode = list(play_steps(env, episode_seed(1, 0, "evaluation"), policy_actions(policy, "cpu")))
    for step, row in enumerate(range(5, 9)):
        assert np.array_equal(found.real.state[step], episode[row].joint["state"])
    assert np.array_equal(found.action, np.stack([m.action for m in episode[6:9]]))
    assert found.real.reward.tolist() == [m.reward for m in episode[6:9]]
    assert model.rows.valid.tolist() == [[True] * 3]  # its context, and nothing that happened after the start
    assert torch.equal(model.rows.state[0], torch.from_numpy(np.stack([m.joint["state"] for m in episode[3:6]])))
    assert torch.equal(model.rows.action[0, :2], torch.from_numpy(np.stack([m.action for m in episode[4:6]])))
    compare(env, model, policy, seed=1, horizons=[3], start=0)
    assert model.rows.valid.tolist() == [[False, False, True]]


def test_a_drift_is_the_error(stride, drifting_model, policy) -> None:
    env = stride()
    found = compare(env, drifting_model(env.spec, drift=0.25), policy, seed=2, horizons=[6])
    np.testing.assert_allclose(found.error("state"), 0.25 * np.arange(7)[:, None] * np.ones((1, 2)), atol=1e-4)


def test_a_policy_acts_on_imagined_observations(stride, drifting_model, policy) -> None:
    env = stride()
    found = compare(env, drifting_model(env.spec, drift=0.25), policy, seed=2, horizons=[4], actions="policy", start=0)
    seen = found.imagined.state[:-1]
    np.testing.assert_allclose(found.action[..., 0], np.stack([seen[:, 0], -seen[:, 1]], axis=1).clip(-1, 1))
    np.testing.assert_allclose(np.diff(found.real.state, axis=0), 0.5 * found.action[..., 0], atol=1e-5)
    np.testing.assert_allclose(np.diff(found.imagined.state, axis=0), 0.5 * found.action[..., 0] + 0.25, atol=1e-5)


def test_the_real_episode_may_end_earlier(stride, drifting_model, policy) -> None:
    env = stride(goal=2.0)
    alone = len(list(play_steps(env, episode_seed(2, 0, "evaluation"), policy_actions(policy, "cpu")))) - 1
    hasty = compare(
        env, drifting_model(env.spec, drift=2.0), policy, seed=2, horizons=[alone], actions="policy", start=0
    )
    assert len(hasty.imagined) == alone
    assert len(hasty.real) == hasty.steps < alone
    assert hasty.real.continuation.tolist() == [1.0] * (hasty.steps - 1) + [0.0]
    assert hasty.error("state").shape == hasty.persistence_error("state").shape == (hasty.steps + 1, 2)


def test_noise_comes_from_the_seed_and_leaves_the_caller_s_alone(stride, drifting_model, policy) -> None:
    env = stride()
    before = torch.get_rng_state()
    first, again, other = (
        compare(env, drifting_model(env.spec, noise=0.1), policy, seed=seed, horizons=[5]) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.imagined.state, again.imagined.state)
    assert not np.array_equal(first.imagined.state - first.real.state, other.imagined.state - other.real.state)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("limit", "asked", "start", "begins", "horizons"),
    [
        (400, None, None, 100, (15, 50, 200)),
        (160, None, None, 100, (15, 50)),
        (250, None, None, 50, (15, 50, 200)),
        (30, None, None, 15, (15,)),
        (8, None, None, 0, (8,)),
        (30, None, 20, 20, (10,)),
        (30, [30, 3], None, 0, (3, 30)),
        (30, [7], None, 23, (7,)),
        (30, [7], 4, 4, (7,)),
    ],
)
def test_start_and_horizons(
    stride, drifting_model, policy, limit: int, asked, start, begins: int, horizons: tuple[int, ...]
) -> None:
    env = stride(limit=limit)
    found = compare(env, drifting_model(env.spec), policy, seed=0, horizons=asked, start=start)
    assert (found.start, found.horizons) == (begins, horizons)


@pytest.mark.parametrize(
    ("horizons", "start", "message"),
    [
        ([41], None, "horizon = 41 is too long: the policy's episode from seed 0 lasts 40 steps; give at most 40, or "),
        ([15, 9], 30, "horizon = 15 is too long: .* lasts 40 steps and begins at step 30; give at most 10"),
        (None, 40, "start = 40 is too late: the policy's episode from seed 0 lasts 40 steps"),
    ],
)
def test_an_episode_that_is_too_short_is_refused(stride, drifting_model, policy, horizons, start, message: str) -> None:
    env = stride()
    with pytest.raises(ConfigError, match=message):
        compare(env, drifting_model(env.spec), policy, seed=0, horizons=horizons, start=start)


def test_a_diverged_model_is_refused(stride, drifting_model, policy) -> None:
    env = stride()
    with pytest.raises(DivergenceError, match="NaN or infinite numbers from step 2 on"):
        compare(env, drifting_model(env.spec, drift=1.2e38), policy, seed=0, horizons=[5])


def test_an_environment_that_is_not_reproducible_is_refused(stride, drifting_model, policy) -> None:
    env = stride(jitter=True)
    with pytest.raises(EnvError, match=r"stride does not repeat itself .* give --act recorded"):
        compare(env, drifting_model(env.spec), policy, seed=0, horizons=[5], actions="policy")
    found = compare(env, drifting_model(env.spec), policy, seed=0, horizons=[5])
    assert found.error("state").max() < 1e-4
