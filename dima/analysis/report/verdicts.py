"""Verdicts of a report: who returns the most, by how much, and what speaks against the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dima.analysis.report.compare import Comparison
from dima.analysis.report.protocols import counted, notices
from dima.analysis.report.results import Results, Score
from dima.analysis.report.runs import Problem, Status
from dima.analysis.report.statistics import MIN_RUNS, difference_interval
from dima.runtime.verdicts import SMALLEST_SHARE, Verdict, ranked

_MAX_RIVALS = 6  # algorithms on a task, up to which the best is compared with each
_REASONS: dict[Status, str] = {
    "finished": "evaluated at other steps",
    "interrupted": "interrupted",
    "failed": "failed",
    "stopped": "killed, or still running",
    "empty": "no iteration finished",
}


def judge(comparison: Comparison, results: Results, problems: Sequence[Problem]) -> list[Verdict]:
    """Every verdict, the gravest first."""
    found = [*_lost_runs(comparison), *_differences(comparison, results), *_few_seeds(results)]
    found += [Verdict("warning", notice.rstrip(".")) for notice in notices(comparison)]
    if problems:
        found.append(Verdict("warning", f"{counted(len(problems), 'folder')} could not be included, listed below"))
    return ranked(found)


def result(comparison: Comparison, results: Results) -> str:
    """The result in a sentence: which algorithm returns the most, and by how much."""
    ranking = {task: rows for task in comparison.compared_at if (rows := _by_mean(results, task))}
    if not ranking:
        return "No run has been evaluated yet, so there is nothing to compare."
    if len(ranking) > 1:
        won: dict[str, list[str]] = {}
        for task, (best, *_) in ranking.items():
            won.setdefault(best.algorithm, []).append(task)
        most = sorted(won, key=lambda name: -len(won[name]))
        counts = [f"{name} on {len(won[name])} ({', '.join(won[name])})" for name in most]
        return f"Of {len(ranking)} tasks the highest mean return has {'; '.join(counts)}."
    ((task, (best, *others)),) = ranking.items()
    where = f"{task} after {comparison.compared_at[task]:,.0f} environment steps"
    mean = f"{_number(best.mean)}{_seeds(best)}"
    if not others:
        return f"{best.algorithm} returns {mean} on {where}."
    scale = comparison.scales[task]
    lead = lead_text(best, others[0], scale.low if scale.origin == "given" else None)
    return f"{best.algorithm} returns {mean} on {where}, {lead}."


def lead_text(better: Score, other: Score, zero: float | None) -> str:
    """How much more one algorithm returns than another.

    A ratio where it has a meaning: of returns above the given ``zero``, or of returns that are all well above 0.
    """
    for origin, above in ((0.0, ""), *([] if zero is None else [(zero, f", counted from {_number(zero)}")])):
        mine, theirs = better.mean - origin, other.mean - origin
        if other.lowest > origin and better.lowest > origin and theirs > SMALLEST_SHARE * mine:
            ratio = mine / theirs
            if ratio >= 1.1:
                return f"{ratio:.{0 if ratio >= 10 else 1}f} times {other.algorithm} ({_number(other.mean)}){above}"
    return f"{_number(better.mean - other.mean)} more than {other.algorithm} ({_number(other.mean)})"


def _differences(comparison: Comparison, results: Results) -> Iterator[Verdict]:
    """The best algorithm of each task beside the others; beside the next alone where that would be many."""
    several = len(comparison.compared_at) > 1
    for task in comparison.compared_at:
        rows = _by_mean(results, task)
        for other in rows[1:2] if several or len(rows) > _MAX_RIVALS else rows[1:]:
            pair, where = (rows[0].algorithm, other.algorithm), f" on {task}" * several
            found = difference_interval(*(comparison.scores(task, name) for name in pair))
            if found is None:
                continue
            difference = (
                f"the difference of {_number(rows[0].mean - other.mean)} has a 95% interval of "
                f"{_number(found.low)} to {_number(found.high)}"
            )
            if found.low > 0:
                yield Verdict("good", f"{pair[0]} returns more than {pair[1]}{where}: {difference}")
            else:
                yield Verdict("warning", f"{pair[0]} and {pair[1]} cannot be told apart{where}: {difference}")


def _lost_runs(comparison: Comparison) -> Iterator[Verdict]:
    """Runs without a score, which bias the mean of the others."""
    for task in comparison.compared_at:
        for name, group in comparison.groups[task].items():
            scored = comparison.scored(task, name)
            lost = [run for run in group if run not in scored]
            if lost:
                reasons = ", ".join(dict.fromkeys(_REASONS[run.status] for run in lost))
                yield Verdict(
                    "grave" if any(run.status == "failed" for run in lost) else "warning",
                    f"{len(lost)} of {counted(len(group), 'run')} of {name} on {task} have no score ({reasons}): "
                    "the mean is that of the others",
                )


def _few_seeds(results: Results) -> Iterator[Verdict]:
    few = [f"{row.algorithm} on {row.task}" for row in results.scores if row.scored < MIN_RUNS]
    if few:
        yield Verdict("warning", f"fewer than {MIN_RUNS} seeds say nothing about the variation: {', '.join(few)}")


def _by_mean(results: Results, task: str) -> list[Score]:
    return sorted((row for row in results.scores if row.task == task), key=lambda row: -row.mean)


def _seeds(score: Score) -> str:
    return "" if score.scored == 1 else f" (mean of {score.scored} seeds)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
