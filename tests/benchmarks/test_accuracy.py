"""The study of accuracy at equal processor time: its output, and its measures on known predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.studies import accuracy
from dima.datasets.reader import Dataset
from dima.experience.replay import Replay
from dima.recording.config import record_config
from dima.recording.record import record
from dima.world_models.base import Step
from tests.analysis.diagnose.worlds import StateLatentModel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    record(record_config("toy/walk").override({"out": str(path), "steps": 600, "held_out": 0.5}))
    return path


@pytest.mark.parametrize("form", list(accuracy.FORMS))
def test_every_form_is_fitted_and_judged(dataset: Path, tmp_path: Path, form: str, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    given = [str(dataset), "--seconds", "0.01", "--seeds", "3", "--out", str(out), "--forms", form]
    monkeypatch.setattr("sys.argv", ["accuracy", *given])
    assert accuracy.main() == 0
    (path,) = out.glob("*-seed3.json")
    written = json.loads(path.read_text())
    assert written["form"] == form and list(written["error"]) == ["1", "5", "15"]
    assert all(count >= accuracy.MIN_UPDATES for count in written["updates"].values())
    assert f"| {form} | 1 |" in capsys.readouterr().out
    before = path.read_bytes()
    assert accuracy.main() == 0  # finished results are kept
    assert path.read_bytes() == before


class Persistence(StateLatentModel):
    """Predicts that nothing changes, a reward of 7 and no end."""

    def see(self, state: Tensor) -> Tensor:
        return state.new_zeros(len(state), self.spec.n_agents, self.spec.obs_dim)

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        return Step(latent, latent.new_full((len(latent),), 7.0), latent.new_ones(len(latent)))


def test_errors_of_a_known_prediction(dataset: Path) -> None:
    data = Dataset.open(dataset)
    episodes = data.episodes("held-out")
    held_out = Replay.of(episodes, data.spec, "cpu")
    std = held_out.store["state"].std(0)
    found = accuracy.judge(Persistence(data.spec), held_out, std)
    for steps in (1, 5, 15):
        moved = torch.cat([(e.state[steps:] - e.state[:-steps]).abs() / std for e in episodes]).mean()
        assert found["error"][str(steps)] == pytest.approx(float(moved), rel=0.25)
    reward = torch.cat([e.reward for e in episodes])
    assert found["drift"] == pytest.approx(float((7 - reward.mean()) / reward.std()), rel=0.1)
    assert found["spread"] == 0 and found["ends"] == [0, 0]
