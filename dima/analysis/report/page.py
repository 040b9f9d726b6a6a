"""The page of a report: what a reader wants to know first comes first, with its conditions beside it."""

from __future__ import annotations

from collections.abc import Sequence

from dima.analysis.html.page import Page
from dima.analysis.report import run_sections, score_sections
from dima.analysis.report.compare import Comparison
from dima.analysis.report.protocols import notices
from dima.analysis.report.results import Results
from dima.analysis.report.runs import Problem
from dima.analysis.report.statistics import MIN_RUNS, RESAMPLES
from dima.analysis.report.wording import counted

_NAMED = 4  # algorithms that a sentence can list


def build_page(comparison: Comparison, results: Results, problems: Sequence[Problem]) -> Page:
    """A page with every plot, table and failure of a report; parts that would say nothing are left out."""
    page = Page(f"Report on {counted(len(comparison.runs), 'run')}", _lead(comparison))
    for told in notices(comparison):
        page.notice(told)
    if problems:
        page.notice(f"Not in this report, and listed below with the reason: {counted(len(problems), 'folder')}.")
    run_sections.variants(page, comparison)
    if comparison.at:
        score_sections.curves(page, comparison)
        score_sections.scores(page, comparison, results)
        score_sections.distribution(page, comparison, results)
        score_sections.improvement(page, comparison, results)
        score_sections.efficiency(page, comparison, results)
    else:
        page.text("No run has been evaluated yet, so there is nothing to compare.")
    run_sections.speed(page, comparison, results)
    run_sections.runs(page, comparison, problems)
    _method(page)
    return page


def _lead(comparison: Comparison) -> str:
    names, tasks = comparison.algorithms, comparison.tasks
    who = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if len(names) > _NAMED:
        who = counted(len(names), "algorithm")
    where = tasks[0] if len(tasks) == 1 else counted(len(tasks), "task")
    finished = sum(run.status == "finished" for run in comparison.runs)
    return f"{who} on {where}: {finished} of {counted(len(comparison.runs), 'run')} finished."


def _method(page: Page) -> None:
    page.section(
        "How this was computed",
        "Team return is the sum over steps of the mean over agents of the reward, played with the policy's mode in "
        "environments whose seeds training never uses.",
    )
    page.text(
        f"Intervals are percentiles of {RESAMPLES:,} stratified bootstrap samples: seeds are drawn anew within each "
        f"task. With fewer than {MIN_RUNS} seeds none is given, because resampling one or two says nothing about the "
        "spread; with few it is about their range. The interquartile mean leaves out the lowest and the highest "
        "quarter of all runs on all tasks. These definitions, the performance profile and the probability of "
        "improvement are those of Agarwal et al. 2021 (arXiv 2108.13264)."
    )
