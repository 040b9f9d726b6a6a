"""Group runs by task and algorithm, and score them at equal environment steps on a common scale."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dima.analysis.report.runs import Problem, Run
from dima.analysis.report.statistics import Array, Tasks, score_at
from dima.errors import ConfigError

_END_TOLERANCE = 0.05  # share of the steps by which runs of equal length may end apart
_MAX_SETTINGS_LENGTH = 32  # characters of settings in a name; where they are longer, variants are numbered
Reference = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """Normalisation of team returns: those that count as 0 and as 1 on a task, and their origin."""

    low: float
    high: float
    origin: str

    def normalise(self, returns: Array) -> Array:
        return np.asarray((returns - self.low) / (self.high - self.low))

    def to_return(self, share: float) -> float:
        """The team return whose normalised value is ``share``."""
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True)
class Comparison:
    """Runs grouped for comparison.

    Attributes:
        groups: runs by task and, within it, by algorithm; each setting of a task or an algorithm has its own name.
        algorithms: every name of an algorithm, in order.
        compared_at: environment steps to compare at, by task; only for tasks with an evaluated run.
        scales: normalisation by task, for the same tasks.
    """

    groups: Mapping[str, Mapping[str, Sequence[Run]]]
    algorithms: Sequence[str]
    compared_at: Mapping[str, float]
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
        """Runs whose evaluations span the steps to compare at."""
        return [run for run in self.group(task, algorithm) if _spans(run, self.compared_at.get(task, math.inf))]

    def scores(self, task: str, algorithm: str) -> Array:
        """(runs,) team return of each scored run at the steps to compare at."""
        runs = self.scored(task, algorithm)
        return np.array([score_at(run.evaluated, run.returns, self.compared_at[task]) for run in runs])

    def metrics(self, task: str, algorithm: str) -> dict[str, float]:
        """The environment's own metrics at the steps to compare at, mean over scored runs; those that all runs have."""
        runs, at = self.scored(task, algorithm), self.compared_at.get(task, math.inf)
        names = [name for name in (runs[0].metrics if runs else ()) if all(name in run.metrics for run in runs)]
        return {
            name: float(np.mean([score_at(run.evaluated, run.metrics[name], at) for run in runs])) for name in names
        }

    def normalised(self, algorithm: str, tasks: Sequence[str]) -> Tasks:
        """Normalised scores, one array per task."""
        return [self.scales[task].normalise(self.scores(task, algorithm)) for task in tasks]

    def shared(self, *algorithms: str) -> list[str]:
        """Tasks on which each of these algorithms has a scored run."""
        return [task for task in self.tasks if all(self.scored(task, name) for name in algorithms)]


def compare(
    runs: Sequence[Run], reference: Reference | None = None, at: int | None = None
) -> tuple[Comparison, list[Problem]]:
    """Group runs.

    Args:
        runs: from :func:`dima.analysis.report.runs.read_runs`.
        reference: team returns that count as 0 and 1, by task; tasks without are scaled by the lowest and the highest
            evaluation in the report.
        at: environment steps to compare at, on every task; default: see :func:`common_steps`.

    Returns:
        The comparison, and the runs that are left out as duplicates of a task, algorithm, settings and seed.

    Raises:
        ConfigError: no run has evaluations around ``at``.
    """
    tasks = task_names(runs)
    variants = variant_names(runs, tasks)
    groups: dict[str, dict[str, list[Run]]] = {}
    for task, variant, run in sorted(zip(tasks, variants, runs, strict=True), key=lambda row: (*row[:2], row[2].seed)):
        groups.setdefault(task, {}).setdefault(variant, []).append(run)
    duplicates = []
    for named in groups.values():
        for variant, group in named.items():
            named[variant], repeated = _one_per_seed(group)
            duplicates += repeated
    if at is not None and not any(_spans(run, at) for run in runs):
        steps = [int(step) for run in runs for step in run.evaluated]
        found = f"evaluations lie between {min(steps):,} and {max(steps):,}" if steps else "there is no evaluation"
        raise ConfigError(f"at = {at} does not fit: {found} environment steps")
    evaluated = {
        task: named for task, named in groups.items() if any(len(r.evaluated) for g in named.values() for r in g)
    }
    comparison = Comparison(
        groups=groups,
        algorithms=sorted(set(variants)),
        compared_at={task: at if at is not None else common_steps(named) for task, named in evaluated.items()},
        scales={task: _scale(named, reference or {}) for task, named in evaluated.items()},
    )
    return comparison, duplicates


