"""The examples run, as scripts and on the command line, and say what they need where that is missing."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import dima
from dima.cli import main
from dima.config import read_yaml, write_yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE = EXAMPLES / "train_in_imagination.py"
OWN = {"own_world_model": "own_world_model:MlpModelConfig", "own_algorithm": "own_algorithm:CemConfig"}
REGISTERED = {"own_world_model": "mlp", "own_algorithm": "cem"}
FIXED = ("--quiet", "--device", "cpu", "--threads", "1", "--no-tensorboard", "--checkpoint-budget", "1")
SHORT = {
    "own_world_model": (*FIXED, "--preset", "debug", "--learner.world-model.network-fit.updates", "10"),
    "own_algorithm": (*FIXED, "--preset", "small", "--learner.population", "2", "--evaluate-every", "60"),
}
FEW = ("--episodes", "2", "--segments", "4", "--horizon", "3", "--samples", "3", "--starts", "2")


@pytest.mark.usefixtures("one_thread")
def test_another_library_learns_inside_a_world_model(capsys):
    pytest.importorskip("stable_baselines3")
    before, after = runpy.run_path(str(EXAMPLE))["main"](iterations=1, steps=512)
    assert before < 0 and after < 0  # distances to targets; nothing was learnt in so short a time
    assert "learnt in imagination" in capsys.readouterr().out


def test_without_the_other_library_it_is_asked_for():
    program = f"import sys, runpy; sys.modules['stable_baselines3'] = None; runpy.run_path({str(EXAMPLE)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "this example trains with Stable-Baselines3: pip install stable-baselines3"


# -- an own world model and an own algorithm --------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread", "on_the_path")
@pytest.mark.parametrize("example", OWN)
def test_own_code_on_the_command_line(tmp_path, capsys, example):
    own, run, whole = OWN[example], tmp_path / "run", tmp_path / "whole"
    train = ("train", "toy/walk", "--algorithm", own, *SHORT[example])
    assert main([*train, "--run", str(whole), "--steps", "240"]) == 0
    assert main([*train, "--run", str(run), "--steps", "120"]) == 0
    assert read_yaml(run / "config.yaml")["algorithm"] == own
    capsys.readouterr()
    for command in ("resume", "evaluate", "diagnose"):
        assert main([command, str(run)]) == 2
        assert f"repeat it, --algorithm {own}" in capsys.readouterr().err
    assert main(["resume", str(run), "--quiet", "--steps", "240", "--algorithm", own]) == 0
    assert metrics(run)[-1] == metrics(whole)[-1]  # another end, as only the last step is never evaluated early
    assert main(["evaluate", str(run), "--episodes", "1", "--algorithm", own]) == 0
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert own in (tmp_path / "report" / "report.html").read_text()
    capsys.readouterr()
    diagnose = ("diagnose", str(run), "--algorithm", own, "--also", str(whole), "--quiet", "--device", "cpu", *FEW)
    status, told = main([*diagnose]), capsys.readouterr()
    if example == "own_world_model":
        assert status == 0 and "State: " in told.out
    else:
        assert status == 2 and "learns no world model" in told.err


@pytest.mark.usefixtures("on_the_path")
@pytest.mark.parametrize(
    ("example", "flag", "meaning"),
    [
        ("own_world_model", "--learner.world-model.hidden", "widths of the MLP's hidden layers"),
        ("own_algorithm", "--learner.population", "policies tried in an iteration"),
    ],
)
def test_own_fields_are_flags(capsys, example, flag, meaning):
    train = ("train", "toy/walk", "--algorithm", OWN[example])
    with pytest.raises(SystemExit):
        main([*train, "--help-all"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert flag in told and meaning in told
    for wrong, expected in (
        ((f"{flag}x", "3"), f"there is no option {flag}x: did you mean {flag}?"),
        ((flag, "-1"), "out of range"),
        (("--preset", "smal"), "did you mean 'small'?"),
    ):
        assert main([*train, *wrong]) == 2
        assert expected in capsys.readouterr().err
    assert main(["algorithms"]) == 0  # now that it is imported, its short name is known, too
    assert f"\n{REGISTERED[example]}  " in "\n" + capsys.readouterr().out
    assert dima.build_config("toy/walk", REGISTERED[example], "small").steps in (15_000, 20_000)


@pytest.mark.usefixtures("one_thread", "on_the_path")
@pytest.mark.parametrize(
    ("example", "args", "run"),
    [
        ("own_world_model", ("--steps", "1000", "--iterations", "1"), "train"),
        ("own_algorithm", ("--steps", "700"), "."),
    ],
)
def test_own_code_as_a_script(tmp_path, capsys, example, args, run):
    """Its run folder has the name that the script registered; who names the class consents."""
    script = [sys.executable, str(EXAMPLES / f"{example}.py"), "--folder", str(tmp_path / "runs"), *args]
    paths = os.pathsep.join((str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{REGISTERED[example]} on toy/walk" in done.stdout
    evaluate = ["evaluate", str(tmp_path / "runs" / run), "--episodes", "1"]
    assert main(evaluate) == 2
    assert f"there is no algorithm '{REGISTERED[example]}'" in capsys.readouterr().err
    other = "own_algorithm" if example == "own_world_model" else "own_world_model"
    assert main([*evaluate, "--algorithm", OWN[other]]) == 2
    assert f"is of '{REGISTERED[example]}'" in capsys.readouterr().err
    assert main([*evaluate, "--algorithm", OWN[example]]) == 0


@pytest.mark.usefixtures("one_thread", "on_the_path")
@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
@pytest.mark.parametrize("example", OWN)
def test_own_code_on_other_tasks(tmp_path, task, example):
    """Agents of different sizes; discrete actions with masks, which the world model refuses."""
    args = ["train", task, "--algorithm", OWN[example], *SHORT[example], "--run", str(tmp_path / "run")]
    masked = (task, example) == ("toy/switches", "own_world_model")
    assert main([*args, "--steps", "120"]) == (2 if masked else 0)


@pytest.mark.usefixtures("one_thread", "on_the_path")
def test_the_own_algorithm_learns(tmp_path):
    assert import_module("own_algorithm").main(tmp_path / "run", steps=5_000) > -5  # random actions: about -20


@pytest.mark.usefixtures("one_thread", "on_the_path")
def test_the_policy_learns_in_the_own_world_model(tmp_path):
    assert (
        import_module("own_world_model").main(tmp_path, steps=3_500, iterations=2) > -7
    )  # standing still loses 10 to 20


@pytest.mark.usefixtures("one_thread", "on_the_path")
def test_everything_of_one_s_own_on_the_command_line(tmp_path, capsys):
    """Algorithm, world model and callback of one file: trained, stopped, resumed exactly, evaluated, reported."""
    own = ("--algorithm", "own_everything:DreamingCemConfig")
    calls = ("--callbacks", "own_everything:StopWhenSure", "dima:KeepBest")
    light = ("--learner.population", "8", "--learner.world-model.network-fit.updates", "50")
    train = ("train", "toy/walk", *own, *calls, "--preset", "small", *FIXED, *light)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([*train, "--run", str(whole), "--steps", "900"]) == 0
    assert main([*train, "--run", str(run), "--steps", "300"]) == 0
    assert main(["resume", str(run), *own, "--steps", "900", "--quiet"]) == 2
    assert "was trained with the callback StopWhenSure: repeat it, --callbacks" in capsys.readouterr().err
    assert main(["resume", str(run), *own, *calls, "--steps", "900", "--quiet"]) == 0
    assert metrics(run) == metrics(whole)
    capsys.readouterr()
    assert main(["evaluate", str(run), *own, "--best", "--episodes", "2"]) == 0
    assert "own_everything:DreamingCemConfig on toy/walk" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "own_everything:DreamingCemConfig" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.usefixtures("one_thread", "on_the_path")
def test_everything_of_one_s_own_learns_and_stops_by_itself(tmp_path):
    own, fixed = import_module("own_everything"), {"device": "cpu", "threads": 1, "tensorboard": False, "quiet": True}
    run = dima.train("toy/walk", own.DreamingCemConfig, callbacks=[own.StopWhenSure()], run=tmp_path / "run", **fixed)
    assert run.stopped.startswith("StopWhenSure") and run.steps < 3_000
    assert dima.load(run).evaluate(10).mean > -10  # a random policy returns about -15


def metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, apart from clocks and events."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = ("time/", "wall", "seconds")
    return [
        {name: value for name, value in line.items() if not name.startswith(clocks)}
        for line in lines
        if "event" not in line
    ]


# -- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("example", "told"), [("sweep", "9 runs in runs/sweep"), ("search", "0 of 12 trials begun")])
def test_sweeps(tmp_path, capsys, monkeypatch, example, told):
    """As they stand they pass every check; shortened, they are carried out."""
    if example == "search":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    file = EXAMPLES / f"{example}.yaml"
    assert main(["sweep", str(file), "--dry-run"]) == 0
    assert told in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    content = read_yaml(file)
    content["settings"] |= {"steps": 100, "evaluate_every": 100, "threads": 1, "tensorboard": False}
    content |= {"presets": ["debug"], "seeds": [0]}
    if example == "search":
        content["search"]["trials"] = 2
    write_yaml(tmp_path / "short.yaml", content)
    assert main(["sweep", "short.yaml", "--serial", "--quiet"]) == 0, capsys.readouterr()
    assert (tmp_path / "runs" / example / "report.html").exists()


def test_the_docs_show_the_sweeps_as_they_are():
    blocks = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / "docs" / "sweeps.md").read_text(), re.DOTALL)
    sweep, search = (read_yaml(EXAMPLES / f"{name}.yaml") for name in ("sweep", "search"))
    assert yaml.safe_load(blocks[0]) == sweep
    assert yaml.safe_load(blocks[-1])["search"].items() <= search["search"].items()
