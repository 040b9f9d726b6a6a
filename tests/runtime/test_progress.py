"""Progress: time per phase, displays for terminals and files; graceful stop; the summary of a run."""

import contextlib
import io
import os
import signal
import threading
import time

import pytest

import dima.runtime.progress as module
from dima.runtime.progress import Bars, Lines, Progress, Quiet, choose_progress, duration
from dima.runtime.signals import graceful_stop
from dima.runtime.summary import Summary


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock set by the test."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_seconds_add_up_per_phase_also_when_one_fails(clock):
    progress = Progress()
    for spent in (1.0, 2.5):
        with progress.phase("denoiser", total=2) as step:
            step()
            clock[0] += spent
    with contextlib.suppress(ZeroDivisionError), progress.phase("evaluate"):
        clock[0] += 4.0
        raise ZeroDivisionError
    assert progress.seconds == {"denoiser": 3.5, "evaluate": 4.0}


def test_a_lap_holds_times_and_counts_since_the_last_one(clock):
    progress = Progress()
    for spent, updates in ((1.0, 2), (2.0, 3)):
        with progress.phase("imagine and update", total=3) as step:
            for _ in range(updates):
                step()
            clock[0] += spent
    with progress.phase("save"):
        clock[0] += 0.5
        assert progress.lap() == {"time/imagine_and_update": 3.0, "updates/imagine_and_update": 5}
    assert progress.lap() == {"time/save": 0.5}
    assert progress.lap() == {}
    assert progress.seconds == {"imagine and update": 3.0, "save": 0.5}


def test_a_resumed_run_adds_to_its_seconds(clock):
    progress = Progress()
    progress.seconds.update({"collect": 10.0})
    with progress.phase("collect"):
        clock[0] += 1.0
    assert progress.seconds == {"collect": 11.0}


def test_lines_print_each_iteration_with_the_time_left(clock):
    stream = io.StringIO()
    progress = Lines(stream)
    with progress.phase("denoiser", total=3) as step:
        step()
    progress.iteration(1_000, 25_000, team_return=-12.345)
    clock[0] += 10
    progress.iteration(2_000, 25_000)
    assert stream.getvalue().splitlines() == [
        "step 1,000 of 25,000  team return -12.35",
        "step 2,000 of 25,000  4 min left",
    ]


@pytest.mark.parametrize(("made", "done"), [("Lines", 1_200), ("Lines", 1_000), ("Bars", 1_200)])
def test_time_left_is_never_negative(clock, made, done):
    """A last iteration may make more steps than were left."""
    stream = io.StringIO()
    progress = getattr(module, made)(stream)
    progress.iteration(500, 1_000)
    clock[0] += 179.5
    progress.iteration(done, 1_000)
    assert stream.getvalue().splitlines()[-1] == f"step {done:,} of 1,000  0.0 s left"


def test_time_left_of_parallel_runs_is_never_negative(clock):
    estimates = []

    class Relay(Progress):
        def _show_iteration(self, done, total, numbers, left):
            estimates.append(left)

    relay = Relay()
    for done in (500, 1_700):
        relay.iteration(done, 1_000)
        clock[0] += 60
    assert estimates == [None, 0.0]


def test_time_left_counts_down_from_the_last_iteration_that_learnt(clock):
    progress = Progress()
    progress.start(0, 1_000)
    assert progress.time_left() is None
    clock[0] += 1
    progress.iteration(500, 1_000, share="none")
    assert progress.time_left() is None
    clock[0] += 20
    progress.iteration(600, 1_000)
    assert progress.time_left() == 80
    clock[0] += 30
    assert progress.time_left() == 50
    clock[0] += 100
    assert progress.time_left() == 0


def test_a_second_run_has_a_pace_of_its_own(clock):
    progress = Progress()
    for _ in range(2):
        progress.start(0, 100)
        assert progress.time_left() is None
        clock[0] += 1
        progress.iteration(10, 100)


def test_a_bar_for_the_run_is_beside_that_of_the_phase(monkeypatch, clock):
    monkeypatch.setattr(module, "_REDRAW_SECONDS", 0.0)
    progress, stream = Bars(Terminal()), Terminal()
    progress._stream = stream
    progress.start(0, 300)
    clock[0] += 100
    progress.iteration(100, 300)
    with progress.phase("denoiser", total=2) as step:
        for _ in range(3):  # one more than announced
            step()
        run, phase = stream.getvalue().splitlines()[-2:]
    assert "run (steps)" in run and "100/300" in run and "3 min left" in run and "1.0/s" in run
    assert "denoiser" in phase and "2/2" in phase
    assert " -" not in stream.getvalue()


def test_work_that_is_no_run_has_one_bar(monkeypatch):
    stream = Terminal()
    with Bars(stream).phase("read", total=2) as step:
        step()
    assert "read" in stream.getvalue() and "run (" not in stream.getvalue()


def test_bars_show_the_phase_and_lines_stay_above(monkeypatch):
    monkeypatch.setattr(module, "_REDRAW_SECONDS", 0.0)
    stream = Terminal()
    progress = Bars(stream)
    with progress.phase("denoiser", total=2) as step:
        step()
        with progress.phase("inner", total=5) as inner:
            inner()
        progress.message("noted [1/2]")
        step()
    progress.iteration(10, 20)
    shown = stream.getvalue()
    assert "denoiser" in shown
    assert "2/2" in shown
    assert "noted [1/2]" in shown
    assert "step 10 of 20" in shown
    assert set(progress.seconds) == {"denoiser", "inner"}


