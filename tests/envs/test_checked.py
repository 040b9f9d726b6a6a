"""Violations of the PettingZoo API are one line with the agent, the value, the step and a remedy."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.envs.base import JointEnv
from dima.errors import EnvError

ZERO = np.zeros((2, 1), dtype=np.float32)
AGENTS = ("left", "right")


def box(*shape, low=-9.0, high=9.0, dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


def each(space):
    return dict.fromkeys(AGENTS, space)


def message(make, seed=5, steps=3, action=ZERO):
    """The error of building and playing, which must be one line that begins with the environment's name."""

    def play():
        env = JointEnv(make(), name="my/task")
        env.reset(seed=seed)
        for _ in range(steps):
            env.step(action)

    with pytest.raises(EnvError) as caught:
        play()
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("my/task: ")
    return text, caught.value


def test_an_episode_without_an_end(puppet, monkeypatch):
    monkeypatch.setattr("dima.envs.checked.ENDLESS", 30)
    monkeypatch.setattr("dima.envs.checked.MAX_EPISODE_STEPS", 50)

    def stating(limit):
        env = puppet(limit=10**9)
        env.max_cycles = limit
        return env

    for stated, end in ((None, 30), (8, 30), (40, 40), (10**9, 50)):
        text, _ = message(lambda stated=stated: stating(stated), steps=60)
        assert f"step {end} of the episode with seed 5: the episode has no end: truncate it in the environment" in text


@pytest.mark.parametrize(
    ("observation", "action", "expected"),
    [
        ({}, None, "possible_agents is empty or missing"),
        (each(box(0)), None, "agent 'left' observes Box(.*), which is empty: give it at least one feature"),
        (each(spaces.Tuple([box(1)])), None, "agent 'left' observes Tuple.*only Box and Discrete observations"),
        (each(spaces.Dict(a=box(1))), None, "agent 'left' observes Dict.*flatten it"),
        (each(spaces.MultiBinary(3)), None, "agent 'left' observes MultiBinary"),
        (each(spaces.Text(3)), None, "agent 'left' observes Text"),
        (each(box(65, 64)), None, "4160 features: at most 4096 are handled"),
        (None, each(box(0)), "agent 'left' acts in Box.*which is empty"),
        (None, each(box(2, high=np.inf)), "agent 'left' acts in Box.*which is unbounded: give it finite bounds"),
        (None, each(box(2, dtype=np.int64)), "agent 'left' acts in Box.*floating point, or Discrete"),
        (None, each(spaces.MultiDiscrete([2, 2])), "agent 'left' acts in MultiDiscrete.*only Box"),
        (None, each(spaces.Dict(a=box(1))), "agent 'left' acts in Dict"),
        (
            None,
            {"left": box(1), "right": spaces.Discrete(2)},
            "agents mix Box and Discrete actions .*'right': 'Discrete'.*: give every agent the same kind",
        ),
    ],
)
def test_unsupported_spaces(puppet, observation, action, expected):
    def make():
        env = puppet(observation=observation or None, action=action)
        if observation == {}:
            env.possible_agents = []
        return env

    with pytest.raises(EnvError, match=expected):
        JointEnv(make(), name="my/task")


