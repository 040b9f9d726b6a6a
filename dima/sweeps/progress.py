"""Display of a sweep: a bar for it and one for each run at work on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from dima.runtime.progress import duration, iteration_line
from dima.sweeps.results import RunOutcome

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS = 30.0  # between two lines about a run that is at work
_REDRAW_SECONDS = 0.1


class SweepProgress:
    """Progress of a sweep, without a display."""

    def __init__(self) -> None:
        self.total, self.ended = 0, 0
        self._returns: dict[str, float] = {}  # last evaluation of each run

    @contextmanager
    def displaying(self, total: int, finished: int) -> Iterator[None]:
        """Display a sweep of ``total`` runs, some of them finished before, while the block runs."""
        self.total, self.ended = total, finished
        yield

    def begin(self, name: str) -> None:
        """A run begins, or is gone on with."""

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        """A run finished an iteration; see :meth:`dima.runtime.progress.Progress.iteration`."""
        if "evaluated_return" in numbers:
            self._returns[name] = numbers["evaluated_return"]

    def end(self, run: RunOutcome) -> None:
        """A run ended."""
        self.ended += run.status != "interrupted"

    def message(self, text: str) -> None:
        """Display a line."""

    def warn(self, name: str, text: str) -> None:
        """Display a warning of a run, also where nothing else is displayed."""

    def _ending(self, run: RunOutcome) -> str:
        """How a run ended, in a line."""
        words = {"interrupted": "interrupted and saved", "pruned": "stopped early", "invalid": "failed"}
        text = f"{run.name}: {words.get(run.status, run.status)}"
        if run.error:
            return f"{text}: {run.error}"
        return f"{text}, team return {self._returns[run.name]:,.4g}" if run.name in self._returns else text


class SweepQuiet(SweepProgress):
    """Warnings alone; runs that failed are listed at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr

    def warn(self, name: str, text: str) -> None:
        self._print("\n".join(f"{name}: {line}" for line in text.splitlines()))

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class SweepLines(SweepQuiet):
    """A line when a run begins and ends, and now and then while it works."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._told: dict[str, float] = {}

    def begin(self, name: str) -> None:
        self._told[name] = time.monotonic()
        self.message(f"{name}: begins")

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        super().show(name, done, total, numbers, left)
        if (now := time.monotonic()) - self._told.get(name, 0.0) > _LINE_SECONDS:
            self._told[name] = now
            self.message(f"{name}: {iteration_line(done, total, numbers, left)}")

    def end(self, run: RunOutcome) -> None:
        super().end(run)
        self.message(f"{self._ending(run)}  ({self.ended} of {self.total} runs)")

    def message(self, text: str) -> None:
        self._print(text)


class SweepBars(SweepLines):
    """A bar for the sweep and one for each run at work, below a line per run that ended."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._drawn = 0.0

    @contextmanager
    def displaying(self, total: int, finished: int) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Rich

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[latest]}"))
        self._bars = Rich(*columns, console=Console(file=self._stream), auto_refresh=False, transient=True)
        with super().displaying(total, finished), self._bars:
            self._sweep = self._bars.add_task("sweep", total=total, completed=finished, latest=f"{finished} of {total}")
            self._bars.refresh()
            yield
        self._bars = None

    def begin(self, name: str) -> None:
        if self._bars is not None:
            self._tasks[name] = self._bars.add_task(name.rpartition("/")[2], total=None, latest="starting")
            self._bars.refresh()

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        SweepProgress.show(self, name, done, total, numbers, left)
        if self._bars is not None and name in self._tasks:
            redraw = (now := time.monotonic()) - self._drawn > _REDRAW_SECONDS
            self._drawn = now if redraw else self._drawn
            score = [f"return {self._returns[name]:,.4g}"] if name in self._returns else []
            latest = "  ".join([f"{done:,} of {total:,}", *score, *([f"{duration(left)} left"] if left else [])])
            self._bars.update(self._tasks[name], completed=min(done, total), total=total, latest=latest, refresh=redraw)

    def end(self, run: RunOutcome) -> None:
        super().end(run)
        if self._bars is not None:
            if run.name in self._tasks:
                self._bars.remove_task(self._tasks.pop(run.name))
            self._bars.update(
                self._sweep, completed=self.ended, latest=f"{self.ended} of {self.total} runs", refresh=True
            )

    def _print(self, text: str) -> None:
        if self._bars is None:
            super()._print(text)
        else:
            self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)


def choose_sweep_progress(quiet: bool = False, stream: TextIO | None = None) -> SweepProgress:
    """Bars on a terminal, plain lines elsewhere; when quiet, only warnings."""
    stream = stream or sys.stderr
    if quiet:
        return SweepQuiet(stream)
    return SweepBars(stream) if stream.isatty() else SweepLines(stream)
