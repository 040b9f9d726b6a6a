"""The runs of a unit: one after another, again where a process died, never after a stop."""

from __future__ import annotations

from typing import Any

import pytest

from dima.sweeps import unit
from dima.sweeps.process import Event, Job
from dima.sweeps.unit import UnitWork


class Process:
    """Tells what it is given, once for each time it is started."""

    script: list[list[Event]] = []  # noqa: RUF012
    stopped = 0

    def __init__(self, job: Job) -> None:
        self.told = type(self).script.pop(0)

    def events(self, seconds: float) -> list[Event]:
        told, self.told = self.told, []
        return told

    def stop(self) -> None:
        type(self).stopped += 1
        self.told = [("outcome", "interrupted", "")]

    def close(self) -> None:
        pass


@pytest.fixture
def carry_out(monkeypatch) -> Any:
    monkeypatch.setattr(unit, "RETRY_SECONDS", 0.0)

    def run(names: str, *script: list[Event], retries: int = 1) -> list[Event]:
        Process.script, Process.stopped = list(script), 0
        work = UnitWork([Job(name, {}, ".", "log") for name in names], retries, Process)  # type: ignore[arg-type]
        events = []
        while not work.done:
            events += work.poll(0)
        return events

    return run


DONE, DIED = ("outcome", "finished", ""), ("died", "killed")


def test_runs_follow_one_another(carry_out) -> None:
    shown = ("show", 1, 2, {}, None)
    events = carry_out("ab", [shown, DONE], [DONE])
    assert events == [
        ("begin", "a"), ("show", "a", 1, 2, {}, None), ("outcome", "a", "finished", ""),
        ("begin", "b"), ("outcome", "b", "finished", ""),
    ]  # fmt: skip


def test_a_run_whose_process_died_is_started_again(carry_out) -> None:
    events = carry_out("a", [DIED], [DONE])
    assert events[1:] == [("retry", "a", "killed", 0), ("outcome", "a", "finished", "")]
    assert carry_out("ab", [DIED], [DIED])[-1] == ("outcome", "a", "failed", "killed")
    assert carry_out("ab", [DIED], [DONE], [DIED], [DONE])[-1] == ("outcome", "b", "finished", "")


def test_a_run_that_others_told_to_stop_is_started_again(carry_out) -> None:
    assert carry_out("a", [("outcome", "interrupted", "")], [DONE])[-1] == ("outcome", "a", "finished", "")


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_an_error_is_not_tried_again_and_ends_the_unit(carry_out, status) -> None:
    assert carry_out("ab", [("outcome", status, "why")])[-1] == ("outcome", "a", status, "why")


def test_a_stop_ends_the_run_and_begins_no_other(carry_out) -> None:
    Process.script, Process.stopped = [[]], 0
    work = UnitWork([Job(name, {}, ".", "log") for name in "ab"], 1, Process)  # type: ignore[arg-type]
    assert work.poll(0) == [("begin", "a")] and work.poll(0) == []
    work.stop()
    assert work.poll(0) == [("outcome", "a", "interrupted", "")]
    assert work.done and work.poll(0) == []
    assert Process.stopped == 1
