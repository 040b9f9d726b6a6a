"""Statistics of a few runs on several tasks, as pure functions.

Aggregates, profiles, improvement and the bootstrap are those of Agarwal et al. 2021 (arXiv 2108.13264, ``rliable``).
Intervals cover what they claim also for a few runs, or are not given: see :func:`mean_interval`,
:func:`resampled_interval` and :func:`improvement_interval`.
Scores of one algorithm are a list with one array per task, ``(..., runs)``; tasks may have different numbers of runs.
Leading axes are samples of the bootstrap: every function reduces the runs and the tasks and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

Array = NDArray[np.float64]
Tasks = Sequence[Array]
RESAMPLES = 2_000
CONFIDENCE = 0.95
MIN_RUNS = 3  # per task: fewer say nothing about the variation between seeds
MIN_RESAMPLED = 10  # per task: a bootstrap of fewer runs is too narrow, of three it is about their range
_ROUNDING = 1e-12  # relative deviation that is none


@dataclass(frozen=True)
class Interval:
    """A confidence interval of level :data:`CONFIDENCE`, and how it was made."""

    low: float
    high: float
    kind: Literal["t", "bootstrap", "exact"]


def mean(tasks: Tasks) -> Array:
    """Mean of all runs on all tasks; (...)."""
    return np.asarray(_pooled(tasks).mean(-1))


def interquartile_mean(tasks: Tasks) -> Array:
    """Mean of the middle half of all runs on all tasks; (...). A quarter of them, rounded down, is cut at each end."""
    scores = np.sort(_pooled(tasks), axis=-1)
    cut = scores.shape[-1] // 4
    return np.asarray(scores[..., cut : scores.shape[-1] - cut].mean(-1))


def probability_of_improvement(first: Tasks, second: Tasks) -> Array:
    """Probability that a run of the first algorithm beats one of the second on a task, averaged over tasks; (...).

    A tie counts as half a win.
    """
    probabilities = []
    for x, y in zip(first, second, strict=True):
        x, y = x[..., :, None], y[..., None, :]
        probabilities.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.asarray(np.mean(probabilities, axis=0))


def performance_profile(tasks: Tasks, thresholds: Array) -> Array:
    """Share of all runs on all tasks that score above each threshold; (..., thresholds)."""
    scores = _pooled(tasks)
    return np.stack([(scores > threshold).mean(-1) for threshold in thresholds], axis=-1)


def mean_interval(tasks: Tasks) -> Interval | None:
    """Student's t interval of :func:`mean`; None with fewer than :data:`MIN_RUNS` runs on a task, or no variation.

    Over several tasks the variances of their means add, with the degrees of freedom of Welch and Satterthwaite.
    """
    return None if _few(MIN_RUNS, tasks) else _t_interval(float(mean(tasks)), _mean_variance(tasks))


def difference_interval(first: Array, second: Array) -> Interval | None:
    """Welch's t interval of the difference of two means on one task, ``first`` minus ``second``; as above."""
    if _few(MIN_RUNS, [first], [second]):
        return None
    return _t_interval(float(first.mean() - second.mean()), _mean_variance([first]) + _mean_variance([second]))


def resampled_interval(statistic: Callable[..., Array], *groups: Tasks) -> tuple[Any, Any] | None:
    """Stratified bootstrap interval, as wide as it must be; None with fewer than :data:`MIN_RESAMPLED` runs on a task.

    Percentiles of resamples are too narrow by the factor of a variance with n instead of n - 1, and of a normal instead
    of Student's t distribution. Tails further out make up for both (Hesterberg 2015, "expanded percentile interval").
    """
    if _few(MIN_RESAMPLED, *groups):
        return None
    runs = min(len(scores) for tasks in groups for scores in tasks)
    tail = ndtr(np.sqrt(runs / (runs - 1)) * stdtrit(runs - 1, (1 - CONFIDENCE) / 2))
    return bootstrap_interval(statistic, *groups, level=1 - 2 * float(tail))


