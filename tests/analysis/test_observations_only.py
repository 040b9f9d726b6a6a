"""What can be asked of a run whose observations do not tell the state."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pettingzoo.test import parallel_api_test

import dima
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.envs.base import JointEnv
from dima.recording.record import record
from dima.training.offline import fit, fit_config
from dima.training.online import train
from dima.training.run_config import build_config

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = DiagnosisConfig(episodes=3, segments=8, horizon=3, samples=4, calibration_segments=6, starts=3)
SENTENCE = "State: this world model predicts observations only, and those of this task do not hold the state:"


@pytest.fixture(scope="module", params=["marie", "mamba"])
def folder(request, tmp_path_factory) -> Path:
    """Of a run on a task whose state is no observation."""
    fixed = {"run": str(tmp_path_factory.mktemp("runs") / "run"), "device": "cpu", "threads": 1, "tensorboard": False}
    fixed |= {"steps": 60, "evaluation_episodes": 1, "learner": {"learn_after": 60}}
    return train(build_config("toy/linear", request.param, "debug", fixed)).folder


def written(path: Path) -> dict[str, Any]:
    """JSON, without NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("actions", ["recorded", "policy"])
def test_observations_are_imagined_beside_real_ones(folder: Path, tmp_path: Path, actions) -> None:
    found = dima.imagine(folder, [3], actions, start=2, out=tmp_path, device="cpu")
    assert found.comparison.imagined.obs.shape == found.comparison.real.obs.shape
    assert found.findings[0] == f"{SENTENCE} errors of the state and imagined pictures are left out."
    assert found.findings[1].startswith("3 steps: observation error ")
    content = written(tmp_path / "imagination.json")
    assert not [name for name in (*content["horizons"][0], *content["steps"]) if name.startswith("state")]
    assert len(content["steps"]["imagined"]["reward"]) == len(content["steps"]["imagined"]["continuation"]) == 3
    html = (tmp_path / "imagination.html").read_text()
    figures = set(re.findall(r'<figure id="([^"]+)"', html))
    assert figures == {"observations", "error-observations", "error-observations-summed", "reward", "sum-of-rewards"}
    assert "predicts observations only" in html and ">nan" not in html.lower()


def test_observations_are_diagnosed(folder: Path, tmp_path: Path) -> None:
    found = dima.diagnose(folder, SMALL, out=tmp_path, device="cpu")
    assert found.findings[0] == f"{SENTENCE} errors of the state are left out."
    assert found.error.targets == list(found.calibration) == ["observations"]
    assert {one.sentence.partition(":")[0] for one in found.verdicts} >= {"Observations", "Reward"}
    content = written(tmp_path / "diagnosis.json")
    for table in ("standardised", "raw", "advantage"):
        assert set(content["error"][table]) == {"observations", "observations: agent_0", "observations: agent_1"}
    assert all(set(curves) == {"observations"} for curves in content["error"]["by_source"].values())
    sizes = found.influence.real
    assert sizes is not None and len(sizes[0]) == len(found.influence.features)
    html = (tmp_path / "diagnosis.html").read_text()
    figures = set(re.findall(r'<figure id="([^"]+)"', html))
    assert not [name for name in figures if "state" in name]
    assert figures >= {"error-observations", "error-observations-parts", "error-sources", "rank-histogram", "influence"}
    assert "change of each observation feature" in html and "predicts observations only" in html


def test_imagined_environments_have_no_state(folder: Path) -> None:
    agent = dima.load(folder, "cpu")
    env = agent.as_env(seed=0, horizon=4)
    parallel_api_test(env, num_cycles=5)
    with pytest.raises(NotImplementedError, match="the world model predicts observations, which do not hold the state"):
        env.state()
    joint = JointEnv(agent.as_env(seed=0, horizon=4), name="imagined")  # as of any team without a state
    assert joint.spec.state_dim == sum(joint.spec.obs_sizes) == len(joint.state_names())
    envs = agent.as_vector_env(2, horizon=2, seed=0)
    now, _ = envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(3):
        assert set(now) == {"obs", "action_mask"} and envs.observation_space.contains(now)
        now, *_ = envs.step(envs.action_space.sample())


@pytest.mark.parametrize(("task", "measure"), [("toy/linear", "obs"), ("toy/walk", "state")])
def test_a_dataset_is_fitted_and_measured_by_what_is_predicted(recording, tmp_path, task: str, measure: str) -> None:
    data = record(recording(task, steps=300))
    changes = {
        "run": str(tmp_path / "fit"),
        "device": "cpu",
        "iterations": 2,
        "evaluate_every": 1,
        "evaluation_horizon": 3,
    }
    summary = fit(
        fit_config(getattr(data, "path", tmp_path / "data"), "marie", "debug", changes | {"tensorboard": False})
    )
    lines = (summary.folder / "metrics.jsonl").read_text()
    assert f"held_out/{measure}_3" in lines
    assert ("held_out/state_3" in lines) == ("held_out/persistence_3" in lines) == (measure == "state")
    assert ("held_out/obs_persistence_3" in lines) == (measure == "obs")
    assert dima.open_run(summary.folder).measure == summary.measure
