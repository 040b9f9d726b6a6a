"""Collection and evaluation in the background: the same results as in the foreground, also after a kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.kill import contents, differences, small_run
from dima.errors import ConfigError
from dima.runtime import fork
from dima.runtime.fork import in_background
from dima.runtime.progress import Progress
from dima.storage.run_folder import RunFolder
from dima.training.online import Trainer, resume, train
from dima.training.run_config import RunConfig
from tests.reliability.test_resume import Interrupted, Power, pull_plug

BACKGROUND: dict[str, dict[str, Any]] = {
    "dima": {"evaluate_in_background": True, "learner": {"collect_in_background": True}},
    "mappo": {"evaluate_in_background": True},
}


@pytest.fixture(params=[True, False], ids=["forked", "serial"])
def forked(request, monkeypatch) -> bool:
    """Whether background jobs run in child processes."""
    monkeypatch.setattr(fork, "can_fork", lambda gpu=False: request.param)
    return bool(request.param)


def run_of(algorithm: str, folder: Path, **changes: Any) -> RunConfig:
    config = small_run(algorithm, folder, 5).override(BACKGROUND[algorithm])
    return config.override({"evaluate_every": 1} | changes)


@pytest.mark.parametrize("algorithm", BACKGROUND)
def test_results_do_not_depend_on_child_processes(algorithm: str, tmp_path: Path, monkeypatch) -> None:
    records = []
    for forked in (True, False):
        monkeypatch.setattr(fork, "can_fork", lambda gpu=False, forked=forked: forked)
        config = run_of(algorithm, tmp_path / str(forked))
        assert train(config).finished
        with RunFolder.open(config.folder) as folder:
            records.append([{k: v for k, v in r.items() if not k.startswith("time/")} for r in folder.records()])
    assert records[0] == records[1]
    steps = [record["step"] for record in records[0]]
    assert steps == sorted(steps)


def test_background_evaluations_equal_those_in_the_foreground(tmp_path: Path, forked: bool) -> None:
    background = train(run_of("mappo", tmp_path / "background"))
    foreground = train(run_of("mappo", tmp_path / "foreground", evaluate_in_background=False))
    assert background.evaluations == foreground.evaluations
    assert len(background.evaluations) == 5


def test_a_run_killed_in_every_phase_equals_an_uninterrupted_one(forked: bool, tmp_path: Path) -> None:
    whole = run_of("dima", tmp_path / "whole")
    assert train(whole).finished
    again = whole.override({"run": str(tmp_path / "again")})
    for number, phase in enumerate(("collect", "denoiser", "reward", "imagine and update", "evaluate", "save")):
        progress = Interrupted(phase, 1 if number else 5, pull_plug)
        with pytest.raises(Power):
            train(again, progress=progress) if number == 0 else resume(again.folder, progress=progress)
    assert resume(again.folder).finished
    assert not differences(contents(whole.folder), contents(again.folder))


def test_episodes_collected_in_the_background_count_when_the_replay_gets_them(tmp_path: Path, forked: bool) -> None:
    config = run_of("dima", tmp_path / "run")
    with Trainer(config, torch.device("cpu"), Progress()) as trainer:  # type: ignore[arg-type]
        steps = [trainer.step]
        for _ in range(3):
            trainer.learn()
            steps.append(trainer.step)
            waiting = trainer.collector.checkpoint()["ahead"]
            assert waiting["steps"] - trainer.step == sum(len(episode["reward"]) for episode in waiting["episodes"])
        assert trainer.algorithm.replay.steps == trainer.step  # type: ignore[union-attr]
    assert steps == sorted(set(steps))


def test_a_background_job_runs_in_another_process(two_threads) -> None:
    with in_background(os.getpid) as process:
        assert process() != os.getpid()


def test_with_a_single_thread_it_runs_in_this_process(one_thread) -> None:
    with in_background(os.getpid) as process:
        assert process() == os.getpid()


def test_its_exception_is_raised_when_the_result_is_awaited(two_threads) -> None:
    def fail() -> None:
        raise ConfigError("no such thing")

    with in_background(fail) as result, pytest.raises(ConfigError, match="no such thing"):
        result()


def test_a_process_per_environment_changes_no_result(tmp_path: Path, forked: bool) -> None:
    processes, single = (
        run_of("dima", tmp_path / str(many), env_processes=many, evaluation_episodes=2) for many in (True, False)
    )
    assert train(processes).evaluations == train(single).evaluations
