"""Real and imagined states are drawn alike; environments without a scene are an error."""

from __future__ import annotations

import numpy as np
import pytest

from dima.envs import make_env, make_scene
from dima.envs.check import random_action
from dima.envs.mpe import MODULES, MpeConfig
from dima.envs.mujoco.env import MamujocoConfig
from dima.envs.render import headless
from dima.envs.render.mpe import Plane
from dima.envs.render.scene import Scene
from dima.errors import EnvError

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def drawing() -> None:
    """Skips where MuJoCo has nothing to draw with."""
    try:
        headless.backend()
    except EnvError as error:
        pytest.skip(str(error))


def walk(env, scene, steps: int = 8):
    """States and true poses along some random steps."""
    joint, _ = env.reset(seed=1)
    states, poses, rng = [joint["state"]], [scene.now()], np.random.default_rng(1)
    for _ in range(steps):
        joint, *_ = env.step(random_action(env.spec, joint["action_mask"], rng))
        states.append(joint["state"])
        poses.append(scene.now())
    return np.stack(states), poses


# -- MuJoCo -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("task", ["ant-4x2", "halfcheetah-2x3", "reacher-2x1"])
def test_a_robot_s_real_and_imagined_picture_of_one_state_are_equal(task: str) -> None:
    env = make_env(f"mamujoco/{task}")
    scene = make_scene(f"mamujoco/{task}", env, WIDTH, HEIGHT)
    _, poses = walk(env, scene)
    before = env.parallel_env.simulator.data.qpos.copy()
    real, other = scene.draw(poses[-1]), scene.draw(poses[0])
    again = scene.poses(env.parallel_env.state()[None], poses[-1])[0]
    assert real.shape == (HEIGHT, WIDTH, 3) and real.dtype == np.uint8
    assert np.array_equal(scene.draw(again), real)
    assert not np.array_equal(real, other)
    assert np.array_equal(env.parallel_env.simulator.data.qpos, before)
    assert scene.seconds == env.parallel_env.simulator.dt
    scene.close()
    scene.close()


@pytest.mark.usefixtures("drawing")
def test_a_robot_far_away_still_has_a_floor_and_says_where_it_is() -> None:
    env = make_env("mamujoco/ant-4x2")
    scene = make_scene("mamujoco/ant-4x2", env, WIDTH, HEIGHT)
    env.reset(seed=0)
    here, far = scene.now(), scene.now()
    far.qpos[:2] += 300 * 2 * 40 / 60  # tiles of the floor
    assert np.abs(scene.draw(here).astype(int) - scene.draw(far)).max() <= 1
    assert scene.measures(far) == pytest.approx({"x": far.qpos[0], "y": far.qpos[1]})
    assert far.qpos[0] > 300
    reacher = make_env("mamujoco/reacher-2x1")
    fixed = make_scene("mamujoco/reacher-2x1", reacher, WIDTH, HEIGHT)
    assert fixed.measures(fixed.now()) == {}


def test_standardised_states_cannot_be_drawn() -> None:
    env = make_env("mamujoco/halfcheetah-2x3", MamujocoConfig(standardize=True))
    with pytest.raises(EnvError, match=r"halfcheetah-2x3: states that were standardised .* expected env.standardize"):
        make_scene("mamujoco/halfcheetah-2x3", env)


# -- particles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("continuous", [False, True])
def test_particles_are_found_again_in_their_states(name: str, continuous: bool) -> None:
    env = make_env(f"mpe/{name}", MpeConfig(continuous_actions=continuous))
    scene = make_scene(f"mpe/{name}", env, WIDTH, HEIGHT)
    states, poses = walk(env, scene)
    found = scene.poses(states, poses[0])
    assert len(found) == len(poses)
    for pose, again in zip(poses, found, strict=True):
        for field in vars(pose):
            np.testing.assert_allclose(getattr(again, field), getattr(pose, field), atol=1e-6)
    picture = scene.draw(poses[-1])
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - scene.draw(found[-1])).max() <= 2
    assert not np.array_equal(picture, scene.draw(poses[0]))
    assert scene.seconds == pytest.approx(0.1)
    assert scene.measures(poses[0]) == {}
    scene.close()


def test_particles_are_drawn_where_they_are_and_hollow_beyond_the_edge() -> None:
    env = make_env("mpe/simple_spread")
    scene = make_scene("mpe/simple_spread", env, 300, 300)  # 100 pixels a unit, the origin in the middle
    env.reset(seed=0)
    pose = scene.now()
    red = np.tile([1.0, 0.0, 0.0], (3, 1))
    nowhere = np.full((3, 2), 1.2)
    inside = scene.draw(Plane(np.array([[0.5, 0.5], [0, 0], [0, 0]]), nowhere, red, red, pose.messages))
    assert inside[100, 210].tolist() == [255, 0, 0]
    beyond = scene.draw(Plane(np.array([[9.0, 0.5], [0, 0], [0, 0]]), nowhere, red, red, pose.messages))
    assert beyond[100, 277].min() > 250
    rim = beyond[100, 296:300].astype(int)
    assert (rim[:, 0] - rim[:, 1]).max() > 100


def test_messages_are_seen() -> None:
    env = make_env("mpe/simple_speaker_listener")
    scene = make_scene("mpe/simple_speaker_listener", env, WIDTH, HEIGHT)
    env.reset(seed=0)
    silent = scene.now()
    loud = Plane(**vars(silent) | {"messages": np.ones_like(silent.messages)})
    assert (scene.draw(loud) < 100).sum() > (scene.draw(silent) < 100).sum()


# -- others -----------------------------------------------------------------------------------------------------------


def test_an_environment_without_a_scene_says_so() -> None:
    with pytest.raises(EnvError, match="toy/walk: its states cannot be drawn: give its environment a method scene"):
        make_scene("toy/walk", make_env("toy/walk"))


def test_a_user_s_own_environment_may_bring_its_scene(puppet, monkeypatch) -> None:
    class Blank(Scene[None]):
        def __init__(self, width: int, height: int) -> None:
            self.size = (height, width)

        def now(self) -> None: ...
        def poses(self, states, first):
            return [None] * len(states)

        def draw(self, pose):
            return np.zeros((*self.size, 3), np.uint8)

    monkeypatch.setattr("dima.envs.pettingzoo.make", lambda *_: puppet())
    env = make_env("mine:make")
    with pytest.raises(EnvError, match="mine:make: its states cannot be drawn"):
        make_scene("mine:make", env)
    env.parallel_env.scene = Blank
    assert make_scene("mine:make", env, WIDTH, HEIGHT).draw(None).shape == (HEIGHT, WIDTH, 3)
    env.parallel_env.scene = lambda width, height: "a picture"
    with pytest.raises(EnvError, match=r"scene\(\) returned a str: return a dima.envs.render.scene.Scene"):
        make_scene("mine:make", env)