@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        (
            {"observations": lambda t, o: o | {"right": np.zeros(3, np.float32)} if t == 2 else o},
            r"step 2 of the episode with seed 5: agent 'right' observed .* shape \(3,\): its space says \(2,\)",
        ),
        (
            {"observations": lambda t, o: o | {"left": np.zeros(2, np.complex64)} if t == 1 else o},
            "step 1 .* agent 'left' observed an array of dtype complex64: its space says float32; convert",
        ),
        ({"observations": lambda t, o: o | {"left": [0.0, 0.0]}}, "reset .*'left' observed .*expected a numpy array"),
        (
            {"observations": lambda t, o: o | {"right": np.array([0, np.nan], np.float32)} if t == 1 else o},
            "agent 'right' observed nan in feature 1: expected a finite number",
        ),
        (
            {"observations": lambda t, o: o | {"right": np.array([-np.inf, 0], np.float32)} if t == 1 else o},
            "agent 'right' observed -inf in feature 0",
        ),
        ({"observations": lambda t, o: {"left": o["left"]} if t == 1 else o}, "agent 'right' has no observation"),
        ({"observations": lambda t, o: None if t == 1 else o}, "agent 'left' has no observation"),
        ({"rewards": lambda t, r: {"left": 0.0}}, "agent 'right' has no usable reward .*KeyError"),
        ({"rewards": lambda t, r: r | {"right": "much"}}, "agent 'right' has no usable reward .*ValueError"),
        ({"rewards": lambda t, r: r | {"right": np.nan}}, "rewards must be finite numbers.* are .*'right': nan"),
        ({"rewards": lambda t, r: r | {"right": 1e39}}, r"rewards must be finite numbers, up to 3e\+38, but are"),
        ({"rewards": lambda t, r: r | {"right": 10**400}}, "agent 'right' has no usable reward .*OverflowError"),
        ({"state": lambda t, s: [[1.0], [1.0, 2.0]] if t else s}, r"state\(\) raised ValueError"),
        ({"terminations": lambda t, e: {"left": False}}, "agent 'right' has no usable termination and truncation"),
        ({"truncations": lambda t, e: {}}, "agent 'left' has no usable termination and truncation"),
        (
            {"terminations": lambda t, e: e | {"left": t == 2}},
            r"step 2 .* agents \['left'\] ended while others go on: allow that with --env.agents-leave",
        ),
        ({"agents": lambda t, a: [] if t == 2 else a}, "step 2 .* no agents are left although none terminated"),
        (
            {"agents": lambda t, a: ["left"] if t == 2 else a},
            r"its agents are \['left'\], expected \['left', 'right'\]",
        ),
        ({"agents": lambda t, a: [*a, "new"] if t == 1 else a}, "its agents are .*'new'.*come and go"),
        ({"agents": lambda t, a: ["left", "new"] if t == 0 else a}, "reset .*its agents are .*come and go"),
        ({"infos": lambda t, i: None}, "reset .*infos is of type NoneType: expected a dictionary for each agent"),
        ({"infos": lambda t, i: [{}, {}]}, "infos is of type list"),
        ({"infos": lambda t, i: np.zeros(2) if t == 2 else i}, "step 2 .*infos is of type ndarray"),
        ({"infos": lambda t, i: i | {"right": 3}}, "the info of agent 'right' is of type int: expected a dictionary"),
        ({"infos": lambda t, i: i | {"right": np.zeros(2)} if t else i}, "step 1 .* 'right' is of type ndarray"),
        ({"agents": lambda t, a: len}, r"its agents cannot be read \(TypeError: .*: let agents be the list"),
        ({"rewards": lambda t, r: np.zeros(2)}, "agent 'left' has no usable reward .*IndexError"),
        ({"state": lambda t, s: np.zeros(4) if t == 1 else s}, r"state\(\) has 4 features, but had 3 at first"),
        ({"state": lambda t, s: s * np.inf if t == 1 else s}, r"state\(\) holds inf in feature 0"),
        ({"state": lambda t, s: np.full(3, 1e60) if t == 1 else s}, r"state\(\) holds 1e\+60 in feature 0"),
        ({"state": lambda t, s: np.array(["a"])}, r"state\(\) has dtype <U1: return an array of numbers"),
        ({"state": lambda t, s: np.zeros(0)}, r"state\(\) is empty"),
    ],
)
def test_api_violations(puppet, hooks, expected):
    text, _ = message(lambda: puppet(**hooks))
    assert re.search(expected, text), text


