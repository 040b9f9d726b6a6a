"""A run as Python sees it: its outcome, its settings and its metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from dima.config import user_path
from dima.errors import RunFolderError
from dima.runtime.cards import card
from dima.runtime.provenance import simulator_line
from dima.runtime.summary import Summary
from dima.storage.metrics import Metrics
from dima.storage.run_folder import RunFolder
from dima.storage.table import MetricsTable


@dataclass(frozen=True, repr=False)
class Run(Summary):
    """A run: what :func:`dima.train` returns and :func:`dima.open_run` opens.

    It stands for its folder wherever one is expected: ``dima.load(run)``, ``dima.imagine(run)``, ``dima.resume(run)``.
    """

    @classmethod
    def of(cls, summary: Summary) -> Run:
        """The run of a summary."""
        return cls(**vars(summary))

    def metrics(self) -> MetricsTable:
        """All that the run has logged, a row for each iteration.

        Raises:
            RunFolderError: its folder is gone or damaged.
        """
        with RunFolder.open(self.folder) as folder:
            return MetricsTable(folder.records())

    def settings(self) -> dict[str, Any]:
        """The run's ``config.yaml``, as plain data; errors as :meth:`metrics`."""
        with RunFolder.open(self.folder) as folder:
            return folder.config()

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        score = f", {self.measure} {self.evaluations[-1][1]:,.{self.digits}f}" if self.evaluations else ""
        state = "" if self.finished else ", unfinished"
        return f"<Run of {self.algorithm} on {self.task}: {self.steps:,} {self.unit}{score}{state}, {self.folder}>"

    def _repr_html_(self) -> str:
        state = [] if self.finished else ["interrupted, or still running"]
        lines = [*map(str, self.verdicts), *([f"stopped by {self.stopped}"] if self.stopped else []), *state]
        lines += [self.conditions, f"run folder: {self.folder}"]
        title = f"{self.algorithm} on {self.task}: {self.steps:,} {self.unit}"
        return card(title, [line for line in lines if line], self.evaluations, self.unit)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder to look at it; nothing in it is imported, built or changed.

    Args:
        path: the folder, of a finished run or one in progress.

    Raises:
        UserError: the folder is missing, damaged or not a run's.
    """
    path = user_path(os.fspath(path))
    with RunFolder.open(path) as folder:
        config, records, protocol = folder.config(), folder.records(), folder.protocol()
    offline = "dataset" in config
    target = config.get("iterations" if offline else "steps")
    if not (isinstance(target, int) and all(isinstance(config.get(name), str) for name in ("task", "algorithm"))):
        raise RunFolderError(f"{path}: config.yaml names no task, algorithm and length: it is damaged")
    rows = [record for record in records if isinstance(record.get("step"), int)]
    last: Metrics = records[-1] if records else {}
    steps = rows[-1]["step"] if rows else 0
    stopped = str(last.get("reason", "")) if last.get("event") == "stopped" else ""
    column, fitting = _measure(config, rows) if offline else ("evaluate/return", {})
    return Run(
        task=config["task"],
        algorithm=config["algorithm"],
        folder=path,
        steps=steps,
        evaluations=[(row["step"], row[column]) for row in rows if isinstance(row.get(column), float)],
        seconds=_seconds(rows),
        wall=sum(row["time/iteration"] for row in rows if isinstance(row.get("time/iteration"), float)),
        env=config["env"] if isinstance(config.get("env"), dict) else {},
        simulator=simulator_line(config["task"], protocol),
        finished=steps >= target or bool(stopped),
        stopped=stopped,
        **fitting,
    )


def _measure(config: dict[str, Any], rows: list[Metrics]) -> tuple[str, dict[str, Any]]:
    """The column of the scores of a run of `dima fit`, and how its summary calls them."""
    horizon = config.get("evaluation_horizon")
    columns = [f"held_out/{told}_{horizon}" for told in ("state", "obs")]
    column = next((name for name in columns if any(name in row for row in rows)), columns[0])
    measure = f"{'observation ' if column == columns[1] else ''}error after {horizon} steps"
    return column, {"unit": "iterations", "measure": measure, "digits": 3, "lower_is_better": True}


def _seconds(rows: list[Metrics]) -> dict[str, float]:
    """Wall seconds of each phase, the longest first."""
    totals: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            kind, _, phase = name.partition("/")
            if kind == "time" and phase != "iteration" and isinstance(value, float):
                totals[phase.replace("_", " ")] = totals.get(phase.replace("_", " "), 0.0) + value
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))