def improvement_interval(first: Tasks, second: Tasks) -> Interval | None:
    """Interval of :func:`probability_of_improvement`, where there is an honest one.

    If every run of the first beats every run of the second, it is exact: m pairs of independent runs all win with a
    probability of p^m at most, p their mean probability, whichever runs are paired. Otherwise it is the bootstrap's,
    and None for fewer runs than that takes.
    """
    if all(x.min() > y.max() for x, y in zip(first, second, strict=True)):
        pairs = len(first) * min(len(scores) for tasks in (first, second) for scores in tasks)
        return Interval(((1 - CONFIDENCE) / 2) ** (1 / pairs), 1.0, "exact")
    found = resampled_interval(probability_of_improvement, first, second)
    return None if found is None else Interval(float(found[0]), float(found[1]), "bootstrap")


def bootstrap_interval(
    statistic: Callable[..., Array],
    *groups: Tasks,
    resamples: int = RESAMPLES,
    level: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Stratified bootstrap percentile interval: runs are resampled within each task.

    Args:
        statistic: reduces each group of tasks, such as :func:`interquartile_mean`.
        groups: one list of tasks for every argument of ``statistic``; drawn independently.
        resamples: samples of the bootstrap.
        level: share of the resamples inside; the coverage is lower, see :func:`resampled_interval`.
        seed: of the draws, so that reports are reproducible.

    Returns:
        Lower and upper end, of the statistic's shape.
    """
    rng = np.random.default_rng(seed)
    drawn = [[_resample(scores, resamples, rng) for scores in tasks] for tasks in groups]
    tail = 50 * (1 - level)
    low, high = np.percentile(statistic(*drawn), [tail, 100 - tail], axis=0)
    return low, high


def at_steps(steps: Array, returns: Array, grid: Array) -> Array:
    """Interpolate evaluations (E,) at a grid of steps (G,): linear in between, NaN outside; (G,)."""
    return np.asarray(np.interp(grid, steps, returns, left=np.nan, right=np.nan))


def score_at(steps: Array, returns: Array, step: float, window: float = 0.1) -> float:
    """Mean of the evaluations in the last ``window`` share of the steps up to a step.

    If there is none, the interpolated value at the step.
    """
    recent = (steps > (1 - window) * step) & (steps <= step)
    return float(returns[recent].mean() if recent.any() else at_steps(steps, returns, np.array([step]))[0])


def steps_to_reach(steps: Array, returns: Array, score: float) -> float:
    """Environment steps at the first evaluation with at least this score; infinite if there is none."""
    reached = steps[returns >= score]
    return float(reached[0]) if len(reached) else float("inf")


def _few(least: int, *groups: Tasks) -> bool:
    """Whether a task has fewer runs."""
    return any(len(scores) < least for tasks in groups for scores in tasks)


def _mean_variance(tasks: Tasks) -> list[tuple[float, int]]:
    """Each task's part of the variance of the mean of all runs, and its degrees of freedom."""
    runs = sum(map(len, tasks))
    return [(len(x) * float(x.var(ddof=1)) / runs**2, len(x) - 1) for x in tasks]


def _t_interval(centre: float, parts: Sequence[tuple[float, int]]) -> Interval | None:
    """Around ``centre``, whose variance is the sum of independent parts; None if that is 0."""
    variances, freedom = np.array(parts, float).T
    if np.sqrt(variances.sum()) <= _ROUNDING * abs(centre):
        return None
    degrees = variances.sum() ** 2 / (variances**2 / freedom).sum()
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.sqrt(variances.sum()))
    return Interval(centre - half, centre + half, "t")


def _pooled(tasks: Tasks) -> Array:
    return np.concatenate(list(tasks), axis=-1)


def _resample(scores: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(runs,) -> (resamples, runs)."""
    runs = len(scores)
    return scores[rng.integers(runs, size=(resamples, runs))]
