"""The study of sequential against joint conditioning: one command that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies import reveal
from dima.agent import load

pytestmark = pytest.mark.usefixtures("one_thread")


def study(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    budgets = ["--budgets", "150", "200", "--seeds", "0"]
    arguments = ["toy/walk", "--preset", "debug", "--device", "cpu", *budgets, "--runs", str(folder / "runs")]
    monkeypatch.setattr("sys.argv", ["reveal", *arguments, "--out", str(folder / "out"), *more])
    return reveal.main()


def test_both_forms_are_trained_once_compared_and_resumed(tmp_path: Path, monkeypatch, capsys) -> None:
    settings = ("--settings", "evaluate_every=100")
    with monkeypatch.context() as stopped:
        stopped.setattr(reveal, "resume", None)  # nothing is there to resume
        assert study(monkeypatch, tmp_path, *settings) == 0
    out = json.loads((tmp_path / "out" / "reveal.json").read_text())
    assert [result["form"] for result in out["results"]] == ["sequential", "joint"]
    assert all(set(result["returns"]) == {"150", "200"} for result in out["results"])
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[0] == "| form | seeds | 150 | 200 |" and [line.split(" |")[0] for line in lines[2:]] == [
        "| sequential",
        "| joint",
    ]
    runs = sorted((tmp_path / "runs").iterdir())
    assert [load(run, "cpu").config.learner.world_model.denoiser.reveal for run in runs] == ["all", "one"]
    capsys.readouterr()
    resumed: list[int] = []
    monkeypatch.setattr(reveal, "train", None)  # a second start finds all of it
    monkeypatch.setattr(reveal, "resume", lambda path, **changes: resumed.append(changes["steps"]) or Stopped())
    assert study(monkeypatch, tmp_path, *settings) == 0
    assert lines[2] in capsys.readouterr().out and not resumed
    assert study(monkeypatch, tmp_path, *settings, "--budgets", "900") == 130  # a larger budget: it goes on
    assert resumed == [900]
    capsys.readouterr()
    assert study(monkeypatch, tmp_path, "--settings", "evaluate_every=50") == 2
    assert "holds a run with other settings: choose other --runs" in capsys.readouterr().err


class Stopped:
    finished = False


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    assert study(monkeypatch, tmp_path, "--settings", "lerner.horizon=3") == 2
    assert capsys.readouterr().err.splitlines() == [
        "reveal: lerner.horizon is not a field of TrainConfig: did you mean 'learner.horizon'?"
    ]
