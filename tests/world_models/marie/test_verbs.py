"""What can be asked of a run whose observations do not tell the state."""

from __future__ import annotations

import pytest

import dima
from dima.errors import ConfigError, EnvError
from dima.recording.record import record
from dima.training.offline import fit, fit_config
from dima.training.online import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_verbs_that_need_a_state_say_so_in_a_line(tiny) -> None:
    folder = train(tiny("toy/linear", "marie", steps=60, evaluation_episodes=1, learner={"learn_after": 60})).folder
    for verb in (dima.imagine, dima.diagnose):
        with pytest.raises(
            ConfigError, match=r"marie predicts observations, and those of this task do not hold the state: give"
        ):
            verb(folder, device="cpu")
    agent = dima.load(folder, "cpu")
    env = agent.as_env(seed=0, horizon=4)
    env.reset(seed=1)
    while env.agents:
        observations, *_ = env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    assert set(observations) == set(env.possible_agents)
    with pytest.raises(EnvError, match=r"the world model predicts observations, which do not hold the state$"):
        env.state()


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
    assert ("held_out/state_3" in lines) == (measure == "state")
