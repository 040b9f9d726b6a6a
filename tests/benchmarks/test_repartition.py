"""Episodes of a robot whose joints are divided otherwise: the same course, other agents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.studies import repartition
from dima.datasets.reader import Dataset
from dima.envs import make_env
from dima.errors import DatasetError
from dima.recording.config import record_config
from dima.recording.record import record


def recorded(path: Path, task: str) -> Path:
    request = {"out": str(path), "steps": 60, "episode_steps": 15, "held_out": 0.5, "envs": 2}
    record(record_config(task).override(request))
    return path


@pytest.mark.parametrize("other", ["mamujoco/ant-4x2", "mamujoco/ant-2x4d"])
def test_the_robot_takes_the_same_course(tmp_path: Path, monkeypatch, other: str) -> None:
    data = recorded(tmp_path / "data", "mamujoco/ant-2x4")
    monkeypatch.setattr("sys.argv", ["repartition", str(data), other, "--out", str(tmp_path / "out")])
    assert repartition.main() == 0
    before, after = Dataset.open(data), Dataset.open(tmp_path / "out")
    assert (after.task, after.held_out, len(after)) == (other, before.held_out, len(before))
    env = make_env(other, after.env)
    after.require(other, after.env, env.spec)
    for old, new in zip(before.episodes(), after.episodes(), strict=True):
        assert torch.equal(new.state, old.state)
        assert torch.equal(new.reward, old.reward)
        assert torch.equal(new.truncated, old.truncated)
        assert torch.equal(new.terminated, old.terminated)
        assert new.action.shape[1:] == (env.spec.n_agents, env.spec.action_dim)
        assert torch.equal(new.action.flatten(1).sort(dim=1).values, old.action.flatten(1).sort(dim=1).values)


def test_another_robot_is_refused(tmp_path: Path) -> None:
    data = Dataset.open(recorded(tmp_path / "data", "mamujoco/halfcheetah-2x3"))
    source, target = make_env(data.task, data.env), make_env("mamujoco/walker2d-2x3")
    with pytest.raises(DatasetError, match=r"episode 0 takes another course in .*walker2d-2x3"):
        next(repartition.again(data, source, target))
