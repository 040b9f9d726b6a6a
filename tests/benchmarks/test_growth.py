"""Time and error by team size: tasks, operation counts, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed.settings import changes_of
from benchmarks.speed.timing import Timing
from benchmarks.studies import growth
from dima.envs import make_env
from dima.errors import ConfigError
from dima.recording.config import record_config
from dima.recording.record import record
from dima.training.offline import fit, fit_config

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.mark.parametrize("agents", growth.AGENTS)
def test_every_team_has_a_task(agents: int) -> None:
    for family in (growth.SWIMMER, growth.LINEAR):
        config = growth.config_of(family, agents, "debug", "", 0)
        env = make_env(config.task, config.env)
        assert env.spec.n_agents == agents
        if family == growth.SWIMMER:
            assert abs(sum(env.spec.action_sizes) - growth.SEGMENTS) <= growth.SEGMENTS // 8
        env.close()


def test_settings_as_written() -> None:
    assert changes_of("") == {}
    assert changes_of("order=random,tail_levels=2") == {"order": "random", "tail_levels": 2}
    assert changes_of("learner.ppo.clip=0.2,learner.horizon=3") == {"learner": {"ppo": {"clip": 0.2}, "horizon": 3}}
    with pytest.raises(ConfigError, match="field=value"):
        changes_of("order")


def test_a_step_costs_more_with_more_levels_and_agents() -> None:
    settings = [f"sampler.levels_per_agent={levels}" for levels in (1, 3, 0)]
    one, more, two = growth.times(growth.LINEAR, [2], settings, "debug", 6, 0, Timing(CPU, 1))
    assert one["flops"] < two["flops"] < more["flops"]  # a team of two gets two levels each
    small, large = growth.times(growth.LINEAR, [2, 5], settings[:1], "debug", 6, 0, Timing(CPU, 1))
    assert small["flops"] < large["flops"]
    assert small["state"] == large["state"]
    found = growth.times_table([small | {"seconds": 1.0}, large | {"seconds": 3.0}])
    assert "| toy/linear | 5 | sampler.levels_per_agent=1 | 3000 |" in found and "| 3.00 |" in found


def test_larger_groups_cost_less() -> None:
    settings = ["", "denoiser.group_size=3"]
    apart, together = growth.times(growth.LINEAR, [6], settings, "debug", 6, 0, Timing(CPU, 1))
    assert together["flops"] < apart["flops"]


def test_errors_of_a_fitted_model_under_other_settings(tmp_path: Path, monkeypatch, capsys) -> None:
    request = {"out": str(tmp_path / "data"), "steps": 240, "env": {"n_agents": 3}}
    record(record_config("toy/linear").override(request))
    changes = {"run": str(tmp_path / "run"), "iterations": 1, "tensorboard": False}
    fit(fit_config(tmp_path / "data", "dima", "debug", changes))
    settings = ["", "sampler.levels_per_agent=4", "sampler.levels_per_agent=1", "denoiser.group_size=3"]
    given = ["--runs", str(tmp_path / "run"), "--settings", *settings]
    monkeypatch.setattr("sys.argv", ["growth", *given, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert growth.main() == 0
    rows = json.loads((tmp_path / "out" / "errors.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == settings
    assert rows[0]["state_1"] == rows[2]["state_1"]  # three agents have a level each anyway
    assert len({row["state_1"] for row in rows}) == 3
    assert {row["agents"] for row in rows} == {3}
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "errors.md").read_text().strip()


def test_the_command_times(tmp_path: Path, monkeypatch) -> None:
    given = ["--agents", "2", "3", "--families", growth.LINEAR, "--preset", "debug", "--batch", "4", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["growth", *given, "--device", "cpu", "--out", str(tmp_path)])
    assert growth.main() == 0
    found = json.loads((tmp_path / "times-debug-cpu.json").read_text())
    assert [row["agents"] for row in found["rows"]] == [2, 3]
    assert all(row["seconds"] > 0 for row in found["rows"])
