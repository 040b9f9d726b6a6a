"""Exact resume: a run killed at any moment ends exactly like an uninterrupted one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from benchmarks.studies.kill import contents, differences, iterations, measure, small_run
from dima.cli import main
from dima.envs.vector import VectorEnv
from dima.errors import RunFolderError
from dima.runtime.progress import Progress, Step
from dima.storage import run_folder
from dima.storage.run_folder import RunFolder
from dima.training.online import Trainer, resume, train
from dima.training.run_config import RunConfig

ITERATIONS = 8
KINDS = ("dima", "mamba", "marie", "mappo")  # of run
PHASES = {
    "dima": ("collect", "decoder", "denoiser", "reward", "imagine and update", "save", "evaluate"),
    "hasac": ("collect", "update", "save", "evaluate"),
    "mamba": ("collect", "dynamics", "imagine and update", "save", "evaluate"),
    "marie": ("collect", "tokenizer", "transformer", "imagine and update", "save", "evaluate"),
    "mappo": ("collect", "update", "save", "evaluate"),
}


class Power(Exception):
    """Stands for a power failure."""


class Interrupted(Progress):
    """Calls an action when a phase begins for the n-th time."""

    def __init__(self, phase: str, times: int, action) -> None:
        super().__init__()
        self.waiting, self.times, self.action = phase, times, action

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        with super().phase(name, total) as step:
            if name == self.waiting:
                self.times -= 1
                if self.times == 0:
                    self.action()
            yield step


def pull_plug() -> None:
    raise Power


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory) -> RunConfig:
    """The config of an uninterrupted run, finished in its folder."""
    config = small_run(request.param, tmp_path_factory.mktemp("whole"), ITERATIONS)
    assert train(config).finished
    return config


@pytest.fixture
def again(whole: RunConfig, tmp_path: Path) -> RunConfig:
    """The same run in a folder of its own, not started."""
    return whole.override({"run": str(tmp_path / "again")})


def files(folder: Path) -> dict[Path, bytes]:
    """Every byte of a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_equal_runs(one: RunConfig, other: RunConfig) -> None:
    assert not differences(contents(one.folder), contents(other.folder))


def test_a_run_killed_in_every_phase_equals_an_uninterrupted_one(whole: RunConfig, again: RunConfig) -> None:
    phases = PHASES[whole.algorithm]
    for number, phase in enumerate(phases):
        progress = Interrupted(phase, 1 if phase == "evaluate" else 2, pull_plug)
        with pytest.raises(Power):
            train(again, progress=progress) if number == 0 else resume(again.folder, progress=progress)
    assert 1 <= iterations(again.folder) < iterations(whole.folder)
    assert resume(again.folder).finished
    assert_equal_runs(whole, again)


def test_a_run_killed_while_saving_equals_an_uninterrupted_one(whole: RunConfig, again: RunConfig, monkeypatch) -> None:
    """The record and the replay's chunk are written, the checkpoint is not."""
    left, replace_checkpoint = [2], run_folder.replace_checkpoint

    def fail_the_third_time(*args: object) -> None:
        if not left[0]:
            raise Power
        left[0] -= 1
        replace_checkpoint(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_checkpoint", fail_the_third_time)
        with pytest.raises(Power):
            train(again)
    with RunFolder.open(again.folder) as folder:
        assert sum("iteration" in record for record in folder.records()) == iterations(again.folder) + 1
    assert resume(again.folder).finished
    assert_equal_runs(whole, again)


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path: Path, algorithm: str) -> None:
    """SIGKILL, in processes of their own; ``benchmarks/studies/kill.py`` does it twenty times."""
    result = measure(algorithm, kills=3, seed=1, folder=tmp_path)
    assert result["kills"]
    assert result["differences"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["collect", "update"])
def test_a_signal_ends_collecting_or_the_iteration_saves_and_exits_130(
    whole: RunConfig, again: RunConfig, phase: str, number: int, monkeypatch, capsys
) -> None:
    learning = PHASES[whole.algorithm][1]
    with pytest.raises(Power):  # a folder that `dima resume` can start from
        train(again, progress=Interrupted("collect", 3, pull_plug))
    assert iterations(again.folder) == 2
    ask = Interrupted("collect" if phase == "collect" else learning, 1, lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr("dima.runtime.progress.choose_progress", lambda quiet: ask)
    handler = signal.getsignal(number)
    assert main(["resume", str(again.folder)]) == 130
    assert signal.getsignal(number) is handler
    assert iterations(again.folder) == (2 if phase == "collect" else 3)
    assert "dima resume" in capsys.readouterr().out
    monkeypatch.setattr("dima.runtime.progress.choose_progress", lambda quiet: Progress())
    assert main(["resume", str(again.folder)]) == 0
    assert_equal_runs(whole, again)


def interrupt_steps(monkeypatch, *numbers: int) -> None:
    """Send this process SIGINT in these steps of its vectorised environments, the random policy's not counted."""
    made, step = count(1), VectorEnv.step

    def interrupted(self, action, active):
        if next(made) in numbers:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, action, active)

    monkeypatch.setattr(VectorEnv, "step", interrupted)
    monkeypatch.setattr(Trainer, "evaluate_at_random", lambda self, stop: None)


