"""Progress in a notebook, and results as HTML."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dima.runtime import notebook
from dima.runtime.cards import card
from dima.runtime.notebook import Notebook, in_notebook
from dima.training import api


class Handle:
    """What IPython's ``display`` returns."""

    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def update(self, content: str) -> None:
        self.shown[-1] = content


@pytest.fixture
def displayed(monkeypatch) -> list[str]:
    """The outputs of a cell; each may be updated."""
    shown: list[str] = []

    def display(content: str, display_id: bool) -> Handle:
        assert display_id
        shown.append(content)
        return Handle(shown)

    output = SimpleNamespace(HTML=str, display=display)
    monkeypatch.setattr(notebook, "import_module", lambda name: output)
    monkeypatch.setattr(notebook, "_REDRAW_SECONDS", 0.0)
    return shown


def test_one_output_is_updated(displayed: list[str]) -> None:
    progress = Notebook()
    progress.message("a <task>")
    progress.start(0, 30)
    for step in (10, 20):
        with progress.phase("collect", total=2) as advance:
            advance()
            assert "<progress" in displayed[0] and "collect 1 of 2" in displayed[0]
            with progress.phase("inner"):
                advance()
            assert "collect 2 of 2" in displayed[0]
        progress.iteration(step, 30, team_return=float(step))
    assert len(displayed) == 1
    assert "a &lt;task&gt;" in displayed[0] and "step 20 of 30  team return 20" in displayed[0]
    progress.warn("mind the gap")
    progress.iteration(30, 30)
    assert "mind the gap" in displayed[0] and "<progress" not in displayed[0]  # the run is over
    assert progress.seconds["collect"] >= progress.seconds["inner"] >= 0


def test_a_run_that_ends_early_leaves_no_bar(displayed: list[str], monkeypatch) -> None:
    progress = Notebook()
    progress.start(0, 30)
    progress.iteration(10, 30)
    monkeypatch.setattr(notebook, "_REDRAW_SECONDS", 1e9)
    progress.iteration(20, 30)  # too soon to be drawn
    assert "step 10 of 30" in displayed[0] and "step 20 of 30" not in displayed[0]
    progress.close()
    assert "step 20 of 30" in displayed[0] and "<progress" not in displayed[0]


def test_only_the_newest_iterations_are_shown(displayed: list[str]) -> None:
    progress = Notebook()
    progress.start(0, 100)
    for step in range(1, 21):
        progress.iteration(step, 100)
    assert "step 20 of 100" in displayed[0] and "step 15 of 100" in displayed[0]
    assert "step 14 of 100" not in displayed[0]


@pytest.mark.parametrize(
    ("shell", "expected"), [(SimpleNamespace(kernel=1), True), (SimpleNamespace(), False), (None, False)]
)
def test_a_kernel_is_recognised(monkeypatch, shell: Any, expected: bool) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() == expected
    for quiet in (True, False):
        with api._displayed(True, quiet) as display:
            assert isinstance(display, Notebook) == (expected and not quiet)
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_a_card_escapes_what_it_shows() -> None:
    shown = card("<i>", ["<script>"], [(0, 1.0), (10, -3.0), (20, 5.0)], "steps '")
    assert "<script>" not in shown and "&lt;i&gt;" in shown and "steps '" not in shown
    assert "points='6.0,60.0 210.0,114.0 414.0,6.0'" in shown
    assert "<svg" not in card("one point", [], [(0, 1.0)])
    assert "points='6.0,114.0 414.0,114.0'" in card("flat", [], [(0, 1.0), (1, 1.0)])