@pytest.mark.parametrize(
    ("promises", "expected"),
    [
        ({"possible_agents": np.array(["left", "right"])}, "possible_agents is of type ndarray: expected a list"),
        ({"possible_agents": lambda: ["left", "right"]}, "possible_agents is of type function: expected a list"),
        ({"metadata": ["human"]}, "metadata is of type list: expected a dictionary"),
        ({"metadata": None}, "metadata is of type NoneType: expected a dictionary"),
        ({"close": None}, r"it has no method close\(\): add one, which may do nothing"),
        ({"possible_agents": [["left"], ["right"]]}, "are no names: give each agent a string"),
    ],
)
def test_attributes_of_another_kind(puppet, promises, expected):
    def make():
        env = puppet()
        vars(env).update(promises)
        return env

    assert re.search(expected, message(make)[0])


@pytest.mark.parametrize("attribute", ["possible_agents", "metadata", "render_mode", "unwrapped", "max_cycles"])
def test_attributes_that_raise(puppet, attribute):
    class Broken:
        def __init__(self):
            self.env = puppet()

        def __getattr__(self, name):
            if name == attribute:
                raise RuntimeError("the simulator is gone")
            return getattr(self.env, name)

    text, error = message(Broken)
    assert text == f"my/task: {attribute} raised RuntimeError: the simulator is gone: the fault is in the environment"
    assert isinstance(error.__cause__, RuntimeError)


@pytest.mark.parametrize("agents", [[["left"], ["right"]], RuntimeError("not yet"), None])
def test_agents_that_cannot_be_read(puppet, agents):
    class Broken:
        def __init__(self):
            self.env = puppet()

        def __getattr__(self, name):
            if name == "agents":
                if isinstance(agents, Exception):
                    raise agents
                return agents
            return getattr(self.env, name)

    assert "its agents cannot be read" in message(Broken)[0]


def test_pictures_keep_their_kind_and_size(puppet):
    shown = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]
    env = puppet()
    env.render_mode, env.render = "rgb_array", lambda: shown.pop(0)
    joint = JointEnv(env, name="p")
    joint.render(), joint.render()
    with pytest.raises(EnvError, match=r"picture of shape \(9, 8, 3\) after \(8, 8, 3\): keep its size"):
        joint.render()
    for picture, kind in ((None, "NoneType"), (np.zeros((8, 8)), r"\(8, 8\) float64")):
        shown.append(picture)
        with pytest.raises(EnvError, match=rf"gave {kind}: expected \(height, width, 3\) uint8"):
            joint.render()
    env.render_mode = "human"
    shown.append("anything")
    assert joint.render() == "anything"


@pytest.mark.parametrize("method", ["close", "render"])
def test_methods_that_raise_besides_reset_and_step(puppet, method):
    def fail():
        raise RuntimeError("no display")

    broken = puppet()
    setattr(broken, method, fail)
    with pytest.raises(EnvError, match=rf"^p: .*{method}\(\) raised RuntimeError: no display: the fault is in"):
        getattr(JointEnv(broken, name="p"), method)()


def test_no_agents_attribute(puppet):
    class Absent:
        def __init__(self):
            self.env = puppet()

        def __getattr__(self, name):
            if name == "agents":
                raise AttributeError("there are no agents")
            return getattr(self.env, name)

    assert "its agents cannot be read (AttributeError" in message(Absent)[0]


@pytest.mark.parametrize("who", [("left", "right"), ("right",)])
def test_masks_that_come_after_the_reset(puppet, who):
    masks = {agent: {"action_mask": np.array([0, 1], np.int8)} for agent in who}
    late = {"infos": lambda t, i: i | masks if t == 2 else i}
    text, _ = message(lambda: puppet(action=each(spaces.Discrete(2)), **late), action=np.eye(2, dtype=np.float32))
    assert f"step 2 of the episode with seed 5: agent {who[0]!r} has an action mask, but had none at reset" in text


