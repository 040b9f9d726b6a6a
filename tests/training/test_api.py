"""Runs started from Python: names, classes and functions; settings; what another process needs to go on."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pytest

import dima
from dima.algorithms.mappo import MappoConfig
from dima.config import read_yaml
from dima.envs import env_maker
from dima.envs.toy import ToyConfig, Walk
from dima.errors import ConfigError, EnvError, RunFolderError
from dima.registry import given
from dima.world_models.ensemble import EnsembleModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")
FAST: dict[str, Any] = {"preset": "debug", "steps": 50, "device": "cpu", "threads": 1, "tensorboard": False}
HERE = __name__


class Corridor(Walk):
    """An environment of the user's own, in a module."""

    def __init__(self, size: int = 2, limit: int = 10, names: Any = ()) -> None:
        super().__init__(ToyConfig(n_agents=size, episode_limit=limit))
        self.names = names


@dataclass(frozen=True)
class Own(MappoConfig):
    """An algorithm of the user's own, in a module."""

    presets: ClassVar[Mapping[str, Any]] = {"debug": {"learner": {"rollout": 25}}}


class Model(EnsembleModelConfig):
    """A world model of the user's own, in a module."""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch) -> None:
    """No object was given in this process before."""
    monkeypatch.setattr(given, "_GIVEN", {})
    monkeypatch.setattr(given, "_ARGUMENTS", {})


def train(task: Any, algorithm: Any = "mappo", **settings: Any) -> dima.Run:
    return dima.train(task, algorithm, **{**FAST, "quiet": True, **settings})


def test_settings_are_dotted_or_nested_and_have_the_last_word(tmp_path: Path) -> None:
    run = train(
        "toy/walk",
        seed=3,
        run=tmp_path / "run",
        env={"n_agents": 3},
        learner={"ppo": {"epochs": 1}},
        **{"learner.ppo.clip": 0.3, "env.episode_limit": 9},
    )
    config = run.settings()
    assert (config["learner"]["ppo"]["clip"], config["learner"]["ppo"]["epochs"]) == (0.3, 1)
    assert config["env"] | {"n_agents": 3, "episode_limit": 9} == config["env"]
    assert config["seed"] == 3 and config["steps"] == 50


def test_a_config_trains_as_it_does_by_name(tiny, tmp_path: Path) -> None:
    config = tiny(algorithm="mappo", steps=50)
    one = dima.train(config, quiet=True)
    other = train("toy/walk", run=tmp_path / "other", checkpoint_budget=1.0)
    assert one.evaluations == other.evaluations
    assert train_config_settings(one) == train_config_settings(other)
    third = dima.train(config, seed=7, run=tmp_path / "third", quiet=True)
    assert third.settings()["seed"] == 7


