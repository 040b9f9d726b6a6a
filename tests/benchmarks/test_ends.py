"""The study of termination prediction: its output, and its measures on known predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.studies import ends
from dima.datasets.reader import Dataset
from dima.experience.replay import Replay
from dima.recording.config import record_config
from dima.recording.record import record
from dima.training.run_config import build_config
from dima.world_models.dima.reward_termination import Prediction

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    record(record_config("toy/switches").override({"out": str(path), "steps": 800, "held_out": 0.5}))
    return path


def test_each_setting_has_results(dataset: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out" / "ends.json"
    given = [str(dataset), "--preset", "debug", "--updates", "1", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["ends", *given, "--settings", "", "reward.next_state=true"])
    assert ends.main() == 0
    written = json.loads(out.read_text())
    assert [one["settings"] for one in written["results"]] == ["", "reward.next_state=true"]
    assert [at["updates"] for at in written["results"][0]["course"]] == [1, 2]
    shown = capsys.readouterr().out
    assert "| default | 2 |" in shown and "| reward.next_state=true | 1 |" in shown


def test_skill_is_one_for_the_truth_and_zero_for_the_base_rate(dataset: Path, monkeypatch) -> None:
    data = Dataset.open(dataset)
    config = build_config(data.task, "dima", "debug").learner.world_model  # type: ignore[attr-defined]
    model = config.build(data.spec).eval()
    episodes = data.episodes("train")
    model.update_statistics(episodes)
    replay = Replay.of(episodes, data.spec, "cpu")
    length = config.reward.segment
    batch = model.segments(replay.segments(torch.arange(0, replay.newest - length, length), length + 1))
    rate = batch.terminated[(batch.weight > 0)].float().mean()
    assert 0 < rate < 1

    def judged(continuation: torch.Tensor) -> dict[str, float]:
        monkeypatch.setattr(type(model.reward), "forward", lambda *_: Prediction(batch.reward, continuation, None))
        return ends.judge(model, replay)

    perfect = judged((~batch.terminated).float())
    assert perfect["skill"] == pytest.approx(1, abs=1e-3) and perfect["recall"] == 1 and perfect["reward"] == 1
    assert perfect["predicted"] == pytest.approx(perfect["ends"], abs=0.01)
    base_rate = judged((1 - rate).expand(batch.reward.shape))
    assert base_rate["skill"] == pytest.approx(0, abs=1e-5) and base_rate["recall"] == 0
