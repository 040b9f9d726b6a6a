"""Checkpoint budget: iterations without a checkpoint are lost in a kill and repeated exactly."""

from __future__ import annotations

import os
import random
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed.checkpoint import measure as clocked
from benchmarks.studies.kill import contents, differences, iterations, logged, measure, small_run
from dima.agent import load
from dima.errors import RunFolderError
from dima.runtime.progress import Progress
from dima.runtime.signals import Stop
from dima.storage import checkpoint
from dima.storage.budget import TimeBudget
from dima.storage.run_folder import RunFolder
from dima.storage.saved import read_checkpoint
from dima.training.online import Trainer, resume, train
from dima.training.run_config import RunConfig, build_config
from tests.reliability.test_resume import Interrupted, Power, pull_plug

ITERATIONS = 8
PHASES = {"dima": ("collect", "denoiser", "imagine and update", "save"), "mappo": ("collect", "update", "save")}
BACKGROUND = {
    "dima": {"evaluate_in_background": True, "learner": {"collect_in_background": True}},
    "mappo": {"evaluate_in_background": True},
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def work(budget: TimeBudget, clock: Clock, gap: float, job: float) -> bool:
    """Let time pass, then do the job if the budget allows it."""
    clock.now += gap
    if not budget.allows:
        return False
    with budget.spending():
        clock.now += job
    return True


@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=2, max_size=30))
def test_a_job_waits_until_those_before_are_within_the_share(share: float, turns: list[tuple[float, float]]) -> None:
    clock = Clock()
    budget = TimeBudget(share, clock)
    for number, (gap, job) in enumerate(turns):
        spent, now = budget.spent, clock.now + gap
        if work(budget, clock, gap, job):
            assert spent <= share * now * (1 + 1e-9)
        else:
            assert number and spent > share * now * (1 - 1e-9)


def test_a_whole_share_is_every_time_and_none_is_once() -> None:
    for share, expected in ((1.0, [True] * 5), (0.0, [True] + [False] * 4)):
        clock = Clock()
        budget = TimeBudget(share, clock)
        assert [work(budget, clock, 0.01, 5.0) for _ in range(5)] == expected


def test_a_slow_disk_makes_checkpoints_rarer() -> None:
    """Iterations of 5 s: a checkpoint of 0.8 s every eighth iteration, one of 0.02 s every iteration."""
    for job, expected in ((0.8, {7, 8}), (0.02, {1})):
        clock = Clock()
        budget = TimeBudget(0.02, clock)
        done = [number for number in range(1000) if work(budget, clock, 5.0, job)]
        assert {later - sooner for sooner, later in pairwise(done[1:])} == expected


@pytest.fixture(scope="module", params=list(PHASES))
def whole(request, tmp_path_factory) -> RunConfig:
    """The config of a run that saved every iteration, finished in its folder."""
    config = small_run(request.param, tmp_path_factory.mktemp("whole"), ITERATIONS).override(BACKGROUND[request.param])
    assert train(config).finished
    return config


@pytest.fixture
def sparing(whole: RunConfig, tmp_path: Path) -> RunConfig:
    """The same run, not started, in a folder of its own; saves its first and last iteration, and when stopped."""
    return whole.override({"run": str(tmp_path / "sparing"), "checkpoint_budget": 0.0})


def assert_equal_runs(one: RunConfig, other: RunConfig) -> None:
    assert not differences(contents(one.folder), contents(other.folder))
    names = [sorted(path.name for path in (run.folder / "replay").glob("*")) for run in (one, other)]
    assert names[0] == names[1]


def test_the_last_iteration_is_saved_and_nothing_depends_on_the_budget(whole: RunConfig, sparing: RunConfig) -> None:
    assert train(sparing).finished
    assert iterations(sparing.folder) == logged(sparing.folder) == iterations(whole.folder)
    assert_equal_runs(whole, sparing)
    with RunFolder.open(sparing.folder) as folder:
        assert len(folder.load().tree["earlier"]) == sparing.keep_policies


def test_obsolete_experience_is_not_kept_until_the_next_checkpoint(tmp_path: Path) -> None:
    """However many iterations are not saved, only the chunks that a full replay needs stay in memory."""
    learner = {"capacity": 60, "warmup": 20, "interval": 20, "updates": 0.05}
    short = {"steps": 400, "checkpoint_budget": 0.0, "tensorboard": False, "evaluate_every": 1_000, "learner": learner}
    config = build_config("toy/walk", "hasac", "debug", {"run": str(tmp_path / "run"), "device": "cpu", **short})
    kept = []

    class Watch(Progress):
        def iteration(self, step: int, target: int, **shown: float) -> None:
            kept.append(sum(bool(chunk) for chunk in trainer.chunks))

    folder = RunFolder.create(config.folder, config.to_dict())
    with folder, Trainer(config, torch.device("cpu"), Watch()) as trainer:
        assert trainer.run(folder, Stop()).finished
    assert len(kept) > 10
    assert max(kept) <= 4
    assert resume(config.folder, steps=440).finished