@pytest.mark.parametrize("where", ["reset", "step", "state"])
def test_an_environment_that_raises(puppet, where):
    def fail(step, value):
        if where == "reset" or step == 2:
            raise ZeroDivisionError("the motor\nis off")
        return value

    text, error = message(lambda: puppet(**{where: fail}))
    assert "ZeroDivisionError: the motor is off" in text
    assert isinstance(error.__cause__, ZeroDivisionError)
    if where != "reset":
        assert "step 2 of the episode with seed 5" in text
        assert f"{where}() raised" in text


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros(2), "agent 'left' has an action mask that forbids every action: allow at least one"),
        (np.ones(3), r"action mask of shape \(3,\) and dtype float64: expected 2 truth values"),
        (np.array(["a", "b"]), "dtype <U1: expected 2 truth values"),
        ([[1], [1, 0]], "dtype object: expected 2 truth values"),
        (None, "agent 'left' has no action mask, but had one at first"),
    ],
)
def test_invalid_masks(puppet, mask, expected):
    def infos(step, _):
        return {a: {"action_mask": mask if step == 1 else np.ones(2)} for a in AGENTS}

    def make():
        return puppet(action=each(spaces.Discrete(2)), infos=infos)

    text, _ = message(make, action=np.eye(2))
    assert re.search(expected, text), text


def test_masks_of_continuous_actions_are_refused(puppet):
    def make():
        return puppet(infos=lambda t, i: {a: {"action_mask": np.ones(1)} for a in i})

    assert "has an action mask, but acts in a Box" in message(make)[0]


def test_an_action_of_the_wrong_shape(puppet):
    assert "shape (2, 2), expected (2, 1)" in message(puppet, action=np.zeros((2, 2)))[0]


@pytest.mark.parametrize(("method", "answer"), [("reset", None), ("step", (1, 2, 3, 4))])
def test_old_interfaces_are_refused(puppet, method, answer):
    def make():
        env = puppet()
        setattr(env, method, lambda *a, **k: answer)
        return env

    def make_stepping():
        env = puppet()
        env.step = lambda actions: answer
        return env

    text, _ = message(make if method == "reset" else make_stepping)
    assert f"{method} must return" in text


def test_missing_spaces(puppet):
    def make():
        env = puppet()
        del env.action_spaces["right"]
        return env

    assert "action_space('right') raised KeyError" in message(make)[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("success", "episode_metrics = 'success': expected a list of names of infos"),
        ([1], r"episode_metrics = \[1\]: expected a list of names"),
        (["win rate"], r"episode_metrics = \['win rate'\]: expected .* of letters, digits and underscores"),
        (["return"], r"episode_metrics = \['return'\]: expected .* other than length, return, std"),
    ],
)
def test_metrics_of_an_episode_have_plain_names(puppet, names, expected):
    def make():
        env = puppet()
        env.episode_metrics = names
        return env

    assert re.search(expected, message(make)[0])


@pytest.mark.parametrize("value", [None, "yes", np.nan])
def test_metrics_of_an_episode_are_numbers_at_its_end(puppet, value):
    def make():
        env = puppet(infos=lambda step, infos: {agent: {"success": value} for agent in infos} if value else infos)
        env.episode_metrics = ("success",)
        return env

    text, _ = message(make)
    assert "step 3 of the episode with seed 5: infos have success = " in text and "one of episode_metrics" in text


def test_an_environment_without_state_and_metadata():
    """PettingZoo's own ``state`` then raises otherwise than it does for others."""

    class Bare(ParallelEnv):
        possible_agents: ClassVar = ["a"]

        def observation_space(self, agent):
            return spaces.Box(-1, 1, (2,), np.float32)

        def action_space(self, agent):
            return spaces.Discrete(2)

        def reset(self, seed=None, options=None):
            self.agents = ["a"]
            return {"a": np.zeros(2, np.float32)}, {"a": {}}

    assert JointEnv(Bare(), name="bare").spec.state_dim == 2