def test_nothing_collected_before_a_signal_is_lost(whole: RunConfig, again: RunConfig, monkeypatch) -> None:
    """Also in the first iteration, and in a collection that was interrupted before."""
    with monkeypatch.context() as patch:
        interrupt_steps(patch, 20, 30)
        assert not train(again).finished
        assert iterations(again.folder) == 0
        with RunFolder.open(again.folder) as folder:
            before = folder.load().tree["collector"]
        assert not resume(again.folder).finished
    if whole.algorithm == "mappo":
        assert len(before["columns"]["reward"]) == 20
    assert iterations(again.folder) == 0
    assert resume(again.folder).finished
    assert_equal_runs(whole, again)


def test_a_second_signal_stops_at_once(again: RunConfig) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(again, progress=Interrupted("collect", 2, twice))
    assert iterations(again.folder) == 1


def test_a_run_killed_in_its_first_iteration_starts_again(whole: RunConfig, again: RunConfig) -> None:
    with pytest.raises(Power):
        train(again, progress=Interrupted("save", 1, pull_plug))
    assert iterations(again.folder) == 0
    assert resume(again.folder).finished
    assert_equal_runs(whole, again)


def test_a_run_killed_before_its_config_was_written_can_be_started_again(whole: RunConfig, again: RunConfig) -> None:
    again.folder.mkdir()
    shutil.copy(whole.folder / "protocol.json", again.folder)
    with pytest.raises(RunFolderError, match=r"config\.yaml"):
        resume(again.folder)
    assert train(again).finished
    assert_equal_runs(whole, again)


def test_resuming_a_finished_run_changes_nothing(whole: RunConfig) -> None:
    before = contents(whole.folder)
    summary = resume(whole.folder)
    assert summary.finished
    assert summary.steps >= whole.steps
    assert [step for step, _ in summary.evaluations] == sorted(step for step, _ in summary.evaluations)
    assert not differences(before, contents(whole.folder))


def test_an_extended_run_records_its_new_length(whole: RunConfig, again: RunConfig) -> None:
    shutil.copytree(whole.folder, again.folder)
    further = whole.steps + 300
    with pytest.raises(Power):
        resume(again.folder, steps=further, progress=Interrupted("collect", 2, pull_plug))
    summary = resume(again.folder)
    assert summary.finished
    assert summary.steps >= further
    assert iterations(again.folder) > iterations(whole.folder) + 1


@pytest.mark.parametrize("interrupted", [True, False])
def test_fewer_steps_than_were_made_are_refused_before_anything_is_written(
    again: RunConfig, interrupted: bool, capsys
) -> None:
    """Even the record of an unsaved iteration is kept, which a resume would remove."""
    with pytest.raises(Power):
        train(again, progress=Interrupted("save", 4, pull_plug))
    if not interrupted:
        assert resume(again.folder).finished
    made = RunFolder.open(again.folder).load().tree["collector"]["steps"]
    before = files(again.folder)
    for steps in (1, made - 1):
        assert main(["resume", str(again.folder), "--steps", str(steps)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert f"steps = {steps} is less than the {made} that {again.folder} has made already" in err
        assert files(again.folder) == before


def test_as_many_steps_as_were_made_finish_the_run_and_leave_its_config(again: RunConfig) -> None:
    with pytest.raises(Power):
        train(again, progress=Interrupted("collect", 3, pull_plug))
    with RunFolder.open(again.folder) as folder:
        made, config = folder.load().tree["collector"]["steps"], folder.config()
    summary = resume(again.folder, steps=made)
    assert summary.finished
    assert summary.steps == made
    with RunFolder.open(again.folder) as folder:
        assert folder.config() == config
    assert resume(again.folder).steps > made


def test_a_run_s_own_length_is_never_refused_though_its_last_iteration_overshot(whole: RunConfig) -> None:
    before = contents(whole.folder)
    assert resume(whole.folder, steps=whole.steps).steps >= whole.steps
    assert not differences(before, contents(whole.folder))


def test_a_moved_run_is_resumed_in_place(whole: RunConfig, again: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Power):
        train(again, progress=Interrupted("collect", 3, pull_plug))
    moved = tmp_path / "elsewhere"
    again.folder.rename(moved)
    assert resume(moved).folder == moved
    assert not again.folder.exists()
    assert_equal_runs(whole, again.override({"run": str(moved)}))


def test_a_config_that_was_changed_by_hand_is_refused(again: RunConfig) -> None:
    with pytest.raises(Power):
        train(again, progress=Interrupted("collect", 2, pull_plug))
    path = again.folder / "config.yaml"
    path.write_text(path.read_text().replace("hidden:\n      - 16", "hidden:\n      - 24"))
    with pytest.raises(RunFolderError, match=r"does not fit its config\.yaml, or not this version of dima \(dima \d"):
        resume(again.folder)


def test_a_run_without_its_checkpoint_is_left_unchanged(tiny, capsys) -> None:
    """Results are often kept without checkpoint and replay."""
    folder = train(tiny(steps=240)).folder
    shutil.rmtree(folder / "checkpoint")
    shutil.rmtree(folder / "replay")
    kept = (folder / "metrics.jsonl").read_bytes()
    for command in ("resume", "evaluate"):
        assert main([command, str(folder)]) == 2
        assert "its checkpoint was removed or not kept, though 3 iterations were logged" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == kept