def test_bars_on_terminals_only():
    assert type(choose_progress(stream=Terminal())) is Bars
    assert type(choose_progress(quiet=True, stream=Terminal())) is Quiet
    assert type(choose_progress(stream=io.StringIO())) is Lines


def test_quiet_prints_warnings_alone(clock):
    stream = io.StringIO()
    progress = Quiet(stream)
    progress.start(0, 20)
    progress.message("a run")
    progress.warn("dima: slow")
    clock[0] += 1
    progress.iteration(10, 20)
    assert stream.getvalue() == "dima: slow\n"


@pytest.mark.parametrize("made", ["Lines", "Bars"])
def test_others_print_them_too(made):
    stream = io.StringIO()
    getattr(module, made)(stream).warn("dima: slow")
    assert stream.getvalue() == "dima: slow\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (45.4, "45 s"),
        (300, "5 min"),
        (12_000, "3 h 20 min"),
        (6_000, "1 h 40 min"),
        (7 * 86_400, "7 days"),
    ],
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


class TestStop:
    def test_the_first_signal_requests_a_stop_and_the_second_interrupts(self, capsys):
        with graceful_stop() as stop:
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert "as soon as the work is saved" in capsys.readouterr().err

    def test_handlers_are_restored(self):
        before = signal.getsignal(signal.SIGTERM)
        with graceful_stop():
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before

    def test_workers_ignore_sigint_but_end_at_sigterm(self):
        with graceful_stop() as stop:
            for number, status in ((signal.SIGINT, 7), (signal.SIGTERM, 143)):
                child = os.fork()
                if child == 0:
                    try:
                        os.kill(os.getpid(), number)
                        time.sleep(0.01)
                        os._exit(7)
                    except SystemExit as end:
                        os._exit(end.code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
            assert not stop.requested

    def test_outside_the_main_thread_no_handler_is_installed(self):
        seen = []

        def work():
            with graceful_stop() as stop:
                seen.append(stop.requested)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [False]


class TestSummary:
    def test_table_holds_curve_times_and_folder(self):
        table = Summary(
            task="toy/walk",
            algorithm="dima",
            folder="runs/x",
            steps=25_000,
            evaluations=[(5_000, -100.0), (25_000, 3_000.0)],
            seconds={"save": 1.0, "denoiser": 99.0},
            wall=60.0,
            env={"observation": "full+id"},
        ).table()
        lines = table.splitlines()
        assert lines[:2] == [
            "✓ learnt: team return from -100.0 to 3,000.0",
            "dima on toy/walk: 25,000 environment steps",
        ]
        assert "observation = full+id" in lines
        assert any(line.split() == ["5,000", "-100.0"] for line in lines)
        assert any(line.split()[:2] == ["25,000", "3,000.0"] and "▪" in line for line in lines)
        assert table.index("denoiser") < table.index("save ") < table.index("wall time")
        assert any(line.split() == ["wall", "time", "60", "s"] for line in lines)
        assert "run folder: runs/x" in table
        assert "interrupted" not in table

    def test_bars_start_at_the_random_policy(self):
        scores = [(10, -20.0), (20, -10.0), (30, 10.0)]
        lines = Summary("t", "a", "runs/x", 30, scores, random_score=-15.0).table().splitlines()
        bars = {line.split()[0]: line.count("▪") for line in lines if line.startswith("  ")}
        assert bars == {"steps": 0, "random": 0, "10": 0, "20": 6, "30": 30}
        assert any(line.split() == ["random", "-15.0"] for line in lines)

    def test_bars_of_runs_that_are_all_worse_than_the_random_policy(self):
        assert "▪" not in Summary("t", "a", "runs/x", 10, [(10, -20.0)], random_score=-15.0).table()

    @pytest.mark.parametrize(
        ("returns", "lower_is_better", "verdict"),
        [
            ([1.0, 5.0, 4.5], False, "✓ learnt: team return from 1.0 to 4.5"),
            ([1.0, 5.0, 2.0], False, "⚠ ends below its best: team return 2.0, 5.0 at 2 environment steps"),
            ([1.0, 5.0, 0.5], False, "⚠ ends no better than it began: team return 0.5, at first 1.0"),
            ([5.0, 1.0], True, "✓ learnt: team return from 5.0 to 1.0"),
            ([1.0, 5.0], True, "⚠ ends no better than it began: team return 5.0, at first 1.0"),
        ],
    )
    def test_the_evaluations_are_judged(self, returns, lower_is_better, verdict):
        evaluations = list(enumerate(returns, 1))
        summary = Summary("t", "a", "runs/x", 3, evaluations, lower_is_better=lower_is_better)
        assert summary.table().splitlines()[0] == verdict

    def test_one_evaluation_is_not_judged(self):
        assert Summary("t", "a", "runs/x", 3, [(3, 1.0)]).verdicts == []

    def test_an_interrupted_run_says_how_to_continue(self):
        table = Summary("t", "a", "runs/x", 0, [], finished=False).table()
        assert table.startswith("⚠ no evaluation was made")
        assert "continue with `dima resume runs/x`" in table
