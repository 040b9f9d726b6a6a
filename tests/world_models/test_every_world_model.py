"""Every world model of the library can be imagined, diagnosed and used as an environment."""

from __future__ import annotations

from functools import partial

import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

import dima
from dima.algorithms import algorithm_config, algorithm_names
from dima.algorithms.model_based import ModelBasedConfig
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.training.online import train

MODELS = [name for name in algorithm_names() if isinstance(algorithm_config(name), ModelBasedConfig)]
SMALL = DiagnosisConfig(episodes=2, segments=4, horizon=3, samples=3, calibration_segments=4, orders=2, starts=2)


def test_there_are_some() -> None:
    assert {"dima", "ensemble"} <= set(MODELS)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", MODELS)
def test_through_the_same_three_verbs(tiny, tmp_path, algorithm) -> None:
    config = tiny("toy/switches", algorithm, steps=60, evaluation_episodes=1, learner={"learn_after": 60})
    folder = train(config).folder

    for actions in ("recorded", "policy"):
        dima.imagine(folder, [1], actions, start=0, width=64, out=tmp_path / actions, device="cpu")
        assert '<figure id="error-state">' in (tmp_path / actions / "imagination.html").read_text()

    found = dima.diagnose(folder, SMALL, device="cpu")
    assert found.error.standardised["state"]["model"].step.at(1) is not None
    assert set(found.calibration) == {"state", "observations"}
    assert found.findings[0].startswith("State: ")

    agent = dima.load(folder, "cpu")
    parallel_api_test(agent.as_env(seed=0, horizon=4), num_cycles=10)
    parallel_seed_test(partial(agent.as_env, horizon=4), num_cycles=10)
    envs = agent.as_vector_env(3, horizon=2, seed=0)
    envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(3):
        now, reward, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(now) and reward.shape == (3,)
