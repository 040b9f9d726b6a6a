"""Compare run folders on a page and in a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dima.analysis.report.compare import Comparison, Reference, compare
from dima.analysis.report.page import build_page
from dima.analysis.report.protocols import commit, heading, mujoco
from dima.analysis.report.results import Results, summarise
from dima.analysis.report.runs import Problem, read_runs
from dima.analysis.report.verdicts import judge, result
from dima.config import read_yaml, user_path
from dima.errors import ConfigError, RunFolderError
from dima.runtime.summary import settings_line
from dima.runtime.verdicts import Verdict
from dima.storage.atomic import write_errors, write_text

PAGE, TABLE = "report.html", "report.csv"
_COLUMNS = (
    "task", "environment", "algorithm", "preset", "variant", "seed", "outcome", "mujoco", "commit", "folder",
    "environment_steps", "team_return", "metrics",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Results of a report, and its files.

    Attributes:
        page, table: the files.
        comparison: the runs, grouped.
        results: the numbers of every table.
        problems: folders that could not be included.
        verdicts: what the numbers mean, the gravest first.
    """

    page: Path
    table: Path
    comparison: Comparison
    results: Results
    problems: Sequence[Problem]
    verdicts: Sequence[Verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "result": result(self.comparison, self.results),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "page": str(self.page),
            "table": str(self.table),
            "tasks": self.comparison.tasks,
            "algorithms": list(self.comparison.algorithms),
            "compared_at": dict(self.comparison.compared_at),
            "scales": {task: asdict(scale) for task, scale in self.comparison.scales.items()},
            **asdict(self.results),
            "runs": [
                {"folder": str(run.path), "outcome": run.outcome, "mujoco": mujoco([run])}
                for run in self.comparison.runs
            ],
            "problems": [{"folder": str(problem.path), "reason": problem.reason} for problem in self.problems],
        }

    def summary(self) -> str:
        """Result, verdicts, scores per task and the files, as a few lines of text."""
        lines = [result(self.comparison, self.results), *map(str, self.verdicts), ""]
        for task in self.comparison.compared_at:
            lines.append(heading(self.comparison, task))
            for row in self.results.scores:
                if row.task == task:
                    interval = f"  ({row.interval.low:,.1f} to {row.interval.high:,.1f})" if row.interval else ""
                    own = "".join(f", {name} {value:.3g}" for name, value in row.metrics.items())
                    lines.append(
                        f"  {row.algorithm:<24} {row.mean:>12,.1f}{interval}  {row.scored} of {row.runs} runs{own}"
                    )
            lines.append("")
        return "\n".join([*lines, f"page: {self.page}", f"table: {self.table}"])


def report(
    runs: Sequence[str | Path] | str | Path,
    out: str | Path = "report",
    *,
    scores: Sequence[float] = (),
    at: int | None = None,
    reference: Reference | str | Path | None = None,
    plots: bool = False,
) -> Report:
    """Compare runs on a page, ``report.html``, and in a table of every evaluation, ``report.csv``.

    Args:
        runs: run folders, or folders that contain some at any depth; checkpoint and replay are not needed. Missing and
            damaged folders are listed in the report.
        out: folder of the two files, created when missing; an earlier report in it is replaced.
        scores: team returns for the sample-efficiency table; default: 50, 75 and 90 % of each task's scale.
        at: environment steps to compare at; default: the most that half of every algorithm's runs reached, by task.
        reference: team returns that count as 0 and 1, by task, such as those of a random and of a good policy, or a
            YAML file of them; default: the lowest and the highest evaluation in the report.
        plots: also write every plot to ``plots/`` as SVG and PNG.

    Raises:
        RunFolderError: no run could be read, or ``out`` cannot be written.
        ConfigError: no run has evaluations around ``at``; the reference is no file, or not pairs [lower, higher].
    """
    reference = _checked(reference)
    found, problems = read_runs([runs] if isinstance(runs, str | Path) else runs)
    if not found:
        reasons = [f"{problem.path} {problem.reason}" for problem in problems]
        raise RunFolderError("; ".join(reasons) or "no run folder was given: write `dima report RUN...`")
    comparison, duplicates = compare(found, reference, at)
    problems += duplicates
    results = summarise(comparison, scores)
    folder = user_path(out)
    page, table = folder / PAGE, folder / TABLE
    verdicts = judge(comparison, results, problems)
    build_page(comparison, results, problems, verdicts).save(page, plots=plots)
    with write_errors(table, "choose another --out"):
        write_text(table, _csv(comparison))
    return Report(page, table, comparison, results, problems, verdicts)


def _csv(comparison: Comparison) -> str:
    """One row per evaluation; a run without evaluations has one row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for named in comparison.groups.values():
        for variant, group in named.items():
            for run in group:
                choices = (run.task, settings_line(run.env), run.algorithm, run.preset, variant, run.seed)
                facts = (*choices, run.outcome, mujoco([run]), commit(run), run.path)
                own = [
                    "; ".join(f"{name} {values[place]:.6g}" for name, values in run.metrics.items())
                    for place in range(len(run.evaluated))
                ]
                evaluations = list(zip(run.evaluated.astype(int), run.returns, own, strict=True)) or [("", "", "")]
                writer.writerows((*facts, *evaluation) for evaluation in evaluations)
    return text.getvalue()


def _checked(reference: Reference | str | Path | None) -> Reference:
    if isinstance(reference, str | Path):
        if not user_path(reference).is_file():
            raise ConfigError(
                f"reference = {reference} is not a file: give YAML with a line task: [low, high] for each"
            )
        reference = read_yaml(user_path(reference))
    for task, pair in (reference or {}).items():
        numbers = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(v, int | float) for v in pair)
        if not numbers or not pair[0] < pair[1]:
            raise ConfigError(f"reference of {task} = {pair!r} does not fit: expected [lower, higher] team return")
    return reference or {}
