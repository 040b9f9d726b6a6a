"""The sections of a report about the runs themselves: how long they took, what they differ in, which ones they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dima.analysis.html.page import Page
from dima.analysis.report.compare import Comparison
from dima.analysis.report.naming import varied
from dima.analysis.report.protocols import commit, machine, mujoco, protocol_line
from dima.analysis.report.results import Results, Speed
from dima.analysis.report.runs import Problem, Run
from dima.runtime.progress import duration


def speed(page: Page, comparison: Comparison, results: Results) -> None:
    """Wall-clock time, and updates per second of every phase."""
    if not results.speeds:
        return
    page.section(
        "Time",
        "Wall-clock time of finished iterations, summed over seeds. Runs that share a machine slow each other down.",
    )
    protocol = f"Machine: {machine(comparison.runs)}. {protocol_line(comparison, comparison.tasks)}"
    head = ("task", "algorithm", "runs", "time a run", "steps a run", "steps a second")
    rows = [
        (r.task, r.algorithm, r.runs, duration(r.seconds / r.runs), round(r.steps / r.runs), r.steps_per_second)
        for r in results.speeds
    ]
    page.table(head, rows, "Wall-clock time and environment steps", protocol)
    phases = [row for speed in results.speeds for row in _phases(speed)]
    if phases:
        head = ("task", "algorithm", "phase", "share of time", "updates", "updates a second")
        told = "an update is a gradient step of a part of a world model, or a policy update on one batch of experience"
        page.table(head, phases, f"Time by phase: {told}", protocol)
    if not all(row.phases for row in results.speeds):
        page.text("Runs that are not listed by phase were recorded by a version that did not log phases and updates.")


def variants(page: Page, comparison: Comparison) -> None:
    """The settings that keep variants of one algorithm apart."""
    firsts = [(task, name, group[0]) for task, named in comparison.groups.items() for name, group in named.items()]
    tasks, runs = [task for task, _, _ in firsts], [run for _, _, run in firsts]
    families: dict[tuple[str, str], dict[str, Run]] = {}
    for _, name, run in firsts:
        families.setdefault((run.algorithm, run.preset), {}).setdefault(name, run)
    for (algorithm, preset), members in families.items():
        fields = varied(next(iter(members.values())), runs, tasks)
        if fields:
            page.section(
                f"Variants of {algorithm}-{preset}",
                f"Runs of {algorithm} with the preset {preset} that differ in these settings are kept apart.",
            )
            rows = [[field, *(_setting(run, field) for run in members.values())] for field in fields]
            page.table(("setting", *members), rows)


def runs(page: Page, comparison: Comparison, problems: Sequence[Problem]) -> None:
    """Every run, and every folder that is not among them."""
    page.section("Runs")
    below = _common_parent([run.path for run in comparison.runs])
    shown = bool(mujoco(comparison.runs))
    head = ("task", "algorithm", "seed", "steps", "last return", *(["MuJoCo"] * shown), "outcome", "commit", "folder")
    rows = [
        (
            *(task, name, run.seed, _got_to(run), _last_return(run), *([mujoco([run])] * shown)),
            *(run.outcome, commit(run), _below(run.path, below)),
        )
        for task, named in comparison.groups.items()
        for name, group in named.items()
        for run in group
    ]
    page.table(head, rows, "Every run in this report")
    if problems:
        page.table(("folder", "why"), [(one.path, one.why) for one in problems], "Not in this report")


def _phases(row: Speed) -> list[tuple[object, ...]]:
    total = sum(phase.seconds for phase in row.phases.values())
    return [
        (
            row.task,
            row.algorithm,
            name,
            f"{phase.seconds / total:.0%}",
            phase.updates or None,
            phase.updates / phase.seconds if phase.updates else None,
        )
        for name, phase in row.phases.items()
    ]


def _setting(run: Run, field: str) -> str:
    return str(run.settings[field]) if field in run.settings else "not there"


def _got_to(run: Run) -> str:
    return f"{run.steps:,}" if run.steps >= run.target else f"{run.steps:,} of {run.target:,}"


def _common_parent(paths: Sequence[Path]) -> Path:
    """What the paths need not repeat; never a whole path, and nothing where some are absolute and some are not."""
    shared = [set(path.parents) for path in paths]
    return max(set.intersection(*shared), key=lambda parent: len(parent.parts), default=Path())


def _below(path: Path, parent: Path) -> Path:
    return path.relative_to(parent) if path.is_relative_to(parent) else path


def _last_return(run: Run) -> float | None:
    return float(run.returns[-1]) if len(run.returns) else None
