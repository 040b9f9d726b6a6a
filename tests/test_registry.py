"""Registries: names of the library, of decorators and of installed packages; names that users type."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dima
from dima.algorithms import ALGORITHMS, algorithm_class, algorithm_config, algorithm_names
from dima.algorithms.mappo import MappoConfig
from dima.algorithms.model_based import ModelBasedConfig
from dima.cli import main
from dima.config import Config, Count, read_yaml
from dima.envs import TASKS, all_tasks, make_env, suite_config
from dima.envs.base import TaskInfo
from dima.envs.toy import ToyConfig, Walk
from dima.errors import ConfigError, EnvError
from dima.presets import preset_names
from dima.registry import FromFile, Registry, agreed, consent, give, given
from dima.world_models import WORLD_MODELS
from dima.world_models.ensemble import EnsembleModelConfig

MODULES = {
    "lab/__init__.py": "",
    "lab/tasks.py": '''
from dataclasses import dataclass
from dima.config import Config, Count
from dima.envs.base import TaskInfo
from dima.envs.toy import ToyConfig, Walk
import dima

@dataclass(frozen=True)
class CONFIG(Config):
    size: Count = 2  # robots in the lab

def make(name, config, render_mode=None):
    return Walk(ToyConfig(n_agents=config.size, episode_limit=10))

def tasks():
    return [TaskInfo("lab/room", None, "an empty room")]

def corridor():
    """A corridor."""
    return Walk(ToyConfig(episode_limit=10))

@dima.register_task("lab/maze", config=CONFIG)
def maze(config):
    return Walk(ToyConfig(n_agents=config.size))
''',
    "lab/models.py": '''
from dataclasses import dataclass
from typing import ClassVar
from dima.config import Count
from dima.world_models.ensemble import EnsembleModelConfig

@dataclass(frozen=True)
class Pair(EnsembleModelConfig):
    """Two members."""

    members: Count = 2  # of the pair
    presets: ClassVar = {"tiny": {"steps": 40, "learner": {"world_model": {"hidden": [8]}}}}

@dataclass(frozen=True, kw_only=True)
class Needy(EnsembleModelConfig):
    least: Count

class Bare(EnsembleModelConfig):
    extra: int = 3

def function(): ...
''',
    "lab/learners.py": '''
from dataclasses import dataclass
from dima.algorithms.mappo import MappoConfig

@dataclass(frozen=True)
class Mine(MappoConfig):
    """MAPPO of the lab."""
''',
    "lab/broken.py": "raise RuntimeError('no licence')",
}
ENTRY_POINTS = """
[dima.tasks]
lab = lab.tasks
lab/corridor = lab.tasks:corridor
toy/walk = lab.tasks:corridor
broken = lab.broken

[dima.world_models]
pair = lab.models:Pair
dima = lab.models:Pair
broken-model = lab.broken:Model

