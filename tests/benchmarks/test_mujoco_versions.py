"""The comparison of two MuJoCo versions: a version agrees with itself, and differences are seen."""

import json
import sys

import mujoco
import numpy as np
import pytest

from benchmarks.studies import mujoco_versions
from benchmarks.studies.mujoco_versions import control, coupled_robot, differences, main, settings
from dima.envs.mujoco.partitions import simulator

TINY = ["--tasks", "halfcheetah-2x3", "ant-4x2", "--episodes", "2", "--steps", "5", "--count", "6"]


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["mujoco_versions", *map(str, args)])
    return main()


@pytest.fixture
def recording(monkeypatch, tmp_path):
    monkeypatch.setattr(mujoco_versions, "_ROBOTS", 3)
    call(monkeypatch, "record", tmp_path / "a.npz", *TINY)
    return tmp_path / "a.npz"


def test_a_version_agrees_with_itself(recording, monkeypatch, tmp_path):
    call(monkeypatch, "record", tmp_path / "b.npz", "--states", recording, *TINY)
    call(monkeypatch, "compare", recording, tmp_path / "b.npz", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["versions"] == [mujoco.mj_versionString()] * 2
    for task in found["tasks"]:
        assert task["step_qvel"] == task["qacc_dense"] == task["trajectory_1"] == 0
        assert task["sparse_dense_old"] < 1e-9
    table = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["task", "halfcheetah-2x3", "ant-4x2"]


def test_a_difference_is_seen(recording):
    old = dict(np.load(recording))
    new = old | {"ant-4x2/after/next_qvel": old["ant-4x2/after/next_qvel"] + 1e-3}
    found = differences("ant-4x2", old, new)
    assert found["step_qvel"] > 1e-6
    assert found["step_qvel_euler"] == 0


def test_recordings_from_different_states_are_not_compared(recording):
    old = dict(np.load(recording))
    new = old | {"ant-4x2/state/qvel": old["ant-4x2/state/qvel"] + 1e-3}
    with pytest.raises(ValueError, match="different states"):
        differences("ant-4x2", old, new)


def test_the_models_of_published_tasks_are_solved_densely():
    for scenario, partition in (("halfcheetah", "2x3"), ("ant", "4x2")):
        env = simulator(scenario, partition, None, False)
        assert settings(env.model)["uses"] == "dense"
        env.close()


def test_the_controls_robots_are_coupled():
    models = [mujoco.MjModel.from_xml_string(coupled_robot(np.random.default_rng(seed))) for seed in range(5)]
    assert all(model.neq > 0 and model.nv >= 5 for model in models)


@pytest.mark.skipif(mujoco.mj_versionString() == "4.0.0", reason="whose fault the control shows")
def test_dense_and_sparse_jacobians_agree():
    assert control().max() < 1e-9
