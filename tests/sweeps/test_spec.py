"""What is wrong with a sweep's file is one line, before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import dima
from dima.cli import main
from dima.errors import ConfigError, EnvError
from dima.sweeps.plan import make_plan
from dima.sweeps.spec import Grid, read_sweep

LR = "learner.ppo.lr"


def search(**changes) -> dict:
    return {"search": {"trials": 2, "fields": {LR: {"log": [1e-5, 1e-2]}}} | changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": ["toy/walk"]}, "there is no field 'task' in a sweep: did you mean 'tasks'?"),
        ({"tasks": []}, "tasks = [] is empty"),
        ({"tasks": "toy/walk"}, "tasks = 'toy/walk' does not fit: expected a list of names"),
        ({"tasks": [3]}, "tasks = [3] does not fit"),
        ({"tasks": ["toy/wlak"]}, "no such world: did you mean 'walk'?"),
        ({"tasks": ["toi/walk"]}, "no suite 'toi': did you mean 'toy'?"),
        ({"tasks": ["toy/walk", "toy/walk"]}, "tasks: 'toy/walk' stands twice"),
        ({"algorithms": ["mapo"]}, "there is no algorithm 'mapo': did you mean 'mappo'?"),
        ({"algorithms": {"mappo": {LR: []}}}, f"algorithms.mappo: {LR} = [] is empty"),
        ({"presets": ["debgu"]}, "has no preset 'debgu': did you mean 'debug'?"),
        ({"presets": []}, "presets = [] is empty"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 stands twice"),
        ({"seeds": ["zero"]}, "seeds[0] = 'zero' does not fit: expected a value of type int"),
        ({"seeds": 3}, "seeds = 3 does not fit: expected a list"),
        ({"seeds": [-1]}, "seeds[0] = -1 is out of range"),
        ({"settings": {"learner.ppo.lrr": 1}}, "learner.ppo.lrr is not a field of PPOConfig: did you mean 'lr'?"),
        ({"settings": {LR: "fast"}}, f"{LR} = 'fast' does not fit: expected a value of type float"),
        ({"settings": {LR: [1e-3, -1.0]}}, f"{LR} = -1.0 is out of range: expected above 0"),
        ({"settings": {LR: [1e-3, 1e-3]}}, f"settings: {LR}: 0.001 stands twice"),
        ({"settings": {"steps": [200, 2e2]}}, "stands twice"),
        ({"settings": {"learner": {"ppo": 1}}}, "write learner.ppo: value"),
        ({"settings": {"seed": 1}}, "seed is not a setting here: write it under seeds"),
        ({"settings": {"learner-ppo-lr": 1, "learner.ppo": 2}}, "learner_ppo_lr is not a field"),
        ({"settings": {LR: 1e-3, "learner.ppo": 2}}, "give one of them"),
        ({"settings": [1]}, "settings = [1] does not fit"),
        ({"resources": {"cpu": 1}}, "resources.cpu is not a field of Resources: did you mean 'cpus'?"),
        ({"resources": {"gpus": -0.5}}, "resources.gpus = -0.5 is out of range"),
        ({"backend": "slurm"}, "backend = 'slurm' is not one of auto, ray, serial"),
        ({"retries": "often"}, "retries = 'often' does not fit"),
        ({"search": {"trials": 2}}, "search.fields is missing"),
        (search(budget=3), "search.budget is not a field of a search"),
        (search(trials=0), "search.trials = 0 is out of range"),
        (search(prune="hyperband"), "search.prune = 'hyperband' is not one of none, asha, median"),
        (search(fields={LR: {"lgo": [1, 2]}}), "there is no range 'lgo': did you mean 'log'?"),
        (search(fields={LR: {"log": [0, 1]}}), "expected the lower end first and positive"),
        (search(fields={LR: [0, 1]}), f"search.fields.{LR} = [0, 1] does not fit: expected one of"),
        (search(fields={LR: {"float": [-1.0, 1.0]}}), f"search.fields.{LR} with the value -1.0: {LR} = -1.0 is out"),
        (search(fields={"learner.ppo.epochs": {"float": [1, 9]}}), "expected a value of type int"),
        (search(fields={"learner.ppo.lrr": {"float": [1, 9]}}), "did you mean 'lr'?"),
        (search() | {"settings": {LR: 0.1}}, f"{LR} is a setting and is searched"),
    ],
)
def test_wrong_files(tmp_path, capsys, changes, expected) -> None:
    base = {"tasks": ["toy/walk"], "algorithms": ["mappo"], "presets": ["debug"]}
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(base | {"out": str(tmp_path / "out")} | changes), encoding="utf-8")
    assert main(["sweep", str(path)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"dima: {path}: ") and expected in told.err
    assert told.err.count("\n") == 1 and not told.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: [toy/walk]\ntasks: [toy/linear]", "'tasks' stands twice"),
        ("tasks: [toy/walk]", "algorithms is missing"),
        ("- toy/walk", "must hold a mapping"),
    ],
)
def test_files_that_are_no_sweep(tmp_path, capsys, text, expected) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["sweep", str(path)]) == 2
    assert expected in capsys.readouterr().err


def test_wrong_flags(tmp_path, capsys, content) -> None:
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content()), encoding="utf-8")
    assert main(["sweep", str(path), "--serial", "--address", "auto"]) == 2
    assert "which backend = serial does not use" in capsys.readouterr().err
    assert main(["sweep", str(path), "--serail"]) == 2
    assert "did you mean --serial?" in capsys.readouterr().err


def test_names_in_a_file_need_consent(tmp_path, capsys, monkeypatch, content) -> None:
    """Nothing is imported before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    path = tmp_path / "sweep.yaml"
    for changes in ({"tasks": ["strange:make"]}, {"algorithms": ["strange:Config"]}):
        path.write_text(yaml.safe_dump(content(**changes)), encoding="utf-8")
        assert main(["sweep", str(path)]) == 2
        err = capsys.readouterr().err
        assert "if you trust it, repeat it, --allow strange:" in err and "--task" not in err
    (tmp_path / "strange.py").write_text("from dima.algorithms.mappo import MappoConfig as Config", encoding="utf-8")
    own = content(algorithms=["strange:Config"], presets=["published"])
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    assert main(["sweep", str(path), "--dry-run", "--allow", "strange:Config"]) == 0
    assert "absent      " in (out := capsys.readouterr().out) and "strange.Config-published-seed0" in out
    assert make_plan(read_sweep(own), ["strange:Config"]).runs[0].config.algorithm == "strange:Config"
    (tmp_path / "home" / "dima").mkdir(parents=True)
    (tmp_path / "home" / "dima" / "config.yaml").write_text("allow_algorithms: ['strange:*']", encoding="utf-8")
    assert main(["sweep", str(path), "--dry-run"]) == 2  # it is not defined in that module: a pattern is not enough
    assert "list the name itself" in capsys.readouterr().err


