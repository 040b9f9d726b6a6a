"""The sections of a report that compare returns: curves, scores, aggregates over tasks, pairs, steps to a score."""

from __future__ import annotations

import re

from dima.analysis.html.page import Page
from dima.analysis.report import plots
from dima.analysis.report.compare import Comparison
from dima.analysis.report.protocols import heading, protocol_line
from dima.analysis.report.results import Efficiency, Results
from dima.analysis.report.statistics import MIN_RUNS
from dima.analysis.report.wording import INTERVAL, counted, from_to

_PAIRS = 28  # of algorithms that a plot can show; the table shows them all


def curves(page: Page, comparison: Comparison) -> None:
    """One plot per task."""
    page.section(
        "Learning curves",
        f"Mean over seeds, with a {INTERVAL} of the mean where {MIN_RUNS} seeds or more were evaluated; thin lines are "
        "the seeds. Where the mean is faint, some seeds are not there yet or no more.",
    )
    for place, task in enumerate(comparison.at):
        seeds = {name: sum(len(run.evaluated) > 0 for run in runs) for name, runs in comparison.groups[task].items()}
        told = ", ".join(f"{name} ({counted(number, 'seed')})" for name, number in seeds.items())
        name = f"curve-{place}-{'-'.join(re.findall(r'[a-z0-9]+', task.lower()))}"
        page.figure(plots.learning_curve(comparison, task), name, f"Team return on {task}: {told}.")
    page.small(protocol_line(comparison, list(comparison.at)))


def scores(page: Page, comparison: Comparison, results: Results) -> None:
    """One table per task, and the runs that are in none."""
    page.section(
        "Scores",
        "Team return at equal environment steps: as far as at least half of the runs of every algorithm got, unless "
        "other steps were asked for. A run's score is the mean of its evaluations in the last tenth of them.",
    )
    head = ("algorithm", "runs scored", "mean", INTERVAL, "lowest", "highest")
    for task in comparison.at:
        rows = [
            (row.algorithm, f"{row.scored} of {row.runs}", row.mean, from_to(row.interval), row.lowest, row.highest)
            for row in results.scores
            if row.task == task
        ]
        page.table(head, rows, heading(comparison, task), protocol_line(comparison, [task]))
    late = [
        (task, name, run.seed, f"{run.steps:,} of {run.target:,}", run.outcome)
        for task in comparison.at
        for name, group in comparison.groups[task].items()
        for run in group
        if run not in comparison.scored(task, name)
    ]
    if late:
        told = "Not scored, because they were not evaluated up to there; if they failed, their algorithm looks too good"
        page.table(("task", "algorithm", "seed", "steps", "outcome"), late, told)


def distribution(page: Page, comparison: Comparison, results: Results) -> None:
    """Over all tasks that every algorithm was scored on: interquartile mean and performance profile."""
    tasks = comparison.shared(*comparison.algorithms)
    if not tasks:
        page.section("Over tasks", "No task was scored with every algorithm: there is nothing to aggregate over.")
        return
    if max(row.scored for row in results.aggregates) < 2:
        return
    protocol = protocol_line(comparison, tasks)
    page.section("Over tasks" if len(tasks) > 1 else "Distribution of scores", _normalised(comparison, tasks))
    scales = [(task, comparison.scales[task]) for task in tasks]
    rows = [(task, scale.low, scale.high, scale.origin) for task, scale in scales]
    page.table(("task", "zero", "one", "where from"), rows, "The team returns that count as zero and as one")
    profile = plots.profile_plot(comparison, tasks)
    told = "Performance profile: the share of runs that score above τ"
    if len(tasks) == 1:
        page.figure(profile, "performance-profile", f"{told}.")
        page.small(protocol)
        return
    page.figure(
        plots.aggregate_plot(comparison, results.aggregates),
        "interquartile-mean",
        f"Interquartile mean of the normalised return over {len(tasks)} tasks, with {INTERVAL}.",
    )
    head = ("algorithm", "runs", "interquartile mean", INTERVAL, "mean")
    shown = [(row.algorithm, row.scored, row.iqm, from_to(row.interval), row.mean) for row in results.aggregates]
    page.table(head, shown, "Normalised return over tasks", protocol)
    page.figure(
        plots.progress_curve(comparison, tasks),
        "interquartile-mean-over-steps",
        "Interquartile mean while the runs learn, over the share of each task's compared steps.",
    )
    page.figure(profile, "performance-profile", f"{told}, with {INTERVAL} from {MIN_RUNS} seeds on.")


def improvement(page: Page, comparison: Comparison, results: Results) -> None:
    """Every pair of algorithms."""
    if not results.improvements:
        return
    page.section(
        "Probability of improvement",
        "How likely a run of one algorithm scores higher than a run of the other on the same task, averaged over the "
        "tasks on which both have two scored runs or more.",
    )
    if len(results.improvements) <= _PAIRS:
        page.figure(
            plots.improvement_plot(results.improvements),
            "probability-of-improvement",
            f"Probability of improvement with {INTERVAL} from {MIN_RUNS} seeds on; the broken line is an even chance.",
        )
    head = ("pair", "probability", INTERVAL, "runs", "tasks")
    rows = [
        (f"{r.first} over {r.second}", r.chance, from_to(r.interval), "{} and {}".format(*r.runs), r.tasks)
        for r in results.improvements
    ]
    page.table(head, rows, "Probability of improvement", protocol_line(comparison, list(comparison.at)))


def efficiency(page: Page, comparison: Comparison, results: Results) -> None:
    """One table per task."""
    page.section(
        "Sample efficiency",
        "Environment steps until an evaluation first returned a score. The median counts runs that did not get there "
        "as infinitely slow, so it is missing unless more than half did. The scale is that of the task's returns, from "
        "zero to one.",
    )
    head = ("team return", "scale", "algorithm", "reached by", "fastest", "median")
    for task in comparison.at:
        rows = [_efficiency_row(row) for row in results.efficiencies if row.task == task]
        page.table(head, rows, f"{task}: environment steps to a score", protocol_line(comparison, [task]))


def _normalised(comparison: Comparison, tasks: list[str]) -> str:
    if len(tasks) == 1 == len(comparison.at):
        return "Returns are normalised by the scale of the task."
    left = [task for task in comparison.at if task not in tasks]
    without = f", so without {', '.join(left)}" if left else ""
    return f"Returns are normalised by the scale of each task. Tasks count that every algorithm was scored on{without}."


def _efficiency_row(row: Efficiency) -> tuple[object, ...]:
    whole = (None if value is None else round(value) for value in (row.fastest, row.median))
    return row.score, f"{row.share:.0%}", row.algorithm, f"{row.reached} of {row.runs}", *whole
