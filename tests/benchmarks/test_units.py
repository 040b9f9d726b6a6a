"""The study of units: its task, its output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from benchmarks.studies import units

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cases_change_units_only() -> None:
    parallel_api_test(units.Line(), num_cycles=50)
    usual, changed = units.Line(), units.Line(constant=100, unit=1e-4, offset=2, reward=1e4)
    for env in (usual, changed):
        env.reset(seed=3)
    actions = dict.fromkeys(usual.agents, np.array([0.7], dtype=np.float32))
    (seen, reward, *_), (other, paid, *_) = usual.step(actions), changed.step(actions)
    for agent in actions:
        assert other[agent] == pytest.approx([1e-4 * seen[agent][0] + 2, 100])
        assert paid[agent] == pytest.approx(1e4 * reward[agent])


def test_runs_are_scored_in_the_usual_unit_and_not_repeated(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(units, "SETTINGS", {"mappo": {"steps": 40, "envs": 1, "learner": {"rollout": 40}}})
    out = tmp_path / "out" / "after.json"
    given = ["--out", str(out), "--preset", "debug", "--seeds", "0", "--cases", "base", "reward 1e4"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["units", *given, "--algorithms", "mappo"])
        assert units.main() == 0
    usual, large = (one["return"] for one in json.loads(out.read_text())["results"])
    assert -25 < large < -3 and -25 < usual < -3
    monkeypatch.setattr("sys.argv", ["units", "--table", str(out), str(out)])
    assert units.main() == 0
    assert f"| mappo | after | {usual:.1f} | - |" in capsys.readouterr().out