def common_steps(groups: Mapping[str, Sequence[Run]]) -> float:
    """Environment steps at which at least half of the runs of every algorithm were evaluated.

    A little fewer where runs end a few steps apart, as they do after whole episodes. One run that ended early does not
    lower them; it is left out of the scores, and the report says so.
    """
    last = {
        name: sorted((float(r.evaluated[-1]) for r in runs if len(r.evaluated)), reverse=True)
        for name, runs in groups.items()
    }
    half = min(steps[math.ceil(len(steps) / 2) - 1] for steps in last.values() if steps)
    return min(step for steps in last.values() for step in steps if step >= (1 - _END_TOLERANCE) * half)


def _spans(run: Run, step: float) -> bool:
    return len(run.evaluated) > 0 and bool(run.evaluated[0] <= step <= run.evaluated[-1])


def _one_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Keep the longest run of each seed, the first of equals: repeated seeds are not independent."""
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: -run.steps):
        kept.setdefault(run.seed, run)
    duplicates = [
        Problem(run.path, f"has the task, settings and seed of {kept[run.seed].path}, which is as long or longer")
        for run in runs
        if kept[run.seed] is not run
    ]
    return sorted(kept.values(), key=lambda run: run.seed), duplicates


def _scale(groups: Mapping[str, Sequence[Run]], reference: Reference) -> Scale:
    runs = [run for group in groups.values() for run in group]
    if runs[0].task in reference:
        return Scale(*reference[runs[0].task], "given")
    returns = np.concatenate([run.returns for run in runs])
    low, high = float(returns.min()), float(returns.max())
    return Scale(low, high if high > low else low + 1, "lowest and highest evaluation in this report")


# -- names ------------------------------------------------------------------------------------------------------------


def task_names(runs: Sequence[Run]) -> list[str]:
    """Each run's task, with the environment's settings where runs of the task differ in them."""
    names = []
    for run in runs:
        fields = differing_settings([other.env for other in runs if other.task == run.task])
        settings = _settings_text(run.env, fields)
        names.append(f"{run.task} ({settings})" if settings else run.task)
    return names


def variant_names(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """Each run's algorithm, with the preset and the settings where runs on the same task differ in them.

    A preset may treat tasks differently, so settings are compared within each task. A setting that only some configs
    have was added or removed between versions, and does not alone make a variant.
    """
    names = []
    for run in runs:
        fields = varied_settings(run, runs, tasks)
        peers = [other for other in runs if _kind(other) == _kind(run)]
        presets = {other.preset for other in runs if other.algorithm == run.algorithm}
        name = run.algorithm if len(presets) == 1 else f"{run.algorithm}-{run.preset}"
        texts = [_settings_text(other.settings, fields) for other in peers]
        own = _settings_text(run.settings, fields)
        if max(map(len, texts)) > _MAX_SETTINGS_LENGTH:
            name += f" #{1 + _unique(texts).index(own)}"
        elif fields:
            name += f" ({own or 'without'})"
        names.append(name)
    return names


def varied_settings(run: Run, runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """Settings in which runs of this algorithm and preset differ on the same task."""
    found: dict[str, None] = {}
    peers = [(other, task) for other, task in zip(runs, tasks, strict=True) if _kind(other) == _kind(run)]
    for task in _unique([task for _, task in peers]):
        found |= dict.fromkeys(differing_settings([other.settings for other, where in peers if where == task]))
    return list(found)


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings with two values or more among the configs that have them."""
    names = dict.fromkeys(name for some in settings for name in some)
    return [name for name in names if len({_text(some[name]) for some in settings if name in some}) > 1]


def _kind(run: Run) -> tuple[str, str]:
    return run.algorithm, run.preset


def _settings_text(settings: Mapping[str, Any], fields: Sequence[str]) -> str:
    ends = [field.rsplit(".", 1)[-1] for field in fields]
    short = ends if len(set(ends)) == len(ends) else fields
    pairs = zip(short, fields, strict=True)
    return ", ".join(f"{name} {_text(settings[field])}" for name, field in pairs if field in settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _unique(items: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
