"""Progress display, and wall time per phase.

:class:`Progress` only measures time; :class:`Lines` prints a line per iteration, :class:`Bars` a bar per phase on a
terminal. :func:`choose_progress` picks one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Step = Callable[[], None]
_REDRAW_SECONDS = 0.1


class Progress:
    """Wall time per phase, without a display.

    Attributes:
        seconds: wall seconds spent in each phase so far; a resumed run starts it from its checkpoint.
        unit: in which the length of a run is counted.
    """

    unit = "step"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lap: dict[str, float] = {}
        self._start: tuple[float, int] | None = None

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

    def iteration(self, done: int, total: int, **numbers: float) -> None:
        """Report a finished iteration.

        Args:
            done: steps so far.
            total: steps of the whole run.
            numbers: metrics to display, such as ``team_return``.
        """
        now = time.perf_counter()
        began, first = self._start or (now, done)
        self._start = (began, first)
        to_go = max(0, total - done)  # a last iteration may overshoot
        left = (now - began) / (done - first) * to_go if done > first else None
        self._show_iteration(done, total, numbers, left)

    def message(self, text: str) -> None:
        """Display a message."""

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Step]:
        yield _nothing

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        """Display a finished iteration; ``left`` estimates the remaining seconds."""


class Lines(Progress):
    """A plain line per iteration: for log files, pipes and ``--quiet``."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self.message(_line(done, total, numbers, left, self.unit))


class Bars(Lines):
    """A bar with rate and time left for the current phase, below a line per finished iteration."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bars: RichProgress | None = None

    def message(self, text: str) -> None:
        if self._bars is None:
            super().message(text)
        else:
            self._bars.console.print(text, highlight=False, markup=False)

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Step]:
        if self._bars is not None:  # a nested phase is timed but has no bar
            yield _nothing
            return
        with _rich_bars(self._stream) as self._bars:
            task = self._bars.add_task(name, total=total)
            bars, count, shown = self._bars, 0, time.monotonic()

            def step() -> None:
                nonlocal count, shown
                count += 1
                now = time.monotonic()
                if now - shown > _REDRAW_SECONDS:
                    shown = now
                    bars.update(task, completed=count, refresh=True)

            try:
                yield step
            finally:
                self._bars = None


class RunsProgress:
    """Progress of several runs at once, without a display."""

    @contextmanager
    def displaying(self, names: Sequence[str]) -> Iterator[None]:
        """Display these runs while the block runs."""
        yield

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        """Display a finished iteration of one run; see :meth:`Progress.iteration`."""


class RunsLines(RunsProgress):
    """A plain line per iteration of every run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        print(f"{name}: {_line(done, total, numbers, left)}", file=self._stream, flush=True)


class RunsBars(RunsProgress):
    """A bar per run, with its latest metrics."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def displaying(self, names: Sequence[str]) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Rich

        with Rich(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[latest]}"),
            console=Console(file=self._stream),
            auto_refresh=False,
        ) as self._bars:
            self._tasks = {name: self._bars.add_task(name, total=None, latest="starting") for name in names}
            self._bars.refresh()
            yield

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        latest = _line(done, total, numbers, left)
        self._bars.update(self._tasks[name], completed=done, total=total, latest=latest, refresh=True)


def choose_runs_progress(quiet: bool = False, stream: TextIO | None = None) -> RunsProgress:
    """Bars on a terminal, plain lines elsewhere or when quiet, for several runs."""
    stream = stream or sys.stderr
    return RunsBars(stream) if stream.isatty() and not quiet else RunsLines(stream)


def choose_progress(quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Bars on a terminal, plain lines elsewhere or when quiet."""
    stream = stream or sys.stderr
    return Bars(stream) if stream.isatty() and not quiet else Lines(stream)


def duration(seconds: float) -> str:
    """Format seconds: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _line(done: int, total: int, numbers: dict[str, float], left: float | None, unit: str = "step") -> str:
    parts = [f"{unit} {done:,} of {total:,}"]
    parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items()]
    return "  ".join([*parts, *([f"{duration(left)} left"] if left is not None else [])])


def _nothing() -> None:
    """Ignore a unit of work."""


def _rich_bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")

    return Rich(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        auto_refresh=False,
        transient=True,
    )
