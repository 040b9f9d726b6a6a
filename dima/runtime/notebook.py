"""Progress in notebooks: one output that is updated."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from dima.runtime.progress import Progress, Step, duration, iteration_line

_REDRAW_SECONDS = 0.2
_LINES = 6  # of iterations, the newest


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Notebook(Progress):
    """Messages, the newest iterations and a bar for the run and its phase, in one output of the cell."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[str] = []
        self._iterations: list[str] = []
        self._phase = ""
        self._handle: Any = None
        self._drawn = 0.0

    def close(self) -> None:
        """Leave the lines without the bar, as when a run ends before its last step."""
        self.total = 0
        if self._handle is not None:
            self._draw()

    def message(self, text: str) -> None:
        self._messages.append(text)
        self._draw()

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Step]:
        if self._phase:  # a nested phase is timed but not displayed
            yield lambda: None
            return
        updates = 0

        def show() -> None:
            nonlocal updates
            updates += 1
            self._phase = f"{name} {updates:,}" + (f" of {total:,}" if total else "")
            self._draw(lazily=True)

        self._phase = name
        self._draw(lazily=True)
        try:
            yield show
        finally:
            self._phase = ""

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self._iterations = [*self._iterations, iteration_line(done, total, numbers, None, self.unit)][-_LINES:]
        self._draw(lazily=done < total)

    def _draw(self, lazily: bool = False) -> None:
        if lazily and time.monotonic() - self._drawn < _REDRAW_SECONDS:
            return
        output: Any = import_module("IPython.display")
        self._drawn = time.monotonic()
        content = output.HTML(self._html())
        if self._handle is None:
            self._handle = output.display(content, display_id=True)
        else:
            self._handle.update(content)

    def _html(self) -> str:
        text = escape("\n".join([*self._messages, *self._iterations]))
        bar = ""
        if self.total and self.done < self.total:
            left = self.time_left()
            facts = [self._phase, "" if left is None else f"{duration(left)} left"]
            words = escape(", ".join(filter(None, facts)))
            bar = f"<progress style='width:20em' value='{self.done}' max='{self.total}'></progress> {words}"
        return f"<pre style='white-space:pre-wrap;margin:0'>{text}</pre>{bar}"
