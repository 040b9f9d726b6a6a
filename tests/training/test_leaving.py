"""Whole runs on tasks whose agents leave one by one: train, resume, record, fit, act, imagine, diagnose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

import dima
from benchmarks.studies.kill import contents, differences
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.cli import main
from dima.datasets.reader import Dataset
from dima.envs.check import LEAVING
from dima.recording.record import record
from dima.runtime.progress import Progress, Step
from dima.training.offline import fit, fit_config
from dima.training.online import resume, train
from tests.conftest import ON_ANY_TASK

KAZ = "pettingzoo/butterfly.knights_archers_zombies_v11"
SMALL = DiagnosisConfig(episodes=2, segments=4, horizon=2, samples=3, calibration_segments=4, orders=2, starts=2)

pytestmark = pytest.mark.usefixtures("one_thread")


class Halted(Exception):
    """Stands for a power failure."""


class Halting(Progress):
    """Fails when the second iteration learns."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.waiting, self.left = phase, 2

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        with super().phase(name, total) as step:
            self.left -= name == self.waiting
            if not self.left:
                raise Halted
            yield step


@pytest.mark.parametrize(
    ("task", "algorithm", "phase"),
    [("toy/crossfire", "mappo", "update"), ("toy/cliff", "hasac", "update"), ("toy/crossfire", "dima", "decoder")],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny, task: str, algorithm: str, phase: str) -> None:
    whole, halted = (tiny(task, algorithm, run, steps=240, envs=2) for run in ("whole", "halted"))
    train(whole)
    with suppress(Halted):
        train(halted, progress=Halting(phase))
    assert resume(halted.folder).finished
    assert not differences(contents(whole.folder), contents(halted.folder))


@pytest.mark.parametrize(("task", "algorithm"), [("toy/crossfire", "dima"), ("toy/cliff", "ensemble")])
def test_a_run_is_evaluated_acted_imagined_and_diagnosed(tiny, tmp_path, task: str, algorithm: str) -> None:
    changes: dict[str, Any] = {"evaluation_episodes": 2, "learner": {"learn_after": 80}, "env": {"n_agents": 3}}
    folder = train(tiny(task, algorithm, steps=160, **changes)).folder
    assert len(dima.evaluate(folder, episodes=3, device="cpu").returns) == 3

    agent = dima.load(folder, "cpu")
    world, early = agent.env.parallel_env, 0
    for seed in range(10):
        observations, infos = world.reset(seed=seed)
        while world.agents:
            there = {name: observations[name] for name in world.agents}
            actions = agent.act(there, infos, mode=False)
            assert set(actions) == set(world.agents)
            observations, _, _, _, infos = world.step(actions)
            early += 0 < len(world.agents) < 3
    assert early

    for actions in ("recorded", "policy"):
        dima.imagine(folder, [1], actions, start=0, width=64, out=tmp_path / actions, device="cpu")
    found = dima.diagnose(folder, SMALL, device="cpu")
    assert "state: alive" in found.error.standardised

    parallel_api_test(agent.as_env(seed=0, horizon=6), num_cycles=10)
    parallel_seed_test(partial(agent.as_env, horizon=6), num_cycles=10)
    envs = agent.as_vector_env(3, horizon=3, seed=0)
    envs.reset(seed=1)
    for _ in range(4):
        now, reward, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(now) and np.isfinite(reward).all()


@pytest.mark.parametrize("task", ["toy/crossfire", "toy/cliff"])
def test_a_dataset_is_recorded_and_fitted(recording, tmp_path: Path, task: str) -> None:
    dataset = Dataset.open(record(recording(task, steps=200, env={"n_agents": 3})).folder)
    alive = [dataset.spec.alive(episode.state) for episode in dataset.episodes()]
    assert any(not one[-2].all() for one in alive)
    for one, episode in zip(alive, dataset.episodes(), strict=True):
        assert not episode.obs[~one].any() and not episode.action[~one[:-1]].any()
        assert not (one[1:] & ~one[:-1]).any()
    fixed = {"run": str(tmp_path / "fit"), "device": "cpu", "threads": 1, "tensorboard": False, "iterations": 2}
    few = {"evaluation_segments": 4, "evaluation_horizon": 3, "evaluate_every": 1}
    assert fit(fit_config(dataset.path, "ensemble", "debug", fixed | few)).finished


@pytest.mark.parametrize("algorithm", ON_ANY_TASK)
def test_every_algorithm_trains_on_knights_archers_zombies(tiny, algorithm: str) -> None:
    env = {"episode_limit": 40, "arguments": '{"spawn_delay": 3, "line_death": true}'}  # so that some die soon
    changes: dict[str, Any] = {"evaluation_episodes": 1, "env": env}
    summary = train(tiny(KAZ, algorithm, steps=120, **changes))
    assert summary.finished
    assert dima.load(summary.folder, "cpu", task=KAZ).env.spec.agents_leave  # found out in random play


YOURS = """
from dima.envs.toy import Cliff

class Plain(Cliff):
    agents_leave = False  # it does not say so
"""


def test_a_run_finds_out_that_agents_leave_and_keeps_it(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "plain_cliff.py").write_text(YOURS)
    monkeypatch.syspath_prepend(tmp_path)
    task, folder = "plain_cliff:Plain", tmp_path / "run"
    assert main(["check", task]) == 0
    assert f"note   {LEAVING}" in capsys.readouterr().out
    small = ["--preset", "debug", "--device", "cpu", "--no-tensorboard", "--threads", "1", "--steps", "60"]
    assert main(["train", task, "--algorithm", "mappo", "--run", str(folder), *small]) == 0
    assert f"dima: {LEAVING}" in capsys.readouterr().err
    assert "agents_leave: true" in (folder / "config.yaml").read_text()
    assert dima.load(folder, "cpu", task=task).env.spec.agents_leave
    assert main(["evaluate", str(folder), "--task", task, "--episodes", "2"]) == 0
    out = tmp_path / "data"
    assert main(["dataset", "record", task, "--steps", "60", "--out", str(out)]) == 0
    assert Dataset.open(out).spec.agents_leave
