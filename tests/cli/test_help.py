"""Help texts: one screen for what people use, every option on demand, nothing heavy imported."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Annotated, Literal

import pytest

from dima.algorithms import algorithm_names
from dima.cli import main
from dima.cli.commands import COMMANDS, DATASET, every_command
from dima.cli.fields import comments, options_of
from dima.cli.options import flags
from dima.config import Config, Range
from dima.training.run_config import build_config

COMMAND_NAMES = ["dataset", *every_command()]


def shown(capsys, *args: str) -> str:
    with contextlib.suppress(SystemExit):
        assert main([*args]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_help_is_one_screen(capsys, monkeypatch, name) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = shown(capsys, *name.split(), "--help").splitlines()
    assert lines[0].startswith(f"usage: dima {name} ")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    if name != "dataset":
        assert any(line.startswith("example") for line in lines)


@pytest.mark.parametrize("name", every_command())
def test_examples_are_of_the_command_and_its_common_options_exist(name) -> None:
    command = every_command()[name]
    kind = getattr(import_module(f"dima.cli.{command.module}"), command.options)
    assert set(command.common) <= {option.name for option in options_of(kind)}
    assert all(example.startswith(f"dima {name}") for example in command.examples)


@pytest.mark.parametrize("name", sorted(set(every_command()) - {"completion"}))
def test_every_command_answers_in_json(name) -> None:
    command = every_command()[name]
    kind = getattr(import_module(f"dima.cli.{command.module}"), command.options)
    assert "json" in {field.name for field in fields(kind)}


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_all_options_are_shown(capsys, algorithm) -> None:
    told = shown(capsys, "train", "--algorithm", algorithm, "--help-all")
    learner = build_config("toy/walk", algorithm).learner
    names = [name for name, kind in flags(learner, "learner.") if kind is not bool]
    assert len(names) > 10
    assert [name for name in names if f"--{name} " not in told] == []
    assert f"Options and defaults for mamujoco/halfcheetah-2x3, {algorithm}, preset small" in told
    assert "--env.observation TEXT" in told and "--no-tensorboard" not in told and "--[no-]tensorboard" in told
    short = shown(capsys, "train", "toy/walk", "--algorithm", algorithm, "--help")
    told = " ".join(short.split())
    assert f"(see `dima algorithms`) (default: {algorithm})" in told and "--learner.ppo.clip" not in told


def test_defaults_are_those_of_the_preset(capsys) -> None:
    config = build_config("mpe/simple_spread", "mappo", "quick")
    args = ("train", "mpe/simple_spread", "--algorithm", "mappo", "--preset", "quick")
    for flag in ("--help", "-h"):
        told = shown(capsys, *args, flag)
        assert f"environment steps of the whole run (default: {config.steps})" in told
        assert f"collect in parallel (default: {config.envs})" in told


def test_a_wrong_name_beside_help_is_one_line(capsys) -> None:
    for flag in ("--help", "--help-all"):
        assert main(["train", "--algorithm", "mapo", flag]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "did you mean 'mappo'?" in err


@pytest.mark.parametrize("args", ["", "--help", "tasks", "algorithms", "doctor", "train --help"])
def test_pytorch_is_not_imported(args) -> None:
    program = "import sys; from dima.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *args.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_overviews_list_every_command(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = shown(capsys).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert all(f"  {name} " in shown(capsys, "--help") for name in COMMANDS)
    assert all(f"  {name} " in shown(capsys, "dataset") for name in DATASET)
    assert shown(capsys, "help", "dataset", "info") == shown(capsys, "dataset", "info", "--help")


@dataclass(frozen=True)
class Inner(Config):
    level: Annotated[float, Range(0, 1)] = 0.5  # how much


@dataclass(frozen=True)
class Sample(Config):
    """Fields in every form."""

    first: int = 3  # a comment behind
    # a comment above
    # in two lines
    second: Literal["a", "b"] = "a"
    third: tuple[int, ...] = (
        1,  # not the field's
        2,
    )
    bare: bool = True
    inner: Inner = Inner()  # what is inside

    def method(self) -> int:
        first = 1  # not the field's either
        return first


def test_options_of_a_dataclass() -> None:
    assert comments(Sample)["second"] == "a comment above in two lines"
    assert comments(Sample)["first"] == "a comment behind"
    found = {option.name: option for option in options_of(Sample())}
    assert list(found) == ["first", "second", "third", "bare", "inner.level"]
    assert found["second"].choices == ("a", "b") and found["second"].metavar == "{a,b}"
    assert found["third"].metavar == "INT ..." and found["bare"].metavar == ""
    level = found["inner.level"]
    assert (level.group, level.about, level.default, level.limits) == ("inner", "what is inside", 0.5, "0 to 1")
