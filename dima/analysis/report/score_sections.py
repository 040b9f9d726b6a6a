"""Sections of a report that compare returns: curves, scores, aggregates, pairs, sample efficiency."""

from __future__ import annotations

import re

from dima.analysis.html.page import Page
from dima.analysis.report import plots
from dima.analysis.report.compare import Comparison
from dima.analysis.report.protocols import counted, heading
from dima.analysis.report.results import Efficiency, Results
from dima.analysis.report.statistics import CONFIDENCE, MIN_RESAMPLED, MIN_RUNS, Interval

INTERVAL = f"{CONFIDENCE:.0%} interval"
_FROM_TEN = f", with {INTERVAL} from {MIN_RESAMPLED} seeds of each task on"
_MAX_PLOTTED_PAIRS = 28  # of algorithms; the table has them all


def curves(page: Page, comparison: Comparison) -> None:
    """One plot per task, and as a file all of them side by side."""
    page.section(
        "Learning curves",
        f"Mean over seeds; thin lines are single seeds. Shaded: the range of {MIN_RUNS} seeds or more, "
        f"from {MIN_RESAMPLED} on the {INTERVAL} of the mean. The mean is pale where some seeds have no evaluations.",
    )
    for place, task in enumerate(comparison.compared_at):
        seeds = {name: sum(len(run.evaluated) > 0 for run in runs) for name, runs in comparison.groups[task].items()}
        shown = ", ".join(f"{name} ({counted(number, 'seed')})" for name, number in seeds.items())
        name = "-".join(["curve", str(place), *re.findall(r"[a-z0-9]+", task.lower())])
        page.figure(plots.learning_curve(comparison, task), name, f"Team return on {task}: {shown}.")
    if len(comparison.compared_at) > 1:
        page.file("curves", plots.learning_curves(comparison))


def scores(page: Page, comparison: Comparison, results: Results) -> None:
    """One table per task, and the runs that have no score."""
    page.section(
        "Scores",
        "Team return at equal environment steps: the most that at least half of the runs of every algorithm reached, "
        "unless others were requested. A run's score is the mean of its evaluations in the last tenth of these steps.",
    )
    for task in comparison.compared_at:
        names = sorted({name for row in results.scores if row.task == task for name in row.metrics})
        head = ("algorithm", "runs scored", "mean", f"{INTERVAL} (t)", "lowest", "highest", *names)
        rows = [
            (
                row.algorithm,
                f"{row.scored} of {row.runs}",
                row.mean,
                interval_text(row.interval),
                row.lowest,
                row.highest,
                *(f"{row.metrics[name]:.3g}" if name in row.metrics else "-" for name in names),
            )
            for row in results.scores
            if row.task == task
        ]
        page.table(head, rows, heading(comparison, task))
    unscored = [
        (task, name, run.seed, f"{run.steps:,} of {run.target:,}", run.outcome)
        for task in comparison.compared_at
        for name, group in comparison.groups[task].items()
        for run in group
        if run not in comparison.scored(task, name)
    ]
    if unscored:
        caption = "Not scored, because they were not evaluated up to these steps; failed runs bias the others' mean"
        page.table(("task", "algorithm", "seed", "steps", "outcome"), unscored, caption)


def distribution(page: Page, comparison: Comparison, results: Results) -> None:
    """Interquartile mean and performance profile over all tasks on which every algorithm was scored."""
    tasks = comparison.shared(*comparison.algorithms)
    if not tasks:
        page.section("Over tasks", "There is no task on which every algorithm was scored, so there is no aggregate.")
        return
    if max(row.scored for row in results.aggregates) < 2:
        return
    page.section("Over tasks" if len(tasks) > 1 else "Distribution of scores", _normalised(comparison, tasks))
    scales = [(task, comparison.scales[task]) for task in tasks]
    rows = [(task, scale.low, scale.high, scale.origin) for task, scale in scales]
    page.table(("task", "zero", "one", "origin"), rows, "Normalisation: team returns that count as zero and as one")
    profile = plots.profile_plot(comparison, tasks)
    caption = "Performance profile: share of runs that score above τ"
    if len(tasks) == 1:
        page.figure(profile, "performance-profile", f"{caption}.")
        return
    page.figure(
        plots.aggregate_plot(comparison, results.aggregates),
        "interquartile-mean",
        f"Interquartile mean of the normalised return over {len(tasks)} tasks{_FROM_TEN}.",
    )
    head = ("algorithm", "runs", "interquartile mean", f"{INTERVAL} (bootstrap)", "mean", f"{INTERVAL} (t)")
    shown = [
        (
            row.algorithm,
            row.scored,
            row.iqm,
            interval_text(row.iqm_interval),
            row.mean,
            interval_text(row.mean_interval),
        )
        for row in results.aggregates
    ]
    page.table(head, shown, "Normalised return over tasks")
    page.figure(
        plots.progress_curve(comparison, tasks),
        "interquartile-mean-over-steps",
        "Interquartile mean during training, over the share of the steps each task is compared at.",
    )
    page.figure(profile, "performance-profile", f"{caption}{_FROM_TEN}.")


def improvement(page: Page, comparison: Comparison, results: Results) -> None:
    """Every pair of algorithms."""
    if not results.improvements:
        return
    page.section(
        "Probability of improvement",
        "Probability that a run of one algorithm scores higher than a run of the other on the same task, averaged over "
        "the tasks on which both have two scored runs or more.",
    )
    if len(results.improvements) <= _MAX_PLOTTED_PAIRS:
        page.figure(
            plots.improvement_plot(comparison, results.improvements),
            "probability-of-improvement",
            f"Probability of improvement{_FROM_TEN}, exact where it is 1; the dashed line is 0.5.",
        )
    head = ("pair", "probability", INTERVAL, "runs", "tasks")
    rows = [
        (f"{r.first} over {r.second}", r.probability, _with_kind(r.interval), "{} and {}".format(*r.runs), r.tasks)
        for r in results.improvements
    ]
    with page.fold("Probability of improvement as numbers"):
        page.table(head, rows)


def efficiency(page: Page, comparison: Comparison, results: Results) -> None:
    """One table per task."""
    page.section(
        "Sample efficiency",
        "Environment steps until an evaluation first reached a score. Runs that never reached it count as infinite, so "
        "the median is missing unless more than half did. The normalised score is on the task's scale from zero to "
        "one.",
    )
    head = ("team return", "normalised", "algorithm", "reached by", "fastest", "median")
    for task in comparison.compared_at:
        rows = [_efficiency_row(row) for row in results.efficiencies if row.task == task]
        page.table(head, rows, f"{task}: environment steps to a score")


def _normalised(comparison: Comparison, tasks: list[str]) -> str:
    if len(tasks) == 1 == len(comparison.compared_at):
        return "Returns are normalised by the scale of the task."
    left = [task for task in comparison.compared_at if task not in tasks]
    without = f", so without {', '.join(left)}" if left else ""
    return f"Returns are normalised by the scale of each task, over tasks on which every algorithm was scored{without}."


def _efficiency_row(row: Efficiency) -> tuple[object, ...]:
    steps = (None if value is None else round(value) for value in (row.fastest, row.median))
    return row.score, f"{row.share:.0%}", row.algorithm, f"{row.reached} of {row.runs}", *steps


def interval_text(interval: Interval | None) -> str | None:
    """``486 to 1,101``; None if there is no interval."""
    return None if interval is None else f"{_number(interval.low)} to {_number(interval.high)}"


def _with_kind(interval: Interval | None) -> str | None:
    return None if interval is None else f"{interval_text(interval)} ({interval.kind})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
