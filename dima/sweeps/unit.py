"""Runs that belong together, carried out one after another: one of a grid, or a trial's seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dima.sweeps.process import Event, Job, RunProcess

RETRY_SECONDS = 1.0  # between the death of a process and the next attempt


class UnitWork:
    """Carries out the runs of a unit; both ways of carrying out a sweep poll it.

    Args:
        jobs: its runs.
        retries: of each run whose process dies.
        start: makes the process of a run.
    """

    def __init__(self, jobs: Sequence[Job], retries: int, start: Callable[[Job], RunProcess] = RunProcess) -> None:
        self._waiting = list(jobs)
        self._retries = retries
        self._left = retries
        self._start = start
        self._job: Job | None = None
        self._process: RunProcess | None = None
        self._stopping = False
        self._resume_at = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self._job is None and not self._waiting

    def poll(self, seconds: float) -> list[Event]:
        """Carry on, and return what happened.

        Args:
            seconds: to wait at most.

        Returns:
            Events, each with its run's name behind its kind: those of a display; ("begin", name);
            ("retry", name, why, retries left); ("outcome", name, status, error).
        """
        if self._job is None:
            return self._next()
        if self._process is None:
            if self._stopping:
                return [self._end("interrupted", "")]
            if (pause := self._resume_at - time.monotonic()) > 0:
                time.sleep(min(pause, seconds))
                return []
            self._process = self._start(self._job)
        return [one for event in self._process.events(seconds) for one in self._handled(event)]

    def stop(self) -> None:
        """Let the run at work save and end; the others do not begin."""
        self._stopping = True
        if self._process is not None:
            self._process.stop()

    def close(self) -> None:
        """End the process at work at once."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _next(self) -> list[Event]:
        if self._stopping:
            self._waiting.clear()
        if not self._waiting:
            return []
        self._job, self._left = self._waiting.pop(0), self._retries
        return [("begin", self._job.name)]

    def _handled(self, event: Event) -> list[Event]:
        assert self._job is not None
        kind, *rest = event
        if kind == "outcome" and rest[0] == "interrupted" and not self._stopping:
            kind, rest = "died", ["its process was told to stop"]  # a machine that is taken away
        if kind == "outcome":
            return [self._end(*rest)]
        if kind != "died":
            return [(kind, self._job.name, *rest)]
        self.close()
        if self._stopping:
            return [self._end("interrupted", "")]
        if self._left == 0:
            return [self._end("failed", rest[0])]
        self._left -= 1
        self._resume_at = time.monotonic() + RETRY_SECONDS
        return [("retry", self._job.name, rest[0], self._left)]

    def _end(self, status: str, error: str) -> Event:
        assert self._job is not None
        name, self._job = self._job.name, None
        self.close()
        if status != "finished":
            self._waiting.clear()
        return ("outcome", name, status, error)