def allow_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Write a configuration of the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "dima").mkdir(parents=True)
    (tmp_path / "home" / "dima" / "config.yaml").write_text(line, encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"env.max_cycles": 9}, None),
        ({"env.arguments": '{"max_cycles": 9}'}, None),
        ({"env.arguments.max_cycles": [8, 9]}, None),
        ({}, {"env.max_cycles": {"int": [8, 9]}}),
        ({}, {"env.arguments": {"choice": ["{}", '{"max_cycles": 9}']}}),
    ],
)
def test_arguments_in_a_file_need_consent(tmp_path, monkeypatch, content, settings, fields) -> None:
    """Those of PettingZoo's own factories, too, however they are written; what is allowed for good gets none."""
    allow_for_good(tmp_path, monkeypatch, "allow_tasks: ['strange:*']")
    search = {"search": {"trials": 1, "fields": fields}} if fields else {}
    path = tmp_path / "sweep.yaml"
    for task in ("pettingzoo/sisl.pursuit_v5", "strange:make"):
        path.write_text(yaml.safe_dump(content(settings, tasks=[task], **search)), encoding="utf-8")
        with pytest.raises(ConfigError, match=f"names the task {task}.* with the arguments .*max_cycles"):
            make_plan(read_sweep(path))


def test_an_allowed_task_with_arguments_is_not_taken_from_the_working_directory(tmp_path, monkeypatch, content) -> None:
    allow_for_good(tmp_path, monkeypatch, "allow_tasks: ['unheard_of:make']")
    (tmp_path / "unheard_of.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content({"env.size": 9}, tasks=["unheard_of:make"])), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    with pytest.raises(EnvError, match="there is no module 'unheard_of'"):
        make_plan(read_sweep(path))


def test_lists_are_grids_and_other_values_are_fixed(content) -> None:
    read = read_sweep(content({LR: [1e-3, 1e-2], "--learner.ppo.critic-lr": 1e-3}, tasks={"toy/walk": None}))
    assert read.settings[LR] == Grid((1e-3, 1e-2), varies=True)
    assert read.settings["learner.ppo.critic_lr"] == Grid((1e-3,), varies=False)
    assert read.tasks == {"toy/walk": {}}
    assert read_sweep(content(), out="elsewhere", backend=None).out == Path("elsewhere")


def test_the_folder_is_called_after_the_file(tmp_path, content) -> None:
    path = tmp_path / "walkers.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content().items() if k != "out"}), encoding="utf-8")
    assert read_sweep(path).out == Path("runs/walkers")


def test_the_public_function_refuses_the_same(content) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mappo'"):
        dima.sweep(content(algorithms=["mapo"]))
