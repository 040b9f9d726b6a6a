"""Small words and numbers of a report."""

from __future__ import annotations

from dima.analysis.report.results import Interval
from dima.analysis.report.statistics import LEVEL

INTERVAL = f"{LEVEL:.0%} interval"


def counted(n: int, thing: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def from_to(interval: Interval) -> str | None:
    """``486 to 1,101``; None where there is no interval."""
    return None if interval is None else f"{_number(interval[0])} to {_number(interval[1])}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
