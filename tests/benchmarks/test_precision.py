"""bf16 where there are units for it: weights and results stay float32, predictions nearly what they were."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.speed import precision
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.recording.config import record_config
from dima.recording.record import record
from dima.runtime import device
from dima.runtime.device import autocast, require_precision
from dima.runtime.progress import Progress
from dima.training.offline import fit, fit_config
from dima.training.run_config import build_config
from tests.world_models.conftest import draw_episodes

SPEC = EnvSpec(("a", "b"), 4, (5, 5), (2, 2), discrete=False)
DEBUG = build_config("toy/walk", "dima", "debug").learner


@pytest.fixture
def learner(monkeypatch, one_thread):
    """Learning in bf16, slowly where it has to be emulated."""
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    torch.manual_seed(0)
    learner = DEBUG.override({"precision": "bf16"}).build(SPEC, "cpu")
    learner.add(draw_episodes(SPEC, (40, 30, 20)))
    return learner


def test_no_units_no_bf16(monkeypatch) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)
    require_precision("cpu", "float32")
    with pytest.raises(ConfigError, match="precision = bf16 cannot be used: cpu has no bf16 units"):
        DEBUG.override({"precision": "bf16"}).build(SPEC, "cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ConfigError, match="cuda has no bf16 units"):
        require_precision("cuda", "bf16")


def test_what_is_learnt_and_imagined_is_float32(learner) -> None:
    metrics = learner.fit(Progress())
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.dtype == torch.float32 for p in learner.parameters())
    rows = learner.replay.gather(learner.replay.recent(9), learner.world_model.context - 1, 0)
    for name, values in vars(learner.imagine(rows)).items():
        assert values.dtype == (torch.bool if name in ("action_mask", "boundary") else torch.float32), name
    assert all(value.isfinite() for value in learner.update_policy(Progress(), 0.0).values())


def test_predictions_hardly_change(learner) -> None:
    for _ in range(5):
        learner.fit(Progress())
    model, replay = learner.world_model, learner.replay
    rows = replay.gather(replay.recent(200), model.context - 1, 1)
    start, action = rows[:, :-1], rows.action[:, -2]
    found = {}
    for kind in ("float32", "bf16"):
        torch.manual_seed(1)
        with torch.no_grad(), autocast("cpu", kind):
            latent, reward, _ = model.step(model.start(start), action)
            view = model.observe(latent)
        found[kind] = [
            ((view.state - rows.state[:, -1]) / model.state_scale.scale).abs().mean().item(),
            (view.obs - rows.obs[:, -1]).abs().mean().item(),
            (reward - rows.reward[:, -2]).abs().mean().item(),
        ]
    assert found["float32"] != found["bf16"]  # it was at work
    for exact, fast in zip(*found.values(), strict=True):
        assert abs(fast / exact - 1) < 0.01


def test_errors_on_held_out_episodes_hardly_change(tmp_path, monkeypatch, one_thread, capsys) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    data, run = tmp_path / "data", tmp_path / "run"
    record(record_config("toy/linear").override({"out": str(data), "steps": 600, "episode_steps": 20}))
    common = {"run": str(run), "iterations": 4, "evaluation_horizon": 5, "threads": 1, "tensorboard": False}
    fit(fit_config(data, "dima", "debug", common | {"learner": {"world_model": {"denoiser_fit": {"updates": 40}}}}))
    out = tmp_path / "precision.json"
    given = [str(run), "--dataset", str(data), "--horizon", "5", "--segments", "64", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["precision", *given, "--out", str(out)])
    assert precision.main() == 0
    (found,) = json.loads(out.read_text())["found"]
    assert found["errors"]["bf16"] != found["errors"]["float32"]
    assert all(abs(change) < precision.ALLOWED for change in found["change"].values())
    assert "bf16 changes state_1" in capsys.readouterr().out
