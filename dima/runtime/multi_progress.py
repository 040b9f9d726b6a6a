"""Progress display of several runs at once; :func:`choose_runs_progress` picks one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from dima.runtime.progress import Progress, iteration_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class RunsProgress:
    """Progress of several runs at once, without a display."""

    @contextmanager
    def displaying(self, names: Sequence[str]) -> Iterator[None]:
        """Display these runs while the block runs."""
        yield

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        """Display a finished iteration of one run; see :meth:`dima.runtime.progress.Progress.iteration`."""

    def message(self, name: str, text: str) -> None:
        """Display a line of one run."""

    def warn(self, name: str, text: str) -> None:
        """Display a warning of one run, also where nothing else is displayed."""
        self.message(name, text)


class RunsQuiet(RunsProgress):
    """Warnings alone."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def warn(self, name: str, text: str) -> None:
        print(_labelled(name, text), file=self._stream, flush=True)


class RunsLines(RunsProgress):
    """A plain line per iteration of every run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def message(self, name: str, text: str) -> None:
        print(_labelled(name, text), file=self._stream, flush=True)

    def show(self, name: str, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self.message(name, iteration_line(done, total, numbers, left))


class RunsBars(RunsProgress):
    """A bar per run, with its latest metrics."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: RichProgress | None = None

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
        assert self._bars is not None
        latest = iteration_line(done, total, numbers, left)
        self._bars.update(self._tasks[name], completed=min(done, total), total=total, latest=latest, refresh=True)

    def message(self, name: str, text: str) -> None:
        assert self._bars is not None
        self._bars.console.print(_labelled(name, text), highlight=False, markup=False, soft_wrap=True)


class Relay(Progress):
    """Sends what it would display to another process: the name of a method of ``RunsProgress`` and its arguments.

    Args:
        send: gets each of these tuples.
    """

    def __init__(self, send: Callable[[tuple[Any, ...]], object]) -> None:
        super().__init__()
        self._send = send

    def message(self, text: str) -> None:
        self._send(("message", text))

    def warn(self, text: str) -> None:
        self._send(("warn", text))

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self._send(("show", done, total, numbers, left))


def choose_runs_progress(quiet: bool = False, stream: TextIO | None = None) -> RunsProgress:
    """Bars on a terminal, plain lines elsewhere, for several runs; when quiet, only warnings."""
    stream = stream or sys.stderr
    if quiet:
        return RunsQuiet(stream)
    return RunsBars(stream) if stream.isatty() else RunsLines(stream)


def _labelled(name: str, text: str) -> str:
    """Lines of a run, each with its name."""
    return "\n".join(f"{name}: {line}" for line in text.splitlines())
