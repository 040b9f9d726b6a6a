"""Rewards too small or too large for settings without normalisation: a line of warning, once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dima.runtime.progress import Progress
from dima.training.online import train
from dima.training.run_config import build_config

pytestmark = pytest.mark.usefixtures("one_thread")
NORMALISED: dict[str, dict[str, Any]] = {
    "mappo": {"ppo": {"value_norm_floor": 0.0}},
    "hasac": {"normalize_reward": True},
    "dima": {"ppo": {"value_norm_floor": 0.0}, "world_model": {"reward": {"normalize_reward": True}}},
}


class Messages(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def warn(self, text: str) -> None:
        self.seen.append(text)


def messages(algorithm: str, reward: float, folder: str, learner: dict[str, Any]) -> list[str]:
    changes = {"run": folder, "steps": 130, "evaluation_episodes": 1, "tensorboard": False, "learner": learner}
    config = build_config("benchmarks.studies.units:Line", algorithm, "debug", changes)
    progress = Messages()
    train(
        config.override({"env": {"arguments": json.dumps({"reward": reward}), "team_reward": "mean"}}),
        progress=progress,
    )
    return progress.seen


@pytest.mark.parametrize(
    ("algorithm", "reward", "flags"),
    [
        ("mappo", 1e-4, "--learner.ppo.value-norm-floor 0"),
        ("hasac", 1e-4, "--learner.normalize-reward"),
        ("hasac", 1e4, "--learner.normalize-reward"),
        ("dima", 1e-4, "--learner.world-model.reward.normalize-reward --learner.ppo.value-norm-floor 0"),
        ("dima", 1e4, "--learner.world-model.reward.normalize-reward"),
    ],
)
def test_settings_without_normalisation_say_once_what_they_do_not_learn(
    algorithm: str, reward: float, flags: str, tmp_path
) -> None:
    (line,) = messages(algorithm, reward, f"{tmp_path}/run", {})
    assert line.startswith("dima: the largest reward so far is ")
    assert line.endswith(f": use preset small, or {flags}")
    assert not messages(algorithm, reward, f"{tmp_path}/normalised", NORMALISED[algorithm])


@pytest.mark.parametrize(
    ("algorithm", "reward"), [("mappo", 1e4), ("mappo", 1), ("hasac", 1), ("dima", 1), ("dima", 0)]
)
def test_nothing_is_said_of_other_rewards(algorithm: str, reward: float, tmp_path) -> None:
    assert not messages(algorithm, reward, f"{tmp_path}/run", {})


@pytest.mark.parametrize("preset", ["small", "quick", "sharp", "lean"])
def test_presets_learn_rewards_of_any_size(preset: str) -> None:
    every = preset in ("small", "quick")
    for algorithm in ("dima", *(("ensemble", "mamba", "marie", "mappo", "happo", "hasac") if every else ())):
        assert not build_config("toy/walk", algorithm, preset).learner.reward_limits  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", ["dima", "mamba", "marie", "mappo", "happo", "hasac"])
def test_published_settings_do_not(algorithm: str) -> None:
    assert build_config("toy/walk", algorithm, "published").learner.reward_limits  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "hasac", "dima", "ensemble"])
def test_rewards_in_another_unit_are_learnt_alike(algorithm: str, tmp_path) -> None:
    """Powers of two scale floating-point numbers exactly, so that not a digit may differ."""
    settings = NORMALISED.get(algorithm) or {"ppo": {"value_norm_floor": 0.0}}
    small, large = (learnt(algorithm, 2.0**power, settings, f"{tmp_path}/{power}") for power in (-20, 20))
    assert len(small) > 1
    assert small == large


def test_rewards_in_another_unit_are_learnt_otherwise_under_a_floor(tmp_path) -> None:
    assert learnt("mappo", 2.0**-20, {}, f"{tmp_path}/small") != learnt("mappo", 2.0**20, {}, f"{tmp_path}/large")


def learnt(algorithm: str, reward: float, learner: dict[str, Any], folder: str) -> list[float]:
    """Returns of a run's iterations, in units of the reward: every policy but the first has learnt."""
    changes = {"run": folder, "steps": 240, "evaluation_episodes": 1, "tensorboard": False, "learner": learner}
    config = build_config("benchmarks.studies.units:Line", algorithm, "debug", changes)
    train(config.override({"env": {"arguments": json.dumps({"reward": reward}), "team_reward": "mean"}}))
    with open(f"{folder}/metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["collect/return"] / reward for line in file]
