"""Answers as one JSON object on standard output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dima.algorithms import algorithm_names
from dima.cli import main
from dima.envs import all_tasks

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--preset", "debug", "--algorithm", "mappo", "--device", "cpu", "--no-tensorboard")


@pytest.fixture
def asked(capsys):
    def run(*args: str, status: int = 0) -> dict[str, Any]:
        assert main([*args, "--json"]) == status
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    return run


def test_runs(asked, tmp_path) -> None:
    run = str(tmp_path / "run")
    found = asked("train", "toy/walk", *SHORT, "--steps", "60", "--run", run)
    assert found["run"] == run and found["steps"] >= 60 and found["finished"] is True
    assert found["evaluations"][-1][0] == found["steps"] and found["measure"] == "team return"
    assert found["env"]["episode_limit"] == 30 and isinstance(found["verdicts"], list)
    assert asked("resume", run, "--steps", "300", "--quiet")["steps"] == 300
    several = ("train", "toy/walk", *SHORT, "--steps", "30", "--run", run, "--seeds")
    found = asked(*several, "1")
    assert [one["run"] for one in found["runs"]] == [f"{run}-seed1"] and found["errors"] == {}
    again = asked(*several, "1", "2", status=2)
    assert [one["run"] for one in again["runs"]] == [f"{run}-seed2"] and "already holds a run" in again["errors"]["1"]


def test_datasets(asked, tmp_path) -> None:
    data = str(tmp_path / "data")
    recorded = asked("dataset", "record", "toy/walk", "--steps", "120", "--out", data)
    assert recorded == asked("dataset", "info", data)
    debug = ("--preset", "debug", "--device", "cpu", "--no-tensorboard")
    fit = asked("fit", data, *debug, "--iterations", "1", "--evaluation-horizon", "3", "--run", str(tmp_path / "fit"))
    assert fit["unit"] == "iterations" and fit["lower_is_better"] is True


def test_lists_and_checks(asked) -> None:
    assert {task["name"] for task in asked("tasks")["tasks"]} == {task.name for task in all_tasks()}
    assert [one["name"] for one in asked("algorithms")["algorithms"]] == algorithm_names()
    report = asked("check", "toy/walk")
    assert report["ok"] is True and report["spec"]["state_dim"] == 4
    assert report["train"].startswith("dima train toy/walk --preset quick") and "--json" not in report["train"]
    doctor = asked("doctor")
    assert doctor["ok"] is True and {"torch", "device"} <= {finding["name"] for finding in doctor["findings"]}
