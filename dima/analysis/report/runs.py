"""Run folders as records: what was learnt, how far it got, how long it took; and which folders could not be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dima.algorithms import algorithm_config, algorithm_names
from dima.analysis.report.statistics import Array
from dima.errors import UserError
from dima.storage.metrics import Metrics
from dima.storage.run_folder import METRICS, PROTOCOL, RunFolder

Status = Literal["finished", "interrupted", "failed", "stopped", "empty"]
_MECHANICS = ("compile", "cuda_graphs")  # settings of a learner that change nothing but speed and rounding
_NEEDED = ("task", "algorithm", "preset", "seed", "steps", "evaluation_episodes", "envs", "env", "learner")


@dataclass(frozen=True)
class Phase:
    """What one kind of work took.

    Attributes:
        seconds: wall seconds.
        updates: units of work done in them; 0 where the phase does not count any.
    """

    seconds: float
    updates: int


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its folder tells it.

    Attributes:
        path: the folder.
        task, algorithm, preset, seed: of its config.
        env: the environment's settings, which returns depend on.
        settings: every other choice that learning depends on by more than rounding, by dotted name; those that came
            later than the run stand at their defaults, which keep to what was done before.
        target: environment steps it was started for.
        steps: environment steps made.
        evaluation_episodes: episodes behind one evaluation.
        evaluated: (E,) environment steps at which the policy was evaluated.
        returns: (E,) mean team return of each evaluation.
        seconds: wall seconds of all finished iterations.
        phases: the part of them spent in each phase; empty for runs of versions that did not record it.
        protocol: versions, commit and class of machine at its start.
        status: ``finished``; ``interrupted`` and saved; ``failed`` with an error; ``stopped`` without a word, which is
            also how a run at work looks; ``empty`` before its first iteration is over.
        why: what it failed of.
    """

    path: Path
    task: str
    algorithm: str
    preset: str
    seed: int
    env: Mapping[str, Any]
    settings: Mapping[str, Any]
    target: int
    steps: int
    evaluation_episodes: int
    evaluated: Array
    returns: Array
    seconds: float
    phases: Mapping[str, Phase]
    protocol: Mapping[str, Any]
    status: Status
    why: str = ""

    @property
    def outcome(self) -> str:
        """The status in words."""
        told = {
            "finished": "finished",
            "interrupted": "interrupted and saved",
            "failed": f"failed: {self.why}",
            "stopped": "killed, or still at work",
            "empty": f"no iteration finished: {self.why or 'killed, or still at work'}",
        }
        return told[self.status]


@dataclass(frozen=True)
class Problem:
    """A folder that is not in the report, and why."""

    path: Path
    why: str


def read_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Every run in the given folders, which are run folders or hold run folders at any depth.

    Returns:
        The runs, each once, in the order given (within a folder by name); and what could not be read.
    """
    runs: dict[Path, Run] = {}
    problems: list[Problem] = []
    for given in map(Path, paths):
        if not given.is_dir():
            why = "is not a folder" if given.exists() else "does not exist"
            problems.append(Problem(given, why))
            continue
        found = list(_run_folders(given))
        if not found:
            problems.append(Problem(given, "holds no run"))
        for path in found:
            if path.resolve() in runs:
                problems.append(Problem(path, "given twice, read once"))
                continue
            try:
                runs[path.resolve()] = read_run(path)
            except UserError as error:
                problems.append(Problem(path, _without_path(str(error), path)))
    return list(runs.values()), problems


def read_run(path: Path) -> Run:
    """One run folder; checkpoint and replay are not needed.

    Raises:
        RunFolderError: it is damaged or not ours.
        ConfigError: its config is not one of a run.
    """
    folder = RunFolder.open(path)
    protocol, config, records = folder.protocol(), folder.config(), folder.records()
    if "dataset" in config:
        raise UserError("learnt from a dataset, without a policy whose returns could be compared")
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise UserError(f"config.yaml lacks the field {missing[0]}")
    iterations = [record for record in records if isinstance(record.get("step"), int)]
    evaluations = [(r["step"], r["evaluate/return"]) for r in iterations if r.get("evaluate/return") is not None]
    steps = iterations[-1]["step"] if iterations else 0
    status, why = _status(records, steps, config["steps"])
    settings = _defaults(config["algorithm"]) | _flat(config["learner"])
    return Run(
        path=path,
        task=config["task"],
        algorithm=config["algorithm"],
        preset=config["preset"],
        seed=config["seed"],
        env=config["env"],
        settings={name: value for name, value in settings.items() if name not in _MECHANICS} | {"envs": config["envs"]},
        target=config["steps"],
        steps=steps,
        evaluation_episodes=config["evaluation_episodes"],
        evaluated=np.array([step for step, _ in evaluations], float),
        returns=np.array([mean for _, mean in evaluations], float),
        seconds=sum(record.get("time/iteration") or 0.0 for record in iterations),
        phases=_phases(iterations),
        protocol=protocol,
        status=status,
        why=why,
    )


def _run_folders(path: Path) -> Iterator[Path]:
    """Folders with the marks of a run, at this one or below, by name; nothing inside a run is looked at."""
    for folder, below, files in os.walk(path):
        below.sort()
        if PROTOCOL in files or METRICS in files:
            below.clear()
            yield Path(folder)


def _status(records: Sequence[Metrics], steps: int, target: int) -> tuple[Status, str]:
    last = records[-1] if records else {}
    why = str(last.get("error", ""))
    if steps == 0:
        return "empty", why
    if last.get("event") in ("interrupted", "failed"):
        return last["event"], why
    return "finished" if steps >= target else "stopped", ""


def _phases(iterations: Sequence[Metrics]) -> dict[str, Phase]:
    totals: dict[str, list[float]] = {}
    for record in iterations:
        for key, value in record.items():
            kind, _, name = key.partition("/")
            if kind in ("time", "updates") and name != "iteration" and value is not None:
                totals.setdefault(name, [0.0, 0])[kind == "updates"] += value
    return {name.replace("_", " "): Phase(seconds, int(updates)) for name, (seconds, updates) in totals.items()}


def _defaults(algorithm: str) -> dict[str, Any]:
    return _flat(algorithm_config(algorithm).to_dict()) if algorithm in algorithm_names() else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _without_path(message: str, path: Path) -> str:
    """The message of an error in the report's table, which names the folder in another column."""
    return message.replace(f"{path}/", "").replace(f"{path} ", "").replace(f"{path}: ", "")
