"""Coordinates recovered from states, and pictures of them."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from dima.envs import make_env, make_scene
from dima.envs.dexhands.coordinates import Recovery, closest_rotation
from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.scripted import act_both
from dima.envs.dexhands.settings import DexHandsConfig
from dima.envs.dexhands.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_coordinates_are_found_again_in_states(task: str) -> None:
    env = DexHandsEnv(task, DexHandsConfig(left_hand="mirror" if task == "pen" else "copy"))
    observations, _ = env.reset(seed=0)
    states, true = [env.state()], [env.data.qpos.copy()]
    for step in range(100):
        hands = act_both(task, step, observations.values())
        observations, *_ = env.step(dict(zip(AGENTS, hands, strict=True)))
        states.append(env.state())
        true.append(env.data.qpos.copy())
        if not env.agents:
            break
    found, expected = Recovery(env.model, env.task).qpos(np.stack(states)[::10], true[0]), np.stack(true)[::10]
    data, places = mujoco.MjData(env.model), []
    for qpos in (*found, *expected):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(env.model, data)
        places.append(np.concatenate([data.xpos.copy(), data.site_xpos.copy()]))
    wrong = np.linalg.norm(np.stack(places[: len(found)]) - np.stack(places[len(found) :]), axis=-1)
    assert wrong.max() < 0.004  # joints that are pressed beyond their limits are drawn at them
    assert np.median(wrong) < 1e-5
    assert np.ptp(expected, axis=0).max() > 0.05


def test_the_closest_rotation_is_found_among_noise() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6, 3))
    points -= points.mean(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(closest_rotation(points, points @ turn.T), turn, atol=1e-12)
    noisy = closest_rotation(points, points @ turn.T + 0.01 * rng.normal(size=(6, 3)))
    assert np.linalg.det(noisy) == pytest.approx(1) and np.abs(noisy - turn).max() < 0.05


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("task", TASKS)
def test_real_and_imagined_pictures_of_one_state_are_alike(task: str) -> None:
    env = make_env(f"dexhands/{task}")
    scene = make_scene(f"dexhands/{task}", env, 96, 72)
    joint, _ = env.reset(seed=0)
    first = scene.now()
    for _ in range(4):
        joint, *_ = env.step(np.full((2, 26), 0.5))
    real, old = scene.draw(scene.now()).astype(int), scene.draw(first).astype(int)
    again = scene.draw(scene.poses(joint["state"][None], first)[0]).astype(int)
    assert real.shape == (72, 96, 3)
    assert np.abs(real - again).mean() < 0.5 < np.abs(real - old).mean()
    assert scene.agents == AGENTS and scene.seconds == pytest.approx(1 / 60)
    scene.close()


@pytest.mark.usefixtures("drawing")
def test_the_environment_renders_by_itself() -> None:
    env = DexHandsEnv("pen", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None and picture.shape == (240, 320, 3) and np.ptp(picture) > 100
    env.close()
    assert DexHandsEnv("pen").render() is None
