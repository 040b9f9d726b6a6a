"""Benchmark of concurrent runs: throughput, table, command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import seeds
from dima.errors import UserError
from dima.storage.run_folder import RunFolder

RECORDS = [{"step": n, "time/iteration": seconds} for n, seconds in enumerate((9.0, 2.0, 4.0, 3.0))]


def test_the_pace_is_that_of_the_median_iteration_without_the_first(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {"task": "toy/walk", "tensorboard": False, "wandb": False}) as run:
        for record in RECORDS:
            run.log(record)
        run.log({"event": "interrupted"})
    assert seeds.pace(tmp_path / "run", skip=1) == 20
    with pytest.raises(UserError, match="raise --steps"):
        seeds.pace(tmp_path / "run", skip=4)


def test_throughputs_are_compared_with_one_run() -> None:
    found = {1: {"iterations_a_minute": 10.0}, 4: {"iterations_a_minute": 24.0}}
    assert "| 4 | 24 | 2.40 | 60% |" in seeds.table(found)


def test_the_command_trains_every_count_and_cleans_up(tmp_path: Path, monkeypatch, capsys) -> None:
    given = ["toy/walk", "--preset", "debug", "--counts", "1", "2", "--steps", "240", "--skip", "1"]
    monkeypatch.setattr("sys.argv", ["seeds", *given, "--device", "cpu", "--out", str(tmp_path)])
    assert seeds.main() == 0
    written = json.loads((tmp_path / "walk-debug-cpu.json").read_text())
    assert {count: len(found["paces"]) for count, found in written["found"].items()} == {"1": 1, "2": 2}
    assert written["found"]["2"]["iterations_a_minute"] == sum(written["found"]["2"]["paces"])
    assert (tmp_path / "walk-debug-cpu.md").read_text().strip() in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 2
