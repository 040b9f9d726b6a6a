"""Runs arranged for comparison: by task and algorithm, scored at equal environment steps, on a common scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dima.analysis.report.naming import task_names, variant_names
from dima.analysis.report.runs import Problem, Run
from dima.analysis.report.statistics import Array, Tasks, score_at
from dima.errors import ConfigError

_CLOSE = 0.05  # share of the steps by which runs of equal length may end apart
Reference = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """The team returns that count as 0 and as 1 on a task, and where they come from."""

    low: float
    high: float
    origin: str

    def normalise(self, returns: Array) -> Array:
        return np.asarray((returns - self.low) / (self.high - self.low))

    def to_return(self, share: float) -> float:
        """The team return that counts as ``share``."""
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True)
class Comparison:
    """What a report compares.

    Attributes:
        groups: the runs by task and, within it, by algorithm; a task or an algorithm that comes in several settings
            has a name for each.
        algorithms: every such name of an algorithm, in order.
        at: the environment steps at which runs are compared, by task; only tasks with an evaluated run have one.
        scales: what counts as 0 and 1, by task, for the same tasks.
    """

    groups: Mapping[str, Mapping[str, Sequence[Run]]]
    algorithms: Sequence[str]
    at: Mapping[str, float]
    scales: Mapping[str, Scale]

    @property
    def tasks(self) -> list[str]:
        return list(self.groups)

    @property
    def runs(self) -> list[Run]:
        """Every run, by task, algorithm and seed."""
        return [run for named in self.groups.values() for runs in named.values() for run in runs]

    def group(self, task: str, algorithm: str) -> Sequence[Run]:
        return self.groups[task].get(algorithm, ())

    def scored(self, task: str, algorithm: str) -> list[Run]:
        """The runs whose evaluations reach the steps they are compared at."""
        return [run for run in self.group(task, algorithm) if _spans(run, self.at.get(task, math.inf))]

    def scores(self, task: str, algorithm: str) -> Array:
        """(runs,) team return of each scored run at the steps of the comparison."""
        runs = self.scored(task, algorithm)
        return np.array([score_at(run.evaluated, run.returns, self.at[task]) for run in runs])

    def normalised(self, algorithm: str, tasks: Sequence[str]) -> Tasks:
        """The same on the tasks' scales, one array per task."""
        return [self.scales[task].normalise(self.scores(task, algorithm)) for task in tasks]

    def shared(self, *algorithms: str) -> list[str]:
        """The tasks on which each of these algorithms has a scored run."""
        return [task for task in self.tasks if all(self.scored(task, name) for name in algorithms)]


def compare(
    runs: Sequence[Run], reference: Reference | None = None, at: int | None = None
) -> tuple[Comparison, list[Problem]]:
    """Arrange runs.

    Args:
        runs: as read.
        reference: team returns that count as 0 and 1, by task; tasks without are scaled by the lowest and the highest
            evaluation in the report.
        at: environment steps to compare at, on every task; default: see :func:`steps_compared_at`.

    Returns:
        The comparison, and the runs it leaves out because another one has the same task, algorithm, settings and seed.

    Raises:
        ConfigError: no run got as far as ``at``.
    """
    tasks = task_names(runs)
    variants = variant_names(runs, tasks)
    groups: dict[str, dict[str, list[Run]]] = {}
    for task, variant, run in sorted(zip(tasks, variants, runs, strict=True), key=lambda row: (*row[:2], row[2].seed)):
        groups.setdefault(task, {}).setdefault(variant, []).append(run)
    dropped = []
    for named in groups.values():
        for variant, group in named.items():
            named[variant], twins = _one_per_seed(group)
            dropped += twins
    if at is not None and not any(_spans(run, at) for run in runs):
        steps = [int(step) for run in runs for step in run.evaluated]
        told = f"evaluations lie between {min(steps):,} and {max(steps):,}" if steps else "there is no evaluation"
        raise ConfigError(f"at = {at} does not fit: {told} environment steps")
    evaluated = {
        task: named for task, named in groups.items() if any(len(r.evaluated) for g in named.values() for r in g)
    }
    comparison = Comparison(
        groups=groups,
        algorithms=sorted(set(variants)),
        at={task: at if at is not None else steps_compared_at(named) for task, named in evaluated.items()},
        scales={task: _scale(named, reference or {}) for task, named in evaluated.items()},
    )
    return comparison, dropped


def steps_compared_at(groups: Mapping[str, Sequence[Run]]) -> float:
    """The environment steps that at least half of the runs of every algorithm reached and were evaluated at.

    A little less where runs end a few steps apart, as they do after whole episodes. One run that ended early does not
    lower it; it is left out of the scores, and the report says so.
    """
    last = {
        name: sorted((float(r.evaluated[-1]) for r in runs if len(r.evaluated)), reverse=True)
        for name, runs in groups.items()
    }
    half = min(steps[math.ceil(len(steps) / 2) - 1] for steps in last.values() if steps)
    return min(step for steps in last.values() for step in steps if step >= (1 - _CLOSE) * half)


def _spans(run: Run, step: float) -> bool:
    return len(run.evaluated) > 0 and bool(run.evaluated[0] <= step <= run.evaluated[-1])


def _one_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Of runs with one seed the one that got furthest, the first of equals: more of them are no more evidence."""
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: -run.steps):
        kept.setdefault(run.seed, run)
    dropped = [
        Problem(run.path, f"has the task, settings and seed of {kept[run.seed].path}, which got as far or further")
        for run in runs
        if kept[run.seed] is not run
    ]
    return sorted(kept.values(), key=lambda run: run.seed), dropped


def _scale(groups: Mapping[str, Sequence[Run]], reference: Reference) -> Scale:
    runs = [run for group in groups.values() for run in group]
    if runs[0].task in reference:
        return Scale(*reference[runs[0].task], "given")
    returns = np.concatenate([run.returns for run in runs])
    low, high = float(returns.min()), float(returns.max())
    return Scale(low, high if high > low else low + 1, "lowest and highest evaluation in this report")
