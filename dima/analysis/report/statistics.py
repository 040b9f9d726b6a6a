"""Statistics of a few runs on several tasks, as pure functions.

Aggregates, profiles, improvement and intervals are those of Agarwal et al. 2021 (arXiv 2108.13264, ``rliable``).
Scores of one algorithm are a list with one array per task, ``(..., runs)``; tasks may have different numbers of runs.
Leading axes are samples of the bootstrap: every function reduces the runs and the tasks and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tasks = Sequence[Array]
RESAMPLES = 2_000
CONFIDENCE = 0.95
MIN_RUNS = 3  # per task: fewer say nothing about the variation between seeds


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


def bootstrap_interval(
    statistic: Callable[..., Array],
    *groups: Tasks,
    resamples: int = RESAMPLES,
    level: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Any, Any] | None:
    """Stratified bootstrap percentile interval: runs are resampled within each task.

    Args:
        statistic: reduces each group of tasks, such as :func:`interquartile_mean`.
        groups: one list of tasks for every argument of ``statistic``; drawn independently.
        resamples: samples of the bootstrap.
        level: coverage.
        seed: of the draws, so that reports are reproducible.

    Returns:
        Lower and upper end, of the statistic's shape; None when a task has fewer than :data:`MIN_RUNS` runs.
    """
    if any(scores.shape[-1] < MIN_RUNS for tasks in groups for scores in tasks):
        return None
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


def _pooled(tasks: Tasks) -> Array:
    return np.concatenate(list(tasks), axis=-1)


def _resample(scores: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(runs,) -> (resamples, runs)."""
    runs = len(scores)
    return scores[rng.integers(runs, size=(resamples, runs))]
