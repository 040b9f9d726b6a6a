"""Numbers of a report: one record for each row of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dima.analysis.report.compare import Comparison
from dima.analysis.report.runs import Phase, Run
from dima.analysis.report.statistics import (
    Interval,
    improvement_interval,
    interquartile_mean,
    mean,
    mean_interval,
    probability_of_improvement,
    resampled_interval,
    steps_to_reach,
)

SHARES = (0.5, 0.75, 0.9)
"""Default levels of the sample-efficiency table, as shares of a task's scale."""


@dataclass(frozen=True)
class Score:
    """Team returns of an algorithm's scored runs on a task."""

    task: str
    algorithm: str
    scored: int
    runs: int
    mean: float
    interval: Interval | None  # of the mean
    lowest: float
    highest: float
    metrics: dict[str, float]  # means of the environment's own, such as success, at the same steps


@dataclass(frozen=True)
class Aggregate:
    """Normalised returns of an algorithm over the tasks that all algorithms have in common."""

    algorithm: str
    scored: int
    iqm: float
    iqm_interval: Interval | None
    mean: float
    mean_interval: Interval | None


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of ``first`` scores higher than one of ``second`` on the same task."""

    first: str
    second: str
    tasks: int
    runs: tuple[int, int]
    probability: float
    interval: Interval | None


@dataclass(frozen=True)
class Efficiency:
    """Environment steps of an algorithm to a team return; ``median`` is None unless most runs reached it."""

    task: str
    algorithm: str
    score: float
    share: float
    reached: int
    runs: int
    fastest: float | None
    median: float | None


@dataclass(frozen=True)
class Speed:
    """Wall-clock time of an algorithm's runs on a task, summed over them."""

    task: str
    algorithm: str
    runs: int
    seconds: float
    steps: int
    phases: dict[str, Phase]

    @property
    def steps_per_second(self) -> float | None:
        return self.steps / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Results:
    """Rows of every table."""

    scores: list[Score]
    aggregates: list[Aggregate]
    improvements: list[Improvement]
    efficiencies: list[Efficiency]
    speeds: list[Speed]


def summarise(comparison: Comparison, scores: Sequence[float] = ()) -> Results:
    """Compute the rows of every table; ``scores`` are team returns for the sample-efficiency table."""
    return Results(
        scores=score_rows(comparison),
        aggregates=aggregate_rows(comparison),
        improvements=improvement_rows(comparison),
        efficiencies=efficiency_rows(comparison, scores),
        speeds=speed_rows(comparison),
    )


def score_rows(comparison: Comparison) -> list[Score]:
    rows = []
    for task in comparison.tasks:
        for algorithm, runs in comparison.groups[task].items():
            scores = comparison.scores(task, algorithm)
            if len(scores):
                interval = mean_interval([scores])
                low, high = float(scores.min()), float(scores.max())
                metrics = comparison.metrics(task, algorithm)
                score = Score(
                    task, algorithm, len(scores), len(runs), float(scores.mean()), interval, low, high, metrics
                )
                rows.append(score)
    return rows


def aggregate_rows(comparison: Comparison) -> list[Aggregate]:
    """Aggregate over the tasks on which every algorithm was scored; empty if there is none."""
    tasks = comparison.shared(*comparison.algorithms)
    rows = []
    for algorithm in comparison.algorithms if tasks else ():
        scores = comparison.normalised(algorithm, tasks)
        found = resampled_interval(interquartile_mean, scores)
        interval = None if found is None else Interval(float(found[0]), float(found[1]), "bootstrap")
        iqm, average = float(interquartile_mean(scores)), float(mean(scores))
        rows.append(Aggregate(algorithm, sum(map(len, scores)), iqm, interval, average, mean_interval(scores)))
    return rows


def improvement_rows(comparison: Comparison) -> list[Improvement]:
    """Compare pairs of algorithms that share a task with two scored runs or more each, the better one first."""
    rows = []
    for pair in combinations(comparison.algorithms, 2):
        tasks = [
            task for task in comparison.shared(*pair) if min(len(comparison.scored(task, name)) for name in pair) > 1
        ]
        if tasks:
            sides = [comparison.normalised(name, tasks) for name in pair]
            if probability_of_improvement(*sides) < 0.5:
                pair, sides = pair[::-1], sides[::-1]
            probability = float(probability_of_improvement(*sides))
            runs = (sum(map(len, sides[0])), sum(map(len, sides[1])))
            rows.append(Improvement(*pair, len(tasks), runs, probability, improvement_interval(*sides)))
    return rows


def efficiency_rows(comparison: Comparison, scores: Sequence[float] = ()) -> list[Efficiency]:
    """Steps to the given team returns on every task, by default to :data:`SHARES` of each task's scale."""
    rows = []
    for task, scale in comparison.scales.items():
        for score in scores or [scale.to_return(share) for share in SHARES]:
            for algorithm, group in comparison.groups[task].items():
                runs = [run for run in group if len(run.evaluated)]
                if runs:
                    taken = np.array([steps_to_reach(run.evaluated, run.returns, score) for run in runs])
                    share = float(scale.normalise(np.array(score)))
                    reached, fastest, median = int(np.isfinite(taken).sum()), taken.min(), np.median(taken)
                    steps = (_finite(fastest), _finite(median))
                    rows.append(Efficiency(task, algorithm, float(score), share, reached, len(runs), *steps))
    return rows


def speed_rows(comparison: Comparison) -> list[Speed]:
    rows = []
    for task, named in comparison.groups.items():
        for algorithm, group in named.items():
            runs = [run for run in group if run.steps]
            if runs:
                seconds, steps = sum(run.seconds for run in runs), sum(run.steps for run in runs)
                rows.append(Speed(task, algorithm, len(runs), seconds, steps, _sum_phases(runs)))
    return rows


def _sum_phases(runs: Sequence[Run]) -> dict[str, Phase]:
    names = dict.fromkeys(name for run in runs for name in run.phases)
    found = {name: [run.phases[name] for run in runs if name in run.phases] for name in names}
    return {name: Phase(sum(p.seconds for p in ps), sum(p.updates for p in ps)) for name, ps in found.items()}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