def test_lost_iterations_are_repeated_exactly(whole: RunConfig, sparing: RunConfig, monkeypatch) -> None:
    """Whichever iterations are saved, in whichever phase the run is killed."""
    draw, lost = random.Random(3), 0
    monkeypatch.setattr(TimeBudget, "allows", property(lambda budget: not budget.spent or draw.random() < 0.3))
    for number, phase in enumerate(PHASES[whole.algorithm]):
        progress = Interrupted(phase, 2 if number else 5, pull_plug)
        with pytest.raises(Power):
            train(sparing, progress=progress) if number == 0 else resume(sparing.folder, progress=progress)
        lost += logged(sparing.folder) - iterations(sparing.folder)
    assert lost
    assert resume(sparing.folder).finished
    assert_equal_runs(whole, sparing)


@pytest.mark.parametrize("algorithm", PHASES)
def test_a_run_killed_at_random_moments_repeats_lost_iterations(tmp_path: Path, algorithm: str) -> None:
    """SIGKILL, in processes of their own."""
    result = measure(algorithm, kills=3, seed=4, folder=tmp_path, budget=0.0)
    assert result["lost_iterations"]
    assert result["differences"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_current_iteration(whole: RunConfig, sparing: RunConfig, number: int) -> None:
    ask = Interrupted(PHASES[whole.algorithm][1], 3, lambda: os.kill(os.getpid(), number))
    assert not train(sparing, progress=ask).finished
    assert iterations(sparing.folder) == logged(sparing.folder) == 3
    assert resume(sparing.folder).finished
    assert_equal_runs(whole, sparing)


def test_a_full_disk_is_an_error_at_the_next_checkpoint(sparing: RunConfig, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr(checkpoint, "save_file", full)

    with pytest.raises(RunFolderError, match="no space left on device"):
        train(sparing, progress=Interrupted("collect", 4, fill))
    assert iterations(sparing.folder) == 1


def test_a_killed_run_is_evaluated_at_its_last_checkpoint(sparing: RunConfig, tmp_path: Path) -> None:
    """Its metrics have later iterations, which are neither in its policy nor in its experience."""
    saved = sparing.override({"run": str(tmp_path / "saved")})
    learning = PHASES[sparing.algorithm][1]
    for config, times in ((saved, 2), (sparing, 3)):
        with pytest.raises(Power):
            train(config, progress=Interrupted(learning, times, pull_plug))
    assert iterations(sparing.folder) == iterations(saved.folder) == 1
    assert logged(saved.folder) == 1 < logged(sparing.folder)
    before = {path: path.read_bytes() for path in sparing.folder.rglob("*") if path.is_file()}
    one, other = load(saved.folder, "cpu"), load(sparing.folder, "cpu")
    assert one.steps == other.steps
    assert one.evaluate(3).returns == other.evaluate(3).returns
    if sparing.algorithm == "dima":
        assert torch.equal(one.experience().store["state"], other.experience().store["state"])
    assert before == {path: path.read_bytes() for path in sparing.folder.rglob("*") if path.is_file()}


def test_a_copy_without_later_metrics_is_complete(whole: RunConfig, sparing: RunConfig) -> None:
    """The metrics up to a checkpoint are on disk before it; later lines may be lost with the machine."""
    with pytest.raises(Power):
        train(sparing, progress=Interrupted("collect", 4, pull_plug))
    content, *_ = read_checkpoint(sparing.folder / "checkpoint")
    length = content["metrics_bytes"]
    copy = sparing.override({"run": f"{sparing.folder}-copy"})
    shutil.copytree(sparing.folder, copy.folder)
    os.truncate(copy.folder / "metrics.jsonl", length)
    assert resume(copy.folder, progress=Progress()).finished
    assert_equal_runs(whole, copy)


def test_the_benchmark_counts_what_is_saved(tiny, tmp_path: Path) -> None:
    result = clocked(tiny(), torch.device("cpu"), iterations=3, pause=0.0, repeats=1, folder=tmp_path)
    every, budgeted = result["runs"]
    assert every["saved"] == every["iterations"] == budgeted["iterations"] == 3
    assert 2 <= budgeted["saved"] <= 3
    assert 0 < budgeted["share"] < 1
    assert result["checkpoint"]["mebibytes"] > 0
