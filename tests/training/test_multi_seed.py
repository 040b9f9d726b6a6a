"""Several seeds at once: the same results as alone, one mistake stops nobody else, and all stop together."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dima.cli import main
from dima.errors import ConfigError
from dima.runtime.multi_progress import RunsBars, RunsLines, RunsProgress, RunsQuiet
from dima.storage.run_folder import RunFolder
from dima.training.multi_seed import train_seeds
from dima.training.online import train


def numbers(path: Path) -> list[dict[str, float]]:
    """The records of a run without its clock."""
    records = RunFolder.open(path).records()
    return [{name: value for name, value in one.items() if not name.startswith("time/")} for one in records]


class Watch(RunsProgress):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self.seen.append((name, done))


def test_each_run_equals_that_of_its_seed_alone(tiny, tmp_path) -> None:
    config, watch = tiny(algorithm="mappo", run="together", steps=150), Watch()
    outcomes = train_seeds(config, [3, 5], progress=watch)
    assert [one.seed for one in outcomes] == [3, 5]
    for seed, one in zip((3, 5), outcomes, strict=True):
        assert one.summary is not None and one.summary.finished and not one.error
        assert one.summary.folder == tmp_path / f"together-seed{seed}"
        train(tiny(algorithm="mappo", run=f"alone{seed}", steps=150, seed=seed))
        alone = numbers(tmp_path / f"alone{seed}")
        assert numbers(one.summary.folder) == alone
        assert [done for name, done in watch.seen if name == f"seed {seed}"] == [r["step"] for r in alone]


def test_an_error_of_one_run_does_not_stop_the_others(tiny, tmp_path) -> None:
    config = tiny(algorithm="mappo", run="run", steps=100)
    train(tiny(algorithm="mappo", run="run-seed1", steps=50, seed=1))
    wrong, right = train_seeds(config, [1, 2])
    assert wrong.summary is None and "already holds a run" in wrong.error
    assert right.summary is not None and right.summary.steps == 100


def test_a_process_that_dies_is_named(tiny, tmp_path) -> None:
    (outcome,) = train_seeds(tiny("tests.training.test_multi_seed:deadly", "mappo"), [0])
    assert outcome.summary is None and "its process ended with status 7" in outcome.error


def deadly():
    """An environment that kills its process."""
    os._exit(7)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_must_differ(tiny, seeds) -> None:
    with pytest.raises(ConfigError, match=r"give at least one, each of them once"):
        train_seeds(tiny(), seeds)


def test_the_command_prints_every_run(tmp_path, capsys) -> None:
    args = ["--algorithm", "mappo", "--preset", "debug", "--steps", "100", "--run", str(tmp_path / "run")]
    assert main(["train", "--seeds", "0", "1", "toy/walk", *args]) == 0
    out, err = capsys.readouterr()
    assert "over 2 seeds" in out and all(str(tmp_path / f"run-seed{n}") in out for n in (0, 1))
    assert "seed 0: step 100 of 100" in err and "seed 1: step 100 of 100" in err
    assert "seed 1: toy/walk: 2 agents" in err and "seed 1: mappo, preset debug, seed 1" in err
    assert main(["train", "toy/walk", "--seeds", "0", "2", *args]) == 2
    out, err = capsys.readouterr()
    assert "dima: seed 0: " in err and "already holds a run" in err and "run-seed2" in out


def start(folder: Path) -> subprocess.Popen[str]:
    """Two runs that would take hours, in a process group of their own, as a terminal starts them."""
    args = ["--algorithm", "mappo", "--preset", "debug", "--steps", "1000000", "--checkpoint-budget", "0"]
    command = [sys.executable, "-m", "dima", "train", "toy/walk", "--seeds", "0", "1", *args, "--run", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_until_both_learn(run: subprocess.Popen[str]) -> None:
    assert run.stderr is not None
    begun: set[str] = set()
    while begun != {"seed 0", "seed 1"}:
        line = run.stderr.readline()
        assert line, "the runs ended by themselves"
        name, _, text = line.partition(": ")
        begun |= {name} if text.startswith("step ") else set()


def test_all_stop_together_and_save(tmp_path) -> None:
    run = start(tmp_path / "run")
    wait_until_both_learn(run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    out, err = run.communicate(timeout=120)
    assert run.returncode == 130
    assert out.count("interrupted and saved") == 2
    assert err.count("stopping as soon as") == 1  # the parent alone says it
    for seed in (0, 1):
        folder = RunFolder.open(tmp_path / f"run-seed{seed}")
        assert folder.load().tree["iterations"] == max(record.get("iteration", 0) for record in folder.records()) >= 1


def test_a_second_signal_stops_at_once_without_tracebacks(tmp_path) -> None:
    run = start(tmp_path / "run")
    wait_until_both_learn(run)
    assert run.stderr is not None
    for send, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)):
        send(run.pid, number)
        while (line := run.stderr.readline()) and not line.startswith(("stopping as soon", "dima: ")):
            pass
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130
    assert line == "dima: stopped immediately; the last saved state is kept\n"
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    assert all(one.startswith("seed ") for one in err.splitlines())
    assert RunFolder.open(tmp_path / "run-seed0").records()


def test_a_stop_before_the_runs_began_is_no_error(tiny, tmp_path, monkeypatch) -> None:
    class Impatient(RunsProgress):
        @contextmanager
        def displaying(self, names):
            os.kill(os.getpid(), signal.SIGTERM)  # before the processes are started
            yield

    outcomes = train_seeds(tiny(algorithm="mappo", steps=10**6), [0, 1], progress=Impatient())
    assert all(one.stopped or (one.summary is not None and not one.summary.finished) for one in outcomes)


def test_views() -> None:
    lines = io.StringIO()
    view = RunsLines(lines)
    with view.displaying(["a", "b"]):
        view.show("b", 10, 40, {"collected_return": 1.5}, 3.0)
    assert lines.getvalue() == "b: step 10 of 40  collected return 1.5  3.0 s left\n"
    quiet = io.StringIO()
    view = RunsQuiet(quiet)
    view.show("b", 10, 40, {}, None)
    view.message("b", "a run")
    view.warn("b", "dima: slow")
    assert quiet.getvalue() == "b: dima: slow\n"
    drawn = io.StringIO()
    bars = RunsBars(drawn)
    with bars.displaying(["a", "b"]):
        bars.show("b", 10, 40, {}, None)
        bars.warn("b", "dima: slow")
    assert "b: dima: slow" in drawn.getvalue()
    assert "a" in drawn.getvalue() and "starting" in drawn.getvalue() and "step 10 of 40" in drawn.getvalue()
