"""What other processes do while the learner works: the same results, whoever does it and wherever it was cut off."""

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

BESIDE: dict[str, dict[str, Any]] = {
    "dima": {"evaluate_in_background": True, "learner": {"collect_in_background": True}},
    "mappo": {"evaluate_in_background": True},
}


@pytest.fixture(params=[True, False], ids=["copies", "alone"])
def copies(request, monkeypatch) -> bool:
    """Whether this process makes copies of itself."""
    monkeypatch.setattr(fork, "can_copy", lambda gpu=False: request.param)
    return bool(request.param)


def run_of(algorithm: str, folder: Path, **changes: Any) -> RunConfig:
    config = small_run(algorithm, folder, 5).override(BESIDE[algorithm])
    return config.override({"evaluate_every": 1} | changes)


@pytest.mark.parametrize("algorithm", BESIDE)
def test_results_do_not_depend_on_who_works(algorithm: str, tmp_path: Path, monkeypatch) -> None:
    told = []
    for copies in (True, False):
        monkeypatch.setattr(fork, "can_copy", lambda gpu=False, copies=copies: copies)
        config = run_of(algorithm, tmp_path / str(copies))
        assert train(config).finished
        with RunFolder.open(config.folder) as folder:
            told.append([{k: v for k, v in r.items() if not k.startswith("time/")} for r in folder.records()])
    assert told[0] == told[1]
    steps = [record["step"] for record in told[0]]
    assert steps == sorted(steps)


def test_evaluations_beside_the_learner_are_those_in_its_way(tmp_path: Path, copies: bool) -> None:
    late = train(run_of("mappo", tmp_path / "late"))
    straight = train(run_of("mappo", tmp_path / "straight", evaluate_in_background=False))
    assert late.evaluations == straight.evaluations
    assert len(late.evaluations) == 5


def test_a_run_cut_off_in_every_phase_ends_like_one_undisturbed(copies: bool, tmp_path: Path) -> None:
    whole = run_of("dima", tmp_path / "whole")
    assert train(whole).finished
    again = whole.override({"run": str(tmp_path / "again")})
    for number, phase in enumerate(("collect", "denoiser", "reward", "imagine and update", "evaluate", "save")):
        progress = Interrupted(phase, 1 if number else 5, pull_plug)
        with pytest.raises(Power):
            train(again, progress=progress) if number == 0 else resume(again.folder, progress=progress)
    assert resume(again.folder).finished
    assert not differences(contents(whole.folder), contents(again.folder))


def test_episodes_played_ahead_count_once_they_are_taken_in(tmp_path: Path, copies: bool) -> None:
    config = run_of("dima", tmp_path / "run")
    with Trainer(config, torch.device("cpu"), Progress()) as trainer:  # type: ignore[arg-type]
        steps = [trainer.step]
        for _ in range(3):
            trainer.learn()
            steps.append(trainer.step)
            ahead = trainer.algorithm.ahead  # type: ignore[attr-defined]
            assert ahead.steps - trainer.step == sum(map(len, ahead.episodes))
        assert trainer.algorithm.replay.steps == trainer.step  # type: ignore[union-attr]
    assert steps == sorted(set(steps))


def test_a_job_beside_the_block(two_threads) -> None:
    with in_background(os.getpid) as process:
        assert process() != os.getpid()


def test_without_threads_to_spare_it_comes_first(one_thread) -> None:
    with in_background(os.getpid) as process:
        assert process() == os.getpid()


def test_its_mistake_is_raised_where_it_is_waited_for(two_threads) -> None:
    def fail() -> None:
        raise ConfigError("no such thing")

    with in_background(fail) as answer, pytest.raises(ConfigError, match="no such thing"):
        answer()


def test_a_process_for_each_environment_changes_nothing(tmp_path: Path, copies: bool) -> None:
    apart, here = (
        run_of("dima", tmp_path / str(apart), env_processes=apart, evaluation_episodes=2) for apart in (True, False)
    )
    assert train(apart).evaluations == train(here).evaluations
