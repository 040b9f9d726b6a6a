"""The file of a search: its ranges and what became of every trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dima.config import read_text, shown
from dima.errors import ConfigError
from dima.storage.atomic import read_errors, write_errors, write_text
from dima.sweeps.space import Space
from dima.sweeps.spec import Sweep

_KIND, _FORMAT = "dima search", 1
_MAX_BYTES = 1 << 25  # typically 500 a trial
_STATES = ("running", "complete", "pruned", "failed")


def write_trials(path: Path, sweep: Sweep, trials: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file.

    Args:
        path: of the file.
        sweep: whose objective and ranges they are.
        trials: of each, in order, ``state``, ``value``, ``params``, ``evaluations`` and ``rungs``.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    content = {"kind": _KIND, "format": _FORMAT, **_judged_by(sweep), "trials": list(trials)}
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")


def read_trials(path: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """The trials in a file; none if there is no file.

    Raises:
        ConfigError: they are of a search with another objective or other ranges.
        RunFolderError: the file is damaged.
    """
    if not path.exists():
        return []
    with read_errors(path):
        content = json.loads(read_text(path, _MAX_BYTES))
        if content.get("kind") != _KIND or content.get("format") != _FORMAT:
            raise ValueError("it is no search of this version")
        wanted = _judged_by(sweep)
        for name, now in wanted.items():
            if content[name] != now:
                raise ConfigError(
                    f"{path} is of a search with {name} = {shown(content[name], 100)}, this sweep says "
                    f"{shown(now, 100)}: choose another out, or remove that folder"
                )
        trials: list[dict[str, Any]] = content["trials"]
        for facts in trials:
            _check(facts, sweep.space)
        return trials


def _judged_by(sweep: Sweep) -> dict[str, Any]:
    """What the values of all trials depend on."""
    assert sweep.search is not None
    space = {name: drawn.to_dict() for name, drawn in sweep.space.items()}
    return {"objective": sweep.search.objective, "seeds": list(sweep.spec.seeds), "fields": space}


def _check(facts: Mapping[str, Any], space: Space) -> None:
    """Raise ValueError if a trial's record is not one that this module writes."""
    params, evaluations = facts["params"], facts["evaluations"]
    if params.keys() != space.keys() or not all(space[name].holds(value) for name, value in params.items()):
        raise ValueError(f"the trial {shown(facts.get('number'))} has other fields or values out of range")
    if facts["state"] not in _STATES:
        raise ValueError(f"state = {shown(facts['state'])}")
    values = [facts["value"]] if facts["state"] == "complete" else []
    numbers = [*values, *evaluations.values(), *facts["rungs"].values()]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise ValueError(f"the trial {shown(facts.get('number'))} has a value that is no number")
    if not all(step.isdigit() for step in evaluations):
        raise ValueError(f"the trial {shown(facts.get('number'))} was evaluated at no number of steps")
