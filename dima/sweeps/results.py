"""What became of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dima.analysis.report.build import Report
from dima.sweeps.search import Best

Ending = Literal["finished", "interrupted", "pruned", "failed", "invalid"]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        name: path of its folder below the sweep's.
        folder: of the run.
        status: ``finished``; ``interrupted`` and saved; ``pruned`` by a search; ``failed``, as by a crash; ``invalid``,
            for a reason that is the user's to mend, such as a task that an algorithm cannot learn.
        error: why, in one line.
        earlier: whether an earlier call finished it.
    """

    name: str
    folder: Path
    status: Ending
    error: str = ""
    earlier: bool = False


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep.

    Attributes:
        out: its folder.
        runs: outcome of every run that began, or was finished already.
        total: runs of the whole sweep.
        best: the best trial of each search, by the point's name.
        report: over all runs; None if none has anything to report.
        interrupted: whether it was stopped before all was done.
    """

    out: Path
    runs: Sequence[RunOutcome]
    total: int
    best: Mapping[str, Best]
    report: Report | None
    interrupted: bool = False

    @property
    def failures(self) -> list[RunOutcome]:
        """Runs that ended with an error."""
        return [run for run in self.runs if run.status in ("failed", "invalid")]

    @property
    def status(self) -> int:
        """Exit status: 130 interrupted, 2 if every failure is the user's to mend, 1 after any other, else 0."""
        if self.interrupted:
            return 130
        if self.failures:
            return 2 if all(run.status == "invalid" for run in self.failures) else 1
        return 0

    def summary(self) -> str:
        """The report's result, or the best trials of a search, as a few lines of text."""
        lines = []
        if self.report is not None:  # with a search it compares settings, too many to print
            lines = [f"page: {self.report.page}"] if self.best else self.report.summary().splitlines()
            lines.append("")
        for point, best in self.best.items():
            settings = ", ".join(f"{name} = {_shown(value)}" for name, value in best.settings.items())
            lines.append(f"best of {point}: {best.value:,.1f} with {settings} (trial {best.number}: {best.runs[0]})")
        done = sum(run.status == "finished" for run in self.runs)
        pruned = sum(run.status == "pruned" for run in self.runs)
        also = f", {pruned} stopped early" if pruned else ""
        lines.append(f"{done} of {self.total} runs finished{also}: {self.out}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "out": str(self.out),
            "runs": [asdict(run) | {"folder": str(run.folder)} for run in self.runs],
            "total": self.total,
            "best": {point: asdict(best) for point, best in self.best.items()},
            "report": self.report.to_dict() if self.report else None,
        }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