[dima.algorithms]
lab-mappo = lab.learners:Mine
"""


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    """Leave the registries as they were."""
    registries: list[Registry] = [TASKS, WORLD_MODELS, ALGORITHMS]
    before = [dict(registry._registered) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        registry._registered = names


@pytest.fixture
def lab(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """An installed package that provides entry points in all three groups."""
    for name, text in MODULES.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    info = tmp_path / "site" / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "lab"]:
        del sys.modules[name]


# -- decorators -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MazeConfig(Config):
    robots: Count = 3  # in the maze


def test_a_registered_task_is_known_everywhere() -> None:
    @dima.register_task("lab/maze", config=MazeConfig)
    def maze(config: MazeConfig, render_mode: str | None = None) -> Walk:
        """Robots in a maze.

        They walk.
        """
        assert render_mode in (None, "rgb_array")
        return Walk(ToyConfig(n_agents=config.robots))

    assert make_env("lab/maze").spec.n_agents == 3
    assert make_env("lab/maze", MazeConfig(robots=2), render_mode="rgb_array").spec.n_agents == 2
    assert suite_config("lab/maze") is MazeConfig
    assert TaskInfo("lab/maze", None, "Robots in a maze") in all_tasks()
    assert make_env(FromFile("lab/maze")).name == "lab/maze"  # whoever registered it consents
    assert dima.build_config("lab/maze", overrides={"env": {"robots": 4}}).env == MazeConfig(4)
    with pytest.raises(ConfigError, match="takes settings of type MazeConfig, not ToyConfig"):
        make_env("lab/maze", ToyConfig())
    with pytest.raises(ConfigError, match="no suite 'labb': did you mean 'lab'"):
        make_env("labb/maze")
    assert dima.register_task("lab/maze")(maze) is maze  # the same again, from a module that is run twice


def test_a_class_without_settings_is_a_factory_too() -> None:
    dima.register_task("lab/walk")(Walk)
    assert make_env("lab/walk", suite_config("lab/walk")(episode_limit=4)).spec.episode_limit == 4
    assert make_env("lab/walk").name == "lab/walk"

    @dima.register_task("lab/broken")
    def broken() -> None:
        raise RuntimeError("no display")

    with pytest.raises(EnvError, match=r"^lab/broken: .*broken\(\) raised RuntimeError: no display"):
        make_env("lab/broken")


@pytest.mark.parametrize("name", ["maze", "/maze", "lab/", "toy/maze", "toy/walk", "lab/m:aze"])
def test_names_that_tasks_cannot_have(name: str) -> None:
    with pytest.raises(ConfigError):
        dima.register_task(name)(Walk)
    assert name not in TASKS or name == "toy/walk"


def test_names_that_are_taken() -> None:
    @dataclass(frozen=True)
    class Other(EnsembleModelConfig):
        """Another one."""

    with pytest.raises(ConfigError, match="there is a world model 'dima' already"):
        dima.register_world_model("dima")(Other)
    with pytest.raises(ConfigError, match="there is a world model 'ensemble'"):
        dima.register_algorithm("ensemble")(MappoConfig)
    dima.register_world_model("other")(Other)
    with pytest.raises(ConfigError, match="there is a world model 'other' already"):
        dima.register_world_model("other")(EnsembleModelConfig)
    assert algorithm_config("other") == ModelBasedConfig(world_model=Other())
    assert "other" in algorithm_names()
    assert {"debug", "published"} <= set(preset_names("other"))


# -- installed packages -----------------------------------------------------------------------------------------------


def test_entry_points_are_found_without_being_imported(lab: Path) -> None:
    assert {"lab", "lab/corridor", "broken"} <= set(TASKS.names())
    assert {"pair", "lab-mappo", "broken-model"} <= set(algorithm_names())
    assert "lab.tasks" not in sys.modules and "lab.models" not in sys.modules
    assert make_env("lab/room").spec.n_agents == 2
    assert make_env("lab/corridor").spec.episode_limit == 10
    assert make_env("lab/maze").spec.n_agents == 2  # registered by the module of the suite
    assert algorithm_config("lab-mappo").__doc__ == "MAPPO of the lab."
    assert preset_names("pair") == ["published", *sorted({*preset_names("ensemble"), "tiny"} - {"published"})]


def test_packages_do_not_replace_the_library(lab: Path) -> None:
    assert suite_config("toy/walk") is ToyConfig
    assert make_env("toy/walk").spec.episode_limit == 30
    assert "members" not in algorithm_config("dima").to_dict()["world_model"]


def test_broken_packages_are_named(lab: Path, capsys) -> None:
    tasks = {info.name for info in all_tasks()}
    told = capsys.readouterr().err
    assert {"lab/room", "lab/corridor", "toy/walk"} <= tasks
    assert told.count("\n") == 1 and "the tasks of broken are left out" in told
    assert "lab.broken, cannot be loaded: RuntimeError: no licence" in told
    assert main(["tasks", "lab/"]) == 0
    assert "lab/room" in capsys.readouterr().out
    assert main(["algorithms"]) == 0
    told = capsys.readouterr()
    assert "pair          Two members." in told.out
    assert "lab-mappo     MAPPO of the lab." in told.out
    assert told.err.count("\n") == 1 and "'broken-model', lab.broken:Model, cannot be loaded" in told.err
    assert main(["train", "toy/walk", "--algorithm", "broken-model"]) == 2
    assert main(["train", "broken/walk"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.usefixtures("one_thread")
def test_a_package_s_task_and_model_on_the_command_line(lab: Path, capsys) -> None:
    short = ("--preset", "debug", "--steps", "20", "--learner.learn-after", "20", "--quiet", "--device", "cpu")
    args = ("train", "--env.size", "3", "lab/room", "--algorithm", "pair", "--learner.world-model.members", "3", *short)
    assert main([*args, "--run", "run"]) == 0
    config = read_yaml(lab / "run" / "config.yaml")
    assert config["env"] == {"size": 3}
    assert config["learner"]["world_model"]["members"] == 3
    for args in (("evaluate", "run", "--episodes", "1"), ("resume", "run", "--quiet"), ("report", "run")):
        assert main([*args]) == 0  # who installed the package needs to repeat nothing
    with pytest.raises(SystemExit):
        main(["train", "lab/room", "--algorithm", "pair", "--help-all"])
    told = " ".join(capsys.readouterr().out.split())
    assert "robots in the lab" in told and "of the pair" in told


# -- names that users type --------------------------------------------------------------------------------------------


def test_a_class_is_named_by_where_it_is_imported_from(lab: Path) -> None:
    assert algorithm_class("lab.learners:Mine").__name__ == "Mine"
    assert isinstance(algorithm_config("lab.models:Pair"), ModelBasedConfig)
    assert "tiny" in preset_names("lab.models:Pair") and "debug" in preset_names("lab.models:Pair")
    assert preset_names("lab.learners:Mine") == ["published"]
    assert dima.build_config("toy/walk", "lab.learners:Mine").preset == "published"
    assert dima.build_config("toy/walk", "lab.models:Pair").preset == "small"
    config = dima.build_config("toy/walk", "lab.models:Pair", "tiny")
    assert config.steps == 40 and config.folder == Path("runs/toy/walk/lab.models:Pair-tiny-seed0")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lab.models:Pear", "lab.models has no 'Pear': did you mean 'Pair'?"),
        ("lab.model:Pair", "there is no module 'lab.model': did you mean 'models'?"),
        ("lab.broken:Pair", "importing lab.broken raised RuntimeError: no licence"),
        ("lab.models:function", "expected a class derived from AlgorithmConfig or WorldModelConfig"),
        ("lab.tasks:CONFIG", "expected a class derived from AlgorithmConfig or WorldModelConfig"),
        ("lab.models:Needy", "Needy has no defaults for all of its fields"),
        ("lab.models:Bare", r"extra is not a field: put @dataclass(frozen=True) above Bare"),
        ("lab.models:", "is not of the form package.module:Name"),
        ("lab/models:Pair", "is not of the form package.module:Name"),
        ("maapo", "there is no algorithm 'maapo': did you mean 'mappo'?"),
    ],
)
def test_what_is_no_algorithm(lab: Path, capsys, name: str, expected: str) -> None:
    assert main(["train", "toy/walk", "--algorithm", name]) == 2
    told = capsys.readouterr().err
    assert expected in told and told.count("\n") == 1


def test_a_world_model_with_the_name_of_an_algorithm_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(WORLD_MODELS, "_registered", dict(WORLD_MODELS._registered))
    dima.register_world_model("mappo")(EnsembleModelConfig)
    with pytest.raises(ConfigError, match="a world model was registered as 'mappo'"):
        algorithm_config("mappo")


def test_a_local_name_in_a_file_is_data_until_its_object_is_given(monkeypatch) -> None:
    """Neither patterns nor the main module's own attributes count as consent."""
    monkeypatch.setattr(given, "_GIVEN", {})
    monkeypatch.setattr(given, "_ARGUMENTS", {})
    monkeypatch.setattr(consent, "_allowed", lambda kind: ["*", "__main__:*"])
    monkeypatch.setattr(sys.modules["__main__"], "Evil", lambda: pytest.fail("it was called"), raising=False)
    name = FromFile("__main__:Evil")
    with pytest.raises(ConfigError, match="which was defined in a notebook, a function or an interactive process"):
        agreed("task", name)
    with pytest.raises(ConfigError, match=r"not of the form package\.module:factory"):
        agreed("task", FromFile("__main__:Evil()"))
    assert give(lambda: None) == "__main__:lambda"
    assert agreed("task", FromFile("__main__:lambda")) == "__main__:lambda"
    with pytest.raises(ConfigError, match="which was defined in a notebook"):
        agreed("task", FromFile("__main__:lambda"), arguments='{"path": "/"}')  # nobody gave these
    assert agreed("task", name, typed="lab.tasks:maze") == "lab.tasks:maze"  # it has moved to a module, says the user
    with pytest.raises(ConfigError, match="does not fit"):
        agreed("task", FromFile("lab.tasks:maze"), typed="__main__:Evil")
