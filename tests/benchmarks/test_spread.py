"""The study of calibration: its measures on known models, and its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies import spread
from dima.experience.replay import Replay
from dima.nn.normalizer import Normalizer
from dima.recording.config import record_config
from dima.recording.record import record
from tests.analysis.diagnose.worlds import Case, Noisy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("noise", "low", "high"), [(1.0, 0.8, 1.2), (0.2, 0.0, 0.4), (4.0, 2.0, 9.0)])
def test_the_spread_skill_ratio_is_one_for_calibrated_samples(noise: float, low: float, high: float) -> None:
    case = Case("toy/linear", episodes=12, count=20)
    episodes, model = case.sources[0].episodes, Noisy(case.spec, noise)
    model.state_scale = Normalizer((case.spec.state_dim,))
    for episode in episodes:
        model.state_scale.update(episode.state)
    torch.manual_seed(0)
    found = spread.judge(model, Replay.of(episodes, case.spec, "cpu"), starts=300, draws=9)
    assert found["predicted"] == found["ends"] == 0  # nothing terminates there
    assert low < found["steps"]["1"]["spread"] < high


def test_the_command_compares_settings(tmp_path: Path, monkeypatch, capsys) -> None:
    settings: dict[str, Any] = {"out": str(tmp_path / "data"), "steps": 200, "held_out": 0.5, "device": "cpu"}
    record(record_config("toy/switches").override(settings))
    out = tmp_path / "new" / "spread.json"
    arguments = [str(tmp_path / "data"), "--preset", "debug", "--updates", "2", "--starts", "12", "--draws", "3"]
    monkeypatch.setattr("sys.argv", ["spread", *arguments, "--out", str(out), "--settings", "", "sampler.solver=heun"])
    assert spread.main() == 0
    one, other = json.loads(out.read_text())["results"]
    assert (one["settings"], other["settings"]) == ("default", "sampler.solver=heun")
    assert {"1"} <= set(one["steps"]) == set(other["steps"]) <= {"1", "5", "10", "15"}
    assert one["steps"]["1"]["draw"] != other["steps"]["1"]["draw"]
    table = out.with_suffix(".md").read_text()
    assert table.count("\n") == 2 + 2 * len(one["steps"]) and table.strip() in capsys.readouterr().out
