"""Environments named by where they are imported from."""

from __future__ import annotations

import sys

import pytest

from dima.envs import all_tasks, make_env, suite_config
from dima.envs.mujoco.env import MamujocoConfig
from dima.envs.pettingzoo import PettingZooConfig
from dima.envs.toy import ToyConfig
from dima.errors import ConfigError, EnvError

MODULE = """
from dima.envs.toy import ToyConfig, Walk

class Space:
    @staticmethod
    def walk(n_agents=2, render_mode=None):
        env = Walk(ToyConfig(n_agents=n_agents))
        env.render_mode = render_mode
        return env

walk, plain = Space.walk, lambda: Walk()
number = 3
def none(): return None
def fails(): raise RuntimeError("no display")
def exits(): raise SystemExit("usage: worlds.py")

class Gone:
    reset = step = observation_space = action_space = close = None

    @property
    def possible_agents(self): raise RuntimeError("the simulator is gone")
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "worlds.py").write_text(MODULE)
    (tmp_path / "mine" / "broken.py").write_text("1 / 0")
    (tmp_path / "mine" / "hungry.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def test_an_episode_limit_for_any_task(home):
    assert make_env("mine.worlds:walk", PettingZooConfig(episode_limit=4)).spec.episode_limit == 4


def test_a_factory_from_the_working_directory(home):
    env = make_env("mine.worlds:walk")
    assert env.spec.n_agents == 2
    assert env.name == "mine.worlds:walk"
    assert env.render_mode is None
    assert make_env("mine.worlds:Space.walk", PettingZooConfig(arguments='{"n_agents": 3}')).spec.n_agents == 3
    assert make_env("mine.worlds:walk", render_mode="rgb_array").render_mode == "rgb_array"
    assert make_env("mine.worlds:plain", render_mode="rgb_array").render_mode is None


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("mine.world:walk", "there is no module 'mine.world': did you mean 'worlds'?"),
        ("mien.worlds:walk", "there is no module 'mien': install it, or run from the folder it lies in"),
        ("mine.worlds:wlak", "mine.worlds has no 'wlak': did you mean 'walk'?"),
        ("mine.worlds:number", "number is a int: expected a function or class"),
        ("mine.worlds:none", "none() returned a NoneType: expected a PettingZoo ParallelEnv or AECEnv"),
        ("mine.worlds:fails", "fails() raised RuntimeError: no display"),
        ("mine.broken:walk", "importing mine.broken raised ZeroDivisionError"),
        ("mine.hungry:walk", "mine.hungry needs the module 'nothing_of_that_name', which is not installed"),
        ("pettingzoo/butterfly.pistn", "there is no module 'pettingzoo.butterfly.pistn'"),
        ("pettingzoo/classic.tictactoe_v3", "is turn-based (AECEnv) and cannot be played in parallel"),
    ],
)
def test_what_cannot_be_imported(home, task, expected):
    with pytest.raises(EnvError) as caught:
        make_env(task)
    assert str(caught.value).startswith(f"{task}")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_turns_that_can_be_played_in_parallel():
    env = make_env("pettingzoo/classic.rps_v2")  # an AEC environment with an attribute called state
    assert env.spec.discrete
    assert env.spec.obs_sizes == (4, 4)
    assert env.spec.state_dim == 8


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_arguments_are_an_object_in_json(text):
    with pytest.raises(ConfigError, match="arguments = "):
        PettingZooConfig(arguments=text)


def test_wrong_arguments_are_told(home):
    with pytest.raises(EnvError, match=r"walk\(legs=4\) raised TypeError.*legs"):
        make_env("mine.worlds:walk", PettingZooConfig(arguments='{"legs": 4}'))


def test_what_ends_or_raises_while_it_is_looked_at(home):
    with pytest.raises(EnvError, match=r"exits\(\) raised SystemExit: usage: worlds.py: fix the factory"):
        make_env("mine.worlds:exits")
    with pytest.raises(EnvError, match="possible_agents raised RuntimeError: the simulator is gone"):
        make_env("mine.worlds:Gone")


def test_names_of_suites_and_tasks():
    with pytest.raises(ConfigError, match=r"no suite 'mujoco': did you mean 'mamujoco'\?"):
        make_env("mujoco/ant-2x4")
    with pytest.raises(ConfigError, match=r"neither suite/name nor package.module:factory: did you mean 'toy/walk'"):
        make_env("toy-walk")
    with pytest.raises(ConfigError, match="toy/walk takes settings of type ToyConfig, not MamujocoConfig"):
        make_env("toy/walk", MamujocoConfig())
    assert suite_config("toy/walk") is ToyConfig
    assert suite_config("a.b:c") is PettingZooConfig
    names = [info.name for info in all_tasks()]
    assert {"mamujoco/halfcheetah-3x2", "mpe/simple_spread", "toy/linear"} <= set(names)
    assert len(set(names)) == len(names)
