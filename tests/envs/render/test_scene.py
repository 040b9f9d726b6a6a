"""Real and imagined states are drawn alike; environments without a scene are an error."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dima.envs import make_env, make_scene
from dima.envs.check import random_action
from dima.envs.mpe import MODULES, MpeConfig
from dima.envs.mujoco.env import MamujocoConfig
from dima.envs.render.colors import PALETTE, SHARED, rgb
from dima.envs.render.mpe import Plane
from dima.envs.render.mujoco import owners_of_bodies
from dima.envs.render.rendered import RenderedScene
from dima.envs.render.scene import Scene
from dima.errors import EnvError

WIDTH, HEIGHT = 64, 48


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


@pytest.mark.parametrize(
    ("task", "owned"),
    [
        ("halfcheetah-2x3", {"bthigh": 0, "bshin": 0, "bfoot": 0, "fthigh": 1, "fshin": 1, "ffoot": 1}),
        ("halfcheetah-6x1", {"bthigh": 0, "bshin": 1, "bfoot": 2, "fthigh": 3, "fshin": 4, "ffoot": 5}),
        ("humanoid-9|8", {"right_foot": 1, "left_foot": 1, "right_lower_arm": 0, "left_lower_arm": 0}),
    ],
)
def test_bodies_belong_to_the_agent_that_moves_them(task: str, owned: dict[str, int]) -> None:
    robot = make_env(f"mamujoco/{task}").parallel_env
    model = robot.simulator.model
    owners = owners_of_bodies(model, list(robot.actuators.values()))
    assert owned.items() <= {model.body(body).name: agent for body, agent in owners.items()}.items()
    assert model.body("torso").id not in owners
    shared = owners_of_bodies(model, [np.arange(model.nu), np.arange(model.nu)])
    assert shared == {}


@pytest.mark.usefixtures("drawing")
def test_each_agent_s_part_of_a_robot_has_its_colour() -> None:
    env = make_env("mamujoco/halfcheetah-2x3")
    before = env.parallel_env.simulator.model.geom_rgba.copy()
    scene = make_scene("mamujoco/halfcheetah-2x3", env, 320, 240)
    env.reset(seed=0)
    picture = scene.draw(scene.now()).astype(int)
    assert scene.agents == ("agent_0", "agent_1")
    left, right = picture[:, :160], picture[:, 160:]
    green, purple = (rgb(color) for color in PALETTE[:2])
    assert alike(left, green) > 100 > alike(right, green)
    assert alike(right, purple) > 100 > alike(left, purple)
    assert np.array_equal(env.parallel_env.simulator.model.geom_rgba, before)


def alike(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many pixels have a colour's hue, in light or shadow."""
    strength = np.linalg.norm(picture, axis=-1) + 1e-9
    colored = np.ptp(picture, axis=-1) > 40
    cosine = picture @ np.array(color) / strength / np.linalg.norm(color)
    return int((colored & (cosine > 0.97)).sum())


def test_agents_colours_stand_out_on_light_and_dark_and_from_each_other() -> None:
    def luminance(color: str) -> float:
        parts = np.array(rgb(color)) / 255
        return float(
            [0.2126, 0.7152, 0.0722] @ np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        )

    assert len({*PALETTE, SHARED}) == 7
    for color in PALETTE:
        for ground in ("#ffffff", "#14161a"):
            high, low = sorted((luminance(color), luminance(ground)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (color, ground)


@pytest.mark.usefixtures("drawing")
def test_of_standardised_states_the_real_ones_are_drawn() -> None:
    pictures = []
    for standardize in (True, False):
        env = make_env("mamujoco/halfcheetah-2x3", MamujocoConfig(standardize=standardize))
        scene = make_scene("mamujoco/halfcheetah-2x3", env, WIDTH, HEIGHT)
        _, poses = walk(env, scene)
        pictures.append(scene.draw(poses[-1]))
        assert bool(scene.cannot_imagine) == standardize
        if standardize:
            message = r"halfcheetah-2x3: states that were standardised .* expected env.standardize = False"
            assert re.search(message, scene.cannot_imagine)
        scene.close()
    assert np.array_equal(*pictures)


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
    nowhere = np.full((3, 2), 1.2)

    def draw(*agents: list[float]) -> np.ndarray:
        return scene.draw(Plane(np.array(agents), nowhere, pose.target_colors, pose.landmark_colors, pose.messages))

    assert pose.target_colors.shape == (0, 3)
    inside = draw([0.5, 0.5], [-0.5, 0.5], [0, 0])
    assert inside[100, 210].tolist() == [*rgb(PALETTE[0])]
    assert inside[100, 110].tolist() == [*rgb(PALETTE[1])]
    beyond = draw([9.0, 0.5], [0, 0], [0, 0])
    assert beyond[100, 277].min() > 250
    rim = beyond[100, 296:300].astype(int)
    assert (rim[:, 1] - rim[:, 0]).max() > 60


def test_an_agent_with_a_target_shows_its_own_colour_around_the_target_s() -> None:
    env = make_env("mpe/simple_reference")
    scene = make_scene("mpe/simple_reference", env, 900, 900)  # 300 pixels a unit
    env.reset(seed=0)
    pose = scene.now()
    red = np.tile([1.0, 0.0, 0.0], (2, 1))
    nowhere = np.full((3, 2), 1.2)
    picture = scene.draw(Plane(np.array([[0.5, 0.5], [-0.5, 0.5]]), nowhere, red, pose.landmark_colors, pose.messages))
    for column, color in ((600, PALETTE[0]), (300, PALETTE[1])):
        seen = {tuple(pixel) for pixel in picture[300, column - 30 : column + 30].tolist()}
        assert {rgb(color), (255, 0, 0)} <= seen


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


class Painted:
    """An environment that renders pictures of the sizes that it is given."""

    def __init__(self, *pictures: object, rate: object = 20) -> None:
        self.pictures, self.name, self.metadata = list(pictures), "painted", {"render_fps": rate}

    def reset(self, seed: int) -> None: ...

    def render(self) -> object:
        return self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]


def test_what_an_environment_renders_is_a_scene_of_real_states_alone() -> None:
    red = np.zeros((20, 40, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    scene = RenderedScene(Painted(red), width=80)
    assert scene.draw(scene.now()).shape == (40, 80, 3)
    assert scene.now()[20, 40].tolist() == [255, 0, 0]
    assert scene.seconds == 0.05 and scene.cannot_imagine
    assert RenderedScene(Painted(red, rate=None), width=80).seconds == 0
    with pytest.raises(EnvError, match=r"painted: render\(\) draws no imagined states"):
        scene.poses(np.zeros((2, 3)), red)
    with pytest.raises(EnvError, match=r"a picture of shape \(9, 40, 3\) after \(20, 40, 3\): keep its size"):
        RenderedScene(Painted(red, red[:9]), width=80).now()


@pytest.mark.parametrize(
    "wrong", [None, "art", np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_no_picture_is_refused_at_once(wrong: object) -> None:
    with pytest.raises(
        EnvError, match=r"painted: render\(\) with render_mode = 'rgb_array' gave \w+: expected a picture"
    ):
        RenderedScene(Painted(wrong), width=80)
