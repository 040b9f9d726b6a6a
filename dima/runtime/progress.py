"""Progress display, wall time per phase, and the time a run still takes.

:class:`Progress` only measures time; :class:`Quiet` prints warnings alone, :class:`Lines` a line per iteration too,
:class:`Bars` a bar for the run and one for its phase on a terminal. :func:`choose_progress` picks one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from dima.runtime.pace import Pace, Share

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Step = Callable[[], None]
_REDRAW_SECONDS = 0.1


class Progress:
    """Wall time per phase, without a display.

    Attributes:
        seconds: wall seconds spent in each phase so far; a resumed run starts it from its checkpoint.
        unit: in which the length of a run is counted.
        pace: of the iterations since :meth:`start`.
        done: steps so far.
        total: steps of the whole run; 0 if it is not counted.
    """

    unit = "step"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lap: dict[str, float] = {}
        self.pace = Pace()
        self.done, self.total = 0, 0
        self._last: float | None = None  # when the last iteration ended

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Time a phase.

        Args:
            name: a word or two.
            total: units of work in this phase, where known.

        Yields:
            A function to call after each unit of work.
        """
        begin, updates = time.perf_counter(), 0
        try:
            with self._shown(name, total) as show:

                def step() -> None:
                    nonlocal updates
                    updates += 1
                    show()

                yield step
        finally:
            seconds, key = time.perf_counter() - begin, name.replace(" ", "_")
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self._lap[f"time/{key}"] = self._lap.get(f"time/{key}", 0.0) + seconds
            if updates:
                self._lap[f"updates/{key}"] = self._lap.get(f"updates/{key}", 0) + updates

    def include(self, seconds: dict[str, float], lap: dict[str, float]) -> None:
        """Add times of another process: ``seconds`` and :meth:`lap` of its progress."""
        for mine, theirs in ((self.seconds, seconds), (self._lap, lap)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value

    def lap(self) -> dict[str, float]:
        """Wall seconds (``time/<phase>``) and units of work (``updates/<phase>``) since the last call."""
        lap, self._lap = self._lap, {}
        return lap

    def start(self, done: int, total: int) -> None:
        """Report where a run starts; arguments as for :meth:`iteration`."""
        self.pace, self.done, self.total, self._last = Pace(), done, total, time.perf_counter()

    def iteration(self, done: int, total: int, share: Share = "whole", **numbers: float) -> None:
        """Report a finished iteration.

        Args:
            done: steps so far.
            total: steps of the whole run.
            share: of learning that took place, for the time left.
            numbers: metrics to display, such as ``team_return``.
        """
        now = time.perf_counter()
        if self._last is not None:
            self.pace.add(now - self._last, done - self.done, share)
        self.done, self.total, self._last = done, total, now
        self._show_iteration(done, total, numbers, self.time_left())

    def time_left(self) -> float | None:
        """Estimated seconds to the end of the run, at least 0; None if unknown."""
        pace = self.pace.seconds_per_step
        if pace is None or self._last is None:
            return None
        return max(0.0, pace * (self.total - self.done) - (time.perf_counter() - self._last))

    def message(self, text: str) -> None:
        """Display a line."""

    def warn(self, text: str) -> None:
        """Display a warning, also where nothing else is displayed."""
        self.message(text)

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Step]:
        yield _nothing

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        """Display a finished iteration; ``left`` estimates the remaining seconds."""


class Quiet(Progress):
    """Warnings alone."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr

    def warn(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Lines(Progress):
    """A plain line per iteration: for log files and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self.message(iteration_line(done, total, numbers, left, self.unit))


class Bars(Lines):
    """Bars with rate and time left for the run and the current phase, below a line per finished iteration."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bars: RichProgress | None = None

    def message(self, text: str) -> None:
        if self._bars is None:
            super().message(text)
        else:
            self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Step]:
        if self._bars is not None:  # a nested phase is timed but has no bar
            yield _nothing
            return
        with _rich_bars(self._stream) as self._bars:
            if self.total:
                self._bars.add_task(
                    f"run ({self.unit}s)",
                    total=self.total,
                    completed=min(self.done, self.total),
                    pace=self.pace,
                    left=self.time_left,
                )
            task = self._bars.add_task(name, total=total)
            self._bars.refresh()
            bars, count, shown = self._bars, 0, time.monotonic()

            def step() -> None:
                nonlocal count, shown
                count += 1
                now = time.monotonic()
                if now - shown > _REDRAW_SECONDS:
                    shown = now
                    bars.update(task, completed=count if total is None else min(count, total), refresh=True)

            try:
                yield step
            finally:
                self._bars = None


def choose_progress(quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Bars on a terminal, plain lines elsewhere; when quiet, only warnings."""
    stream = stream or sys.stderr
    if quiet:
        return Quiet(stream)
    return Bars(stream) if stream.isatty() else Lines(stream)


def duration(seconds: float) -> str:
    """Format seconds: ``45 s``, ``12 min``, ``3 h 20 min``, ``5 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{round(minutes / 1440):,} days"


def iteration_line(done: int, total: int, numbers: dict[str, float], left: float | None, unit: str = "step") -> str:
    """A finished iteration in a line."""
    parts = [f"{unit} {done:,} of {total:,}"]
    parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items()]
    return "  ".join([*parts, *([f"{duration(left)} left"] if left is not None else [])])


def _nothing() -> None:
    """Ignore a unit of work."""


def _rich_bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Rich
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            pace = task.fields["pace"].seconds_per_step if "pace" in task.fields else None
            rate = 1 / pace if pace else task.speed
            return Text(f"{rate:.1f}/s" if rate else "", style="progress.data.speed")

    class TimeLeft(ProgressColumn):
        def render(self, task: Task) -> Text:
            left = task.fields["left"]() if "left" in task.fields else task.time_remaining
            return Text("" if left is None else f"{duration(left)} left", style="progress.remaining")

    return Rich(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeLeft(),
        console=Console(file=stream),
        auto_refresh=False,
        transient=True,
    )
