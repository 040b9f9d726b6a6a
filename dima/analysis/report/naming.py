"""Names that keep apart what must not be averaged: a task in two presentations, an algorithm in two settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dima.analysis.report.runs import Run

_SPELT_OUT = 32  # characters of settings that fit into a name; where they are more, variants are numbered


def task_names(runs: Sequence[Run]) -> list[str]:
    """Each run's task; with the environment's settings where runs of that task differ in them."""
    names = []
    for run in runs:
        fields = differing([other.env for other in runs if other.task == run.task])
        told = _spelt(run.env, fields)
        names.append(f"{run.task} ({told})" if told else run.task)
    return names


def variant_names(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """Each run's algorithm; with the preset and the settings where runs on the same task differ in them.

    A preset may treat tasks differently, so settings are compared on one task at a time. A setting that only some
    configs hold was retired between their versions and alone keeps nothing apart.
    """
    names = []
    for run in runs:
        fields = varied(run, runs, tasks)
        peers = [other for other in runs if _kind(other) == _kind(run)]
        presets = {other.preset for other in runs if other.algorithm == run.algorithm}
        name = run.algorithm if len(presets) == 1 else f"{run.algorithm}-{run.preset}"
        told = [_spelt(other.settings, fields) for other in peers]
        if max(map(len, told)) > _SPELT_OUT:
            name += f" #{1 + _first_seen(told).index(_spelt(run.settings, fields))}"
        elif fields:
            name += f" ({_spelt(run.settings, fields) or 'without'})"
        names.append(name)
    return names


def varied(run: Run, runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """The settings in which runs of this one's algorithm and preset differ on the same task."""
    found: dict[str, None] = {}
    peers = [(other, task) for other, task in zip(runs, tasks, strict=True) if _kind(other) == _kind(run)]
    for task in _first_seen([task for _, task in peers]):
        found |= dict.fromkeys(differing([other.settings for other, where in peers if where == task]))
    return list(found)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that have two values or more among those who hold them."""
    names = dict.fromkeys(name for some in settings for name in some)
    return [name for name in names if len({_text(some[name]) for some in settings if name in some}) > 1]


def _kind(run: Run) -> tuple[str, str]:
    return run.algorithm, run.preset


def _spelt(settings: Mapping[str, Any], fields: Sequence[str]) -> str:
    ends = [field.rsplit(".", 1)[-1] for field in fields]
    short = ends if len(set(ends)) == len(ends) else fields
    pairs = zip(short, fields, strict=True)
    return ", ".join(f"{name} {_text(settings[field])}" for name, field in pairs if field in settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _first_seen(items: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
