"""The sweep of sizes: what it fits and asks, that work is shared and not done twice, its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed.learners import random_episode
from benchmarks.studies import lean
from dima.data import EnvSpec
from dima.datasets.reader import Dataset
from dima.recording.config import record_config
from dima.recording.record import record
from dima.storage.lock import FolderLock
from dima.world_models.dima.model import DimaModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"denoiser": ["4x64x1", "2x16x1"], "reward": ["32x2x1", "16x1x0"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    request = {"out": str(tmp_path / "data"), "steps": 240, "env": {"n_agents": 2}}
    record(record_config("toy/walk").override(request))
    return tmp_path / "data"


def run(data: Path, monkeypatch, part: str = "denoiser", seeds: tuple[str, ...] = ("0",)) -> Path:
    folder = data.parent
    given = [str(data), "--out", str(folder / "out"), "--work", str(folder / "work"), "--preset", "debug"]
    given += ["--iterations", "2", "--updates", "2", "--batch", "8", "--part", part, "--seeds", *seeds]
    monkeypatch.setattr("sys.argv", ["lean", *given, "--sizes", *SIZES[part]])
    monkeypatch.setattr(lean, "SIZES", {name: tuple(sizes) for name, sizes in SIZES.items()})
    assert lean.main() == 0
    return folder / "out"


def test_every_size_is_fitted_and_asked(data: Path, monkeypatch, capsys) -> None:
    out = run(data, monkeypatch)
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    assert [one["size"] for one in found] == ["2x16x1", "4x64x1"]
    for one in found:
        encoder = one["config"]["learner"]["world_model"]["denoiser"]["encoder"]
        assert f"{encoder['latents']}x{encoder['latent_dim']}x{encoder['depth']}" == one["size"]
        assert one["config"]["learner"]["world_model"]["reward_fit"]["updates"] == 0
        assert {"state_1", "state_15", "persistence_1", "persistence_15"} == set(one["errors"])
    small, large = found
    assert small["parameters"] < large["parameters"]
    assert small["flops_step"] < large["flops_step"]
    assert small["errors"] != large["errors"]
    assert (out / "table.md").read_text().strip() in capsys.readouterr().out


def test_what_is_there_or_claimed_is_left_alone(data: Path, monkeypatch) -> None:
    claim = data.parent / "work" / "claims" / "denoiser-4x64x1-seed0"
    claim.mkdir(parents=True)
    lock = FolderLock(claim)
    out = run(data, monkeypatch)
    assert [path.name for path in out.glob("*.json")] == ["denoiser-2x16x1-seed0.json"]
    before = (out / "denoiser-2x16x1-seed0.json").stat().st_mtime_ns
    lock.close()
    run(data, monkeypatch)
    assert (out / "denoiser-4x64x1-seed0.json").exists()
    assert (out / "denoiser-2x16x1-seed0.json").stat().st_mtime_ns == before


def test_the_reward_model_is_asked_along_real_states(data: Path, monkeypatch) -> None:
    out = run(data, monkeypatch, "reward")
    found = [json.loads(path.read_text()) for path in sorted(out.glob("reward-*.json"))]
    assert [one["size"] for one in found] == ["16x1x0", "32x2x1"]
    assert all(set(one["errors"]) == {"reward", "explained", "continuation"} for one in found)
    assert found[0]["flops_update"] < found[1]["flops_update"]


def test_a_perfect_reward_model_has_no_error(data: Path) -> None:
    dataset = Dataset.open(data)
    model = DimaModelConfig().override({"reward": {"dim": 16, "layers": 1, "action_layers": 0}}).build(dataset.spec)
    episodes = dataset.episodes("held-out")
    model.update_statistics(episodes)
    rewards = torch.cat([episode.reward for episode in episodes])
    worse = lean.reward_errors(model, dataset)

    def constant_reward(state, action, episode, next_state):
        moved = (state - next_state).abs().sum(-1) * 0
        return type("Constant", (), {"reward": moved + rewards.mean(), "continuation": torch.ones_like(moved)})

    model.reward.forward = constant_reward
    constant = lean.reward_errors(model, dataset)
    assert abs(constant["explained"]) < 0.05
    assert constant["continuation"] == 0
    assert worse["explained"] < 0.05


def test_sizes_and_costs() -> None:
    assert lean.size_of("denoiser", "32x512x2") == {
        "latents": 32, "latent_dim": 512, "depth": 2, "heads": 8, "token_dim": 256
    }  # fmt: skip
    assert lean.size_of("reward", "256x6x3") == {"dim": 256, "layers": 6, "action_layers": 3}
    spec = EnvSpec(("a", "b"), 4, (3, 3), (1, 1), discrete=False)
    sizes = {"denoiser": {"channels": [32], "context": 1}, "sampler": {"levels_per_agent": 1}}
    sizes["reward"] = {"dim": 16, "layers": 1, "action_layers": 0, "heads": 2}
    once, twice = (
        lean.flops("reward", DimaModelConfig().override(sizes | {"reward_fit": {"batch": b}}).build(spec))
        for b in (8, 16)
    )
    assert twice["flops_update"] == 2 * once["flops_update"]
    assert twice["flops_step"] == once["flops_step"]
    assert len(random_episode(spec, 7)) == 7


def test_the_table_marks_what_is_no_worse() -> None:
    def result(size: str, seed: int, error: float) -> dict:
        errors = {"state_1": error, "state_15": 2 * error}
        costs = {"parameters": 10, "flops_update": 1e9 * (size == "4x64x1"), "flops_step": 1e6}
        return {"part": "denoiser", "size": size, "seed": seed, "errors": errors} | costs

    first = lean.SIZES["denoiser"][0]
    results = [result(first, s, 0.20 + 0.01 * s) for s in range(3)]
    results += [result("4x64x1", s, 0.21 + 0.01 * s) for s in range(3)]
    results += [result("8x128x1", s, 0.40 + 0.01 * s) for s in range(3)] + [result("4x128x1", 0, 0.2)]
    found = lean.table(results).splitlines()
    assert found[2].startswith("| 4x64x1 | 3 |") and found[2].count("=") == 2
    assert not any("=" in line for line in found if "8x128x1" in line or "4x128x1" in line or first in line)
