"""Whole sweeps, one run after another: results, kills, stops, errors, and nothing outside their folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

import dima
from dima.algorithms.mappo import MappoConfig
from dima.cli import main
from dima.storage.run_folder import RunFolder
from dima.sweeps import run as run_module
from dima.sweeps.progress import SweepBars, SweepLines, SweepProgress, SweepQuiet
from dima.sweeps.results import RunOutcome
from tests.sweeps.conftest import at_work, iterations, numbers

LONG = {"steps": 100_000, "evaluate_every": 50_000}


def test_a_sweep_is_its_runs_and_a_report_and_goes_on_where_it_was(content, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    swept = content({"learner.ppo.lr": [1e-3, 1e-2]}, out="out")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(swept), encoding="utf-8")
    assert main(["sweep", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [run["status"] for run in found["runs"]] == ["finished", "finished"] and found["total"] == 2
    assert "toy/walk/mappo-debug-lr=0.001-seed0: finished, team return -" in err and "(2 of 2 runs)" in err
    written = {child.name for child in tmp_path.iterdir() if not child.name.startswith(".coverage")}
    assert written == {"out", "sweep.yaml"}  # and the files of coverage, whose warnings are what `logs` may hold
    names = {"report.html", "report.csv", "run.lock", "sweep.yaml", "toy"}
    assert {child.name for child in (tmp_path / "out").iterdir()} - {"logs"} == names
    assert "mappo (lr 0.01)" in (tmp_path / "out" / "report.html").read_text()
    config = dima.build_config("toy/walk", "mappo", "debug")
    alone = config.override({**{k: v for k, v in swept["settings"].items() if "." not in k}, "run": "alone"})
    dima.train(alone.override({"learner": {"ppo": {"lr": 1e-2}}}), quiet=True)
    assert numbers(tmp_path / "alone") == numbers(tmp_path / "out/toy/walk/mappo-debug-lr=0.01-seed0")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "toy").rglob("*")}
    assert main(["sweep", str(path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "toy").rglob("*")} == before
    assert main(["sweep", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished    ") == 2
    assert main(["sweep", str(path), "--dry-run", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in listed["runs"]] == ["finished"] * 2
    assert all(run["folder"] == f"{listed['out']}/{run['name']}" for run in listed["runs"])
    assert listed["total"] == 2 and listed["searches"] == []


def test_one_error_stops_no_other_and_is_told_at_the_end(content, tmp_path, capsys) -> None:
    """The oracle needs a simulator whose state can be set; other code may simply crash."""
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content(algorithms=["oracle", "mappo"])), encoding="utf-8")
    assert main(["sweep", str(path), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dima: toy/walk/oracle-debug-seed0: ") and "its state cannot be set" in line
    assert numbers(tmp_path / "out/toy/walk/mappo-debug-seed0")
    crashing = "tests.sweeps.test_sweep:CrashingConfig"
    crashes = content(algorithms=[crashing, "mappo"], presets=None, out=str(tmp_path / "other"))
    path.write_text(yaml.safe_dump(crashes), encoding="utf-8")
    assert main(["sweep", str(path), "--quiet", "--allow", crashing]) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("dima: "))
    name = "toy/walk/tests.sweeps.test_sweep.CrashingConfig-published-seed0"
    assert line.startswith(f"dima: {name}: ZeroDivisionError") and f"traceback in {tmp_path}" in line
    assert "ZeroDivisionError" in (tmp_path / "other" / "logs" / f"{name}.txt").read_text()
    assert numbers(tmp_path / "other/toy/walk/mappo-small-seed0")


@dataclass(frozen=True)
class CrashingConfig(MappoConfig):
    """An algorithm that crashes."""

    def build(self, spec: Any, device: str) -> Any:
        return 1 / 0


def test_kills_of_a_run_and_of_the_command_lose_nothing(content, tmp_path, started) -> None:
    swept = content({"steps": 3_000, "evaluate_every": 1_000})
    dima.sweep(swept | {"out": str(tmp_path / "whole")})
    folder = tmp_path / "out/toy/walk/mappo-debug-seed0"
    process = started(swept)
    os.kill(at_work(tmp_path / "out"), signal.SIGKILL)
    for line in process.stderr:
        if "goes on from its last checkpoint" in line:
            break
    kept = iterations(folder)
    while iterations(folder) <= kept and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    result = dima.sweep(swept)  # waits for the run, which still saves
    assert result.status == 0 and [run.status for run in result.runs] == ["finished"]
    assert numbers(folder) == numbers(tmp_path / "whole/toy/walk/mappo-debug-seed0")


def test_ctrl_c_saves_and_says_how_to_go_on(content, tmp_path, started) -> None:
    process = started(content(LONG, seeds=[0, 1]))
    folder = tmp_path / "out/toy/walk/mappo-debug-seed0"
    at_work(tmp_path / "out")
    with pytest.raises(dima.UserError, match="is being written by another process"):  # two commands, one folder
        dima.sweep(content(LONG, seeds=[0, 1]))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("dima: stopped and saved: run the same command to go on\n") and "Traceback" not in err
    assert "toy/walk/mappo-debug-seed0: interrupted and saved" in err and "0 of 2 runs finished" in out
    with RunFolder.open(folder) as run:
        assert run.load().tree["iterations"] == iterations(folder) >= 1
    assert not (tmp_path / "out/toy/walk/mappo-debug-seed1").exists()


def test_a_search_ends_with_its_best_settings(content, tmp_path, capsys) -> None:
    pytest.importorskip("optuna")
    path = tmp_path / "sweep.yaml"
    section = {"trials": 2, "fields": {"learner.ppo.lr": {"log": [1e-5, 1e-1]}}}
    path.write_text(yaml.safe_dump(content(search=section)), encoding="utf-8")
    assert main(["sweep", str(path)]) == 0
    out = capsys.readouterr().out
    assert (
        "best of toy/walk/mappo-debug: -" in out and "with learner.ppo.lr = " in out and "2 of 2 runs finished" in out
    )
    assert main(["sweep", str(path)]) == 0
    again = capsys.readouterr()
    assert again.out == out and not again.err
    assert main(["sweep", str(path), "--dry-run"]) == 0
    assert "2 of 2 trials begun" in capsys.readouterr().out
    assert main(["sweep", str(path), "--dry-run", "--json"]) == 0
    (search,) = json.loads(capsys.readouterr().out)["searches"]
    assert (search["begun"], search["trials"]) == (2, 2)


def test_without_ray_it_says_so_and_goes_on(content, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run_module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "dima.sweeps.ray_tune", raising=False)
    told: list[str] = []
    monkeypatch.setattr(SweepProgress, "message", lambda self, text: told.append(text))
    assert dima.sweep(content(backend="auto")).status == 0
    assert told == [run_module.NO_RAY] and "pip install 'dima-marl[ray]'" in told[0]
    for changes in ({"backend": "ray"}, {"backend": "auto", "address": "auto"}):
        with pytest.raises(dima.UserError, match=r"pip install 'dima-marl\[ray\]', or take --serial"):
            dima.sweep(content(**changes))


def test_without_optuna_a_search_says_what_it_needs(content, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    section = {"trials": 2, "fields": {"learner.ppo.lr": {"log": [1e-5, 1e-1]}}}
    with pytest.raises(dima.UserError, match="a search needs the package optuna: pip install"):
        dima.sweep(content(search=section))


def test_views(tmp_path) -> None:
    from io import StringIO

    ended = RunOutcome("a", tmp_path, "failed", "no luck")
    quiet, lines, bars = StringIO(), StringIO(), StringIO()
    for view in (SweepQuiet(quiet), SweepLines(lines), SweepBars(bars)):
        with view.displaying(3, 1):
            view.begin("a")
            view.show("a", 10, 40, {"evaluated_return": 1.5}, 3.0)
            view.warn("a", "slow")
            view.end(ended)
            view.begin("b")
            view.show("b", 10, 40, {"evaluated_return": 1.5}, 3.0)
            view.end(RunOutcome("b", tmp_path, "finished"))
    assert quiet.getvalue() == "a: slow\n"
    assert lines.getvalue().splitlines() == [
        "a: begins", "a: slow", "a: failed: no luck  (2 of 3 runs)",
        "b: begins", "b: finished, team return 1.5  (3 of 3 runs)",
    ]  # fmt: skip
    assert "b: finished, team return 1.5  (3 of 3 runs)" in bars.getvalue() and "3 of 3" in bars.getvalue()
