"""Completion in real shells: the script is sourced, and asked as the shell asks it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dima.algorithms import algorithm_names
from dima.cli import main
from dima.cli.commands import COMMANDS, DATASET
from dima.cli.completion import rows, script
from dima.cli.options import flags
from dima.envs import all_tasks
from dima.presets import preset_names
from dima.training.run_config import build_config

BASH = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
PATH=/usr/bin:/bin
_dima
printf '%s\n' "${COMPREPLY[@]}"
"""
CASES = {
    "dima ": list(COMMANDS),
    "dima tra": ["train"],
    "dima dataset ": list(DATASET),
    "dima dataset rec": ["record"],
    "dima train toy/w": ["toy/walk"],
    "dima train toy/walk --algorithm ": algorithm_names(),
    "dima train toy/walk --algorithm m": ["mamba", "mappo", "marie"],
    "dima train toy/walk --algorithm happo --preset ": preset_names("happo"),
    "dima train toy/walk --preset s": ["sharp", "small"],
    "dima train toy/walk --dev": ["--device"],
    "dima train toy/walk --device ": ["auto", "cpu", "cuda"],
    "dima train toy/walk --no-t": ["--no-tensorboard"],
    "dima train toy/walk --env.": ["--env.n-agents", "--env.episode-limit"],
    "dima train toy/walk --algorithm hasac --learner.alpha": [
        "--learner.alpha",
        "--learner.alpha-start",
        "--learner.alpha-lr",
    ],
    "dima fit data --algorithm mamba --learner.policy-a": ["--learner.policy-after"],
    "dima evaluate --vi": ["--video"],
    "dima imagine run --act ": ["recorded", "policy"],
    "dima completion ": ["bash", "zsh", "fish"],
    "dima evaluate sub": ["subfolder"],
    "dima sweep ba": ["bash"],  # a file
    "dima train toy/walk --run sub": ["subfolder"],
    "dima train toy/walk --steps ": [],
    "dima nothing --": [],
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        (folder / shell).write_text(script(shell), encoding="utf-8")
    (folder / "subfolder").mkdir()
    return folder


def need(shell: str) -> str:
    return shutil.which(shell) or pytest.skip(f"no {shell} here")


def in_bash(scripts: Path, line: str) -> list[str]:
    words = line.replace("=", " = ").split() + ([""] if line.endswith((" ", "=")) else [])  # as readline splits it
    words = words[:-1] if line.endswith("=") else words
    command = [need("bash"), "--norc", "-c", BASH, "bash", "./bash", *words]
    done = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("line", CASES)
def test_bash(scripts: Path, line: str) -> None:
    assert sorted(in_bash(scripts, line)) == sorted(CASES[line])


def test_bash_completes_behind_an_equals_sign(scripts: Path) -> None:
    assert in_bash(scripts, "dima train --algorithm=m") == ["mamba", "mappo", "marie"]
    assert in_bash(scripts, "dima train --algorithm=happo --preset=") == preset_names("happo")
    assert in_bash(scripts, "dima train --env.") == [] == in_bash(scripts, "dima train --device=gpu")


def test_bash_knows_every_task_and_every_flag(scripts: Path) -> None:
    tasks = [name.replace("\\", "") for name in in_bash(scripts, "dima train ")]
    assert sorted(tasks) == sorted(task.name for task in all_tasks())
    assert r"mamujoco/humanoid-9\|8" in in_bash(scripts, "dima train mamujoco/humanoid-")  # for the shell to read
    config = build_config("toy/walk", "marie")
    wanted = {f"--{name}" for name, _ in [*flags(config), *flags(config.learner, "learner.")]} - {"--task"}
    assert wanted <= set(in_bash(scripts, "dima train toy/walk --algorithm marie --"))


def test_fish(scripts: Path) -> None:
    def asked(line: str) -> list[str]:
        command = [need("fish"), "--no-config", "-c", f"source fish; complete -C '{line}'"]
        done = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True)
        return [one.split("\t")[0] for one in done.stdout.splitlines()]

    assert sorted(asked("dima ")) == sorted(COMMANDS)
    assert asked("dima train toy/walk --algorithm m") == ["mamba", "mappo", "marie"]
    assert asked("dima train --algorithm=map") == ["--algorithm=mappo"]
    assert asked("dima evaluate sub") == ["subfolder/"]


def test_zsh(scripts: Path) -> None:
    """The function that completion calls, with the builtins of completion replaced by ones that print."""
    program = """
    compdef() { :; }; compset() { :; }; _files() { print -r -- "@$*"; }; _describe() { print -rl -- "${(@P)2}"; }
    source ./zsh; words=("$@"); CURRENT=$#; _dima
    """
    for line, expected in {
        "dima tra": ["train:train a team on a task"],
        "dima train --device ": ["auto:", "cpu:", "cuda:"],
        "dima evaluate ": ["@-/"],
    }.items():
        command = [need("zsh"), "-f", "-c", program, "zsh", *line.split(), *([""] if line.endswith(" ") else [])]
        done = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == expected


def test_the_command_prints_the_script(capsys) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == script("bash")


def test_no_field_of_the_table_breaks_its_form() -> None:
    assert all("\t" not in field and "\n" not in field for row in rows() for field in row)
