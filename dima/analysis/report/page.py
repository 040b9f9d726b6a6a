"""Page of a report: result, verdicts, comparison of returns, time, runs, protocol and method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dima.analysis.html.page import Page
from dima.analysis.report import score_sections
from dima.analysis.report.compare import Comparison, varied_settings
from dima.analysis.report.protocols import commit, counted, machine, mujoco, protocol_line
from dima.analysis.report.results import Results, Speed
from dima.analysis.report.runs import Problem, Run
from dima.analysis.report.statistics import MIN_RESAMPLED, MIN_RUNS, RESAMPLES
from dima.analysis.report.verdicts import result
from dima.runtime.progress import duration
from dima.runtime.verdicts import Verdict

_MAX_NAMES = 4  # of algorithms in a sentence


def build_page(
    comparison: Comparison, results: Results, problems: Sequence[Problem], verdicts: Sequence[Verdict]
) -> Page:
    """The page with every plot, table and failed run; empty sections are left out."""
    page = Page(_title(comparison), result(comparison, results), verdicts)
    _variants(page, comparison)
    if comparison.compared_at:
        score_sections.curves(page, comparison)
        score_sections.scores(page, comparison, results)
        score_sections.distribution(page, comparison, results)
        score_sections.improvement(page, comparison, results)
        score_sections.efficiency(page, comparison, results)
    _speed(page, comparison, results)
    _runs(page, comparison, problems)
    _method(page, comparison)
    return page


def _title(comparison: Comparison) -> str:
    names, tasks = comparison.algorithms, comparison.tasks
    algorithms = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if len(names) > _MAX_NAMES:
        algorithms = counted(len(names), "algorithm")
    return f"{algorithms} on {tasks[0] if len(tasks) == 1 else counted(len(tasks), 'task')}"


def _speed(page: Page, comparison: Comparison, results: Results) -> None:
    """Wall-clock time, and updates per second in each phase."""
    if not results.speeds:
        return
    page.section(
        "Time",
        "Wall-clock time of finished iterations, summed over seeds. Runs that share a machine slow each other down.",
    )
    head = ("task", "algorithm", "runs", "time per run", "steps per run", "steps per second")
    rows = [
        (r.task, r.algorithm, r.runs, duration(r.seconds / r.runs), round(r.steps / r.runs), r.steps_per_second)
        for r in results.speeds
    ]
    _by_task(page, comparison, head, rows, f"Machine: {machine(comparison.runs)}.")
    phases = [row for speed in results.speeds for row in _phase_rows(speed)]
    if phases:
        with page.fold("Time by phase"):
            page.text("An update is a gradient step of a part of a world model, or a policy update on one batch.")
            head = ("task", "algorithm", "phase", "share of time", "updates", "updates per second")
            _by_task(page, comparison, head, phases)
    if not all(row.phases for row in results.speeds):
        page.small("Runs without phases were recorded by a version that did not log them.")


def _by_task(
    page: Page, comparison: Comparison, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = ""
) -> None:
    """A table whose first column is the task; without it where there is one task."""
    first = 1 if len(comparison.tasks) == 1 else 0
    page.table(head[first:], [row[first:] for row in rows], note=note)


def _variants(page: Page, comparison: Comparison) -> None:
    """Settings in which variants of an algorithm differ."""
    firsts = [(task, name, group[0]) for task, named in comparison.groups.items() for name, group in named.items()]
    tasks, runs = [task for task, _, _ in firsts], [run for _, _, run in firsts]
    families: dict[tuple[str, str], dict[str, Run]] = {}
    for _, name, run in firsts:
        families.setdefault((run.algorithm, run.preset), {}).setdefault(name, run)
    for (algorithm, preset), members in families.items():
        fields = varied_settings(next(iter(members.values())), runs, tasks)
        if fields:
            page.section(
                f"Variants of {algorithm}-{preset}",
                f"Runs of {algorithm} with the preset {preset} that differ in these settings are not averaged.",
            )
            rows = [[field, *(_setting(run, field) for run in members.values())] for field in fields]
            page.table(("setting", *members), rows)


def _runs(page: Page, comparison: Comparison, problems: Sequence[Problem]) -> None:
    """Every run, and every folder that could not be read."""
    finished = sum(run.status == "finished" for run in comparison.runs)
    page.section("Runs", f"{finished} of {counted(len(comparison.runs), 'run')} finished.")
    parent = _common_parent([run.path for run in comparison.runs])
    simulated = bool(mujoco(comparison.runs))
    version = ["MuJoCo"] if simulated else []
    head = ("task", "algorithm", "seed", "steps", "last return", *version, "outcome", "commit", "folder")
    rows = [
        (
            task,
            name,
            run.seed,
            _steps_text(run),
            _last_return(run),
            *([mujoco([run])] if simulated else []),
            run.outcome,
            commit(run),
            _relative(run.path, parent),
        )
        for task, named in comparison.groups.items()
        for name, group in named.items()
        for run in group
    ]
    if problems:
        excluded = [(_relative(one.path, parent), _brief(one.reason, parent)) for one in problems]
        page.table(("folder", "reason"), excluded, "Not in this report")
    with page.fold("Every run in this report"):
        _by_task(page, comparison, head, rows)


def _method(page: Page, comparison: Comparison) -> None:
    page.section(
        "Protocol and method",
        "Team return is the sum over steps of the mean reward over agents, evaluated with the policy's mode on seeds "
        "that training never uses.",
    )
    page.small(protocol_line(comparison, comparison.tasks))
    page.text(
        f"Intervals of a mean, and of a difference of means (Welch), are Student's t, from {MIN_RUNS} seeds on: they "
        "cover about 95% of normal scores however few the seeds, and are wide for it. They are not widened for the "
        f"number of comparisons. All others are {RESAMPLES:,} stratified bootstrap samples, from "
        f"{MIN_RESAMPLED} seeds of each task on, with the tails moved out as far as so few seeds ask for (Hesterberg "
        "2015); below, none is given. A probability of improvement of 1 has an exact interval."
    )
    page.text(
        "The interquartile mean leaves out the lowest and the highest quarter of all runs on all tasks. It, the "
        "performance profile and the probability of improvement are those of Agarwal et al. 2021 (arXiv 2108.13264)."
    )


def _phase_rows(row: Speed) -> list[tuple[object, ...]]:
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
    return str(run.settings[field]) if field in run.settings else "missing"


def _steps_text(run: Run) -> str:
    return f"{run.steps:,}" if run.steps >= run.target else f"{run.steps:,} of {run.target:,}"


def _common_parent(paths: Sequence[Path]) -> Path:
    """Longest common parent; empty where some paths are absolute and some are not."""
    shared = [set(path.parents) for path in paths]
    return max(set.intersection(*shared), key=lambda parent: len(parent.parts), default=Path())


def _relative(path: Path, parent: Path) -> Path:
    """Below the common parent; of a folder elsewhere the last two parts, for a page names nobody's home."""
    if path.is_relative_to(parent) and parent != Path(path.anchor):
        return path.relative_to(parent)
    return Path(*path.parts[-2:]) if path.is_absolute() else path


def _brief(reason: str, parent: Path) -> str:
    """A reason without absolute folders."""
    return re.sub(r"(?<!\S)/\S+", lambda found: str(_relative(Path(found[0]), parent)), reason)


def _last_return(run: Run) -> float | None:
    return float(run.returns[-1]) if len(run.returns) else None