def train_config_settings(run: dima.Run) -> dict[str, Any]:
    return {name: value for name, value in run.settings().items() if name != "run"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner.ppo.clpi": 0.1}, "learner.ppo.clpi is not a field of PPOConfig: did you mean 'clip'?"),
        ({"clip": 0.1}, "clip is not a field of TrainConfig: did you mean 'learner.ppo.clip'?"),
        ({"ppo.clip": 0.1}, "ppo.clip is not a field of TrainConfig: did you mean 'learner.ppo.clip'?"),
        ({"lerner.ppo.clip": 0.1}, "did you mean 'learner.ppo.clip'?"),
        ({"setps": 3}, "setps is not a field of TrainConfig: did you mean 'steps'?"),
        ({"env": {"n_agent": 3}}, "env.n_agent is not a field of ToyConfig: did you mean 'n_agents'?"),
        ({"learner.ppo.clip": "much"}, "learner.ppo.clip = 'much' does not fit"),
        ({"learner": {"ppo": {"clip": 0.1}}, "learner.ppo.clip": 0.2}, "give one of them"),
        ({"learner": 3, "learner.ppo.clip": 0.2}, "learner.ppo.clip = 0.2 and learner = 3 are given: give one of them"),
        ({"preset": "smal"}, "did you mean 'small'?"),
        ({"steps": 0}, "steps = 0 is out of range"),
        ({"callbacks": [3]}, r"callbacks\[0\] is of type int"),
        ({"callbacks": dima.KeepBest()}, r"callbacks is of type KeepBest: expected a list"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dima.UserError, match=message.replace("?", r"\?")):
        train("toy/walk", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "algorithm", "message"),
    [
        ("toy/wlak", "mappo", "did you mean 'walk'"),
        ("toy/walk", "mapo", "did you mean 'mappo'"),
        (Corridor(), "mappo", "task is an environment: give its class, Corridor"),
        (3, "mappo", "task is of type int: expected a name, a class or function, or a config"),
        (json, "mappo", "the module json has no parallel_env"),
        (dict, "mappo", "returned a dict: expected a PettingZoo ParallelEnv"),
        ("toy/walk", dict, "builtins:dict is no algorithm"),
        ("toy/walk", 3, "3 is of type int: expected a name, a class or a function"),
    ],
)
def test_what_is_no_task_or_algorithm_is_refused(
    tmp_path, monkeypatch, task: Any, algorithm: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dima.UserError, match=message):
        train(task, algorithm)
    assert not list(tmp_path.iterdir())


def test_names_beside_a_config_are_refused(tiny) -> None:
    with pytest.raises(ConfigError, match="algorithm = 'happo' is a part of the config"):
        dima.train(tiny(), "happo")
    with pytest.raises(ConfigError, match=r"config is of type TrainConfig: give what dima\.fit_config"):
        dima.fit(tiny())
    with pytest.raises(ConfigError, match="preset = 3 does not fit: expected a value of type str"):
        dima.train("toy/walk", "mappo", 3)  # type: ignore[arg-type]


def test_a_class_of_a_module_is_recorded_by_its_name(tmp_path: Path) -> None:
    run = train(Corridor, env={"size": 3, "episode_limit": 7}, run=tmp_path / "run")
    recorded = read_yaml(run.folder / "config.yaml")
    assert recorded["task"] == f"{HERE}:Corridor"
    assert json.loads(recorded["env"]["arguments"]) == {"size": 3} and recorded["env"]["episode_limit"] == 7
    assert dima.load(run).env.spec.n_agents == 3  # it was given in this process, arguments and all


def test_what_was_not_given_here_asks_for_consent(tmp_path: Path, monkeypatch) -> None:
    run = train(Corridor, env={"size": 3}, run=tmp_path / "run")
    for arguments in ("{}", '{"size": 4}'):  # nobody gave these
        monkeypatch.setattr(given, "_ARGUMENTS", {f"{HERE}:Corridor": {arguments}})
        with pytest.raises(ConfigError, match="which would run code of that name"):
            dima.load(run)
    monkeypatch.setattr(given, "_GIVEN", {})
    with pytest.raises(ConfigError, match="which would run code of that name"):
        dima.load(run)
    for consent in (Corridor, f"{HERE}:Corridor"):
        assert dima.load(run, task=consent).env.spec.n_agents == 3
    assert not dima.resume(run, task=Corridor, quiet=True).stopped
    with pytest.raises(ConfigError, match="does not fit"):
        dima.load(run, task=Walk)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"sise": 3}, "env.sise is neither an argument of Corridor nor a setting of its adapter: did you mean 'size'?"),
        ({"episode_limt": 3}, "did you mean 'episode_limit'?"),
        ({"names": {1, 2}}, r"env.names = {1, 2} cannot be kept in config.yaml"),
        ({"size": float("nan")}, "env.size = nan cannot be kept"),
    ],
)
def test_arguments_that_do_not_fit_are_named(env: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        train(Corridor, env=env)


def test_arguments_are_kept_by_value_and_by_name(tmp_path: Path) -> None:
    run = train(partial(Corridor, size=np.int64(2), limit=5), env={"limit": 6, "names": ("a",)}, run=tmp_path / "run")
    recorded = run.settings()
    assert recorded["task"] == f"{HERE}:Corridor"
    assert json.loads(recorded["env"]["arguments"]) == {"size": 2, "limit": 6, "names": ["a"]}
    config = dima.build_config(f"{HERE}:Corridor", "mappo", "debug", {"env": {"arguments": {"size": 4}}})
    assert config.env.to_dict()["arguments"] == '{"size": 4}'


def test_a_factory_of_pettingzoo_is_recorded_by_the_name_of_its_module(tmp_path: Path) -> None:
    from mpe2 import simple_v3

    for given_as in (simple_v3, simple_v3.parallel_env):
        run = train(given_as, env={"max_cycles": 9}, run=tmp_path / "run", overwrite=True)
        assert run.settings()["task"] == "mpe2.simple_v3:parallel_env"


def make_local() -> Any:
    class Corridor(Walk):
        def __init__(self) -> None:
            super().__init__(ToyConfig(episode_limit=10))

    return Corridor


def test_what_cannot_be_imported_works_here_and_says_what_it_needs(tmp_path: Path, capsys, monkeypatch) -> None:
    local = make_local()
    run = train(local, run=tmp_path / "run", quiet=False)
    assert run.settings()["task"] == "__main__:Corridor"
    assert "the task __main__:Corridor is known to this process only" in capsys.readouterr().err
    assert dima.load(run).env.spec.n_agents == 2
    monkeypatch.setattr(given, "_GIVEN", {})  # as in another process
    with pytest.raises(ConfigError, match="which was defined in a notebook, a function or an interactive process"):
        dima.load(run)
    with pytest.raises(EnvError, match=r"there is no __main__:Corridor, which was defined in a notebook"):
        dima.load(run, task="__main__:Corridor")
    assert dima.resume(run, task=local, steps=100, quiet=True).steps == 100
    monkeypatch.setattr(given, "_GIVEN", {})
    assert dima.load(run, task=f"{HERE}:Corridor").config.task == f"{HERE}:Corridor"  # moved to a module
    assert dima.resume(run, task=Corridor, steps=150, quiet=True).settings()["task"] == f"{HERE}:Corridor"


def test_lambdas_are_told_apart(tmp_path: Path) -> None:
    two, three = (lambda: Corridor(2)), (lambda: Corridor(3))
    names = [train(one, run=tmp_path / str(n)).settings()["task"] for n, one in enumerate((two, three, two))]
    assert names == ["__main__:lambda", "__main__:lambda_2", "__main__:lambda"]
    assert [dima.load(tmp_path / str(n)).env.spec.n_agents for n in range(3)] == [2, 3, 2]


def test_a_class_that_is_defined_anew_takes_the_place_of_the_former_one(tmp_path: Path, monkeypatch) -> None:
    main = sys.modules["__main__"]
    cell = (
        "from dima.envs.toy import ToyConfig, Walk\n"
        "class Cell(Walk):\n"
        "    def __init__(self): super().__init__(ToyConfig(episode_limit={n}))"
    )
    monkeypatch.delattr(main, "__file__", raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    for n in (10, 20):
        exec(cell.format(n=n), namespace := {"__name__": "__main__"})
        monkeypatch.setattr(main, "Cell", namespace["Cell"], raising=False)
        if n == 10:
            run = train(main.Cell, run=tmp_path / "run")  # type: ignore[attr-defined]
            assert run.settings()["task"] == "__main__:Cell"
        assert dima.load(run).env.spec.episode_limit == n


def test_a_process_that_does_not_know_a_class_is_sent_it(tmp_path: Path, monkeypatch) -> None:
    config = dima.build_config(make_local(), Own, "debug", {"env.episode_limit": 5})
    assert (config.task, config.algorithm) == ("__main__:Corridor", f"{HERE}:Own")
    sent = cloudpickle.dumps(env_maker(config.task, config.env))
    monkeypatch.setattr(given, "_GIVEN", {})
    with pytest.raises(EnvError, match="there is no __main__:Corridor"):
        env_maker(config.task, config.env)()
    assert pickle.loads(sent)().spec.episode_limit == 5
    assert env_maker("toy/walk")().spec.n_agents == 2


def test_a_world_model_of_a_class_is_fitted(recording, tmp_path: Path) -> None:
    dima.record(recording(steps=60))
    overrides = {"run": str(tmp_path / "fit"), "iterations": 1, "evaluation_horizon": 3, "device": "cpu", "threads": 1}
    run = dima.fit(dima.fit_config(tmp_path / "data", Model, "debug", overrides), quiet=True)
    assert run.algorithm == f"{HERE}:Model"


def test_an_algorithm_may_be_a_class(tmp_path: Path, monkeypatch) -> None:
    run = train("toy/walk", Own, run=tmp_path / "run")
    assert run.algorithm == f"{HERE}:Own"
    assert dima.load(run).steps == 50
    monkeypatch.setattr(given, "_GIVEN", {})
    with pytest.raises(ConfigError, match="names the algorithm"):
        dima.load(run)
    assert dima.load(run, algorithm=Own).steps == 50


SCRIPT = """
import dima
from dima.envs.toy import ToyConfig, Walk

class Mine(Walk):
    def __init__(self):
        super().__init__(ToyConfig(episode_limit=10))

if __name__ == "__main__":
    dima.train(Mine, "mappo", "debug", steps=50, device="cpu", threads=1, tensorboard=False, run="run")
    print(dima.load("run"))
"""


def test_a_class_of_a_script_is_found_again_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(SCRIPT)
    root = str(Path(dima.__file__).parents[1])

    def python(*args: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
        return subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, env=environment)

    done = python("study.py")
    assert done.returncode == 0, done.stderr
    assert "<Agent of mappo on study:Mine" in done.stdout
    assert "known to this process only" not in done.stderr and "step 50 of 50" in done.stderr  # progress by default
    done = python("-m", "dima", "evaluate", "run", "--episodes", "1", "--task", "study:Mine")
    assert done.returncode == 0, done.stderr


def test_progress_is_displayed_unless_it_is_not_wanted(tmp_path: Path, capsys) -> None:
    settings = {**FAST, "run": tmp_path / "run", "overwrite": True}
    dima.train("toy/walk", "mappo", **settings)
    assert "step 50 of 50" in capsys.readouterr().err
    for silent in ({"quiet": True}, {"progress": False}):
        dima.train("toy/walk", "mappo", **settings, **silent)
        assert capsys.readouterr() == ("", "")
    dima.resume(tmp_path / "run", steps=100)
    assert "step 100 of 100" in capsys.readouterr().err


def test_an_opened_run_is_the_one_that_was_trained(tmp_path: Path) -> None:
    run = train("toy/walk", run=tmp_path / "run", steps=150, evaluate_every=50)
    opened = dima.open_run(run)
    for name in ("task", "algorithm", "folder", "steps", "evaluations", "env", "finished", "stopped", "unit"):
        assert getattr(opened, name) == getattr(run, name), name
    assert repr(opened) == repr(run) and "150 environment steps, team return" in repr(run)
    assert opened.seconds.keys() >= {"collect", "update"}
    assert "<polyline" in opened._repr_html_()
    (run.folder / "metrics.jsonl").write_text("")
    assert not dima.open_run(run).finished and "no evaluation was made" in dima.open_run(run)._repr_html_()
    shutil.rmtree(run.folder)
    with pytest.raises(RunFolderError, match="does not exist"):
        run.metrics()
    with pytest.raises(RunFolderError, match="does not exist"):
        dima.open_run(run.folder)
