"""Read run folders as records: configuration, evaluations, time and outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dima.algorithms import algorithm_config
from dima.analysis.report.statistics import Array
from dima.config import dotted, shown, user_path
from dima.errors import ConfigError, UserError
from dima.registry import FromFile
from dima.storage.layout import METRICS, PROTOCOL
from dima.storage.metrics import Metrics
from dima.storage.run_folder import RunFolder
from dima.training.old_names import modernise

Status = Literal["finished", "interrupted", "failed", "stopped", "empty"]
_SPEED_SETTINGS = ("compile", "cuda_graphs")  # change speed and rounding only
_REQUIRED_FIELDS = {
    **dict.fromkeys(("task", "algorithm", "preset"), str),
    **dict.fromkeys(("seed", "steps", "evaluation_episodes", "envs"), int),
    **dict.fromkeys(("env", "learner"), dict),
}
_OWN = {"evaluate/return", "evaluate/std", "evaluate/length"}  # of every evaluation, whatever the environment
_TEXT_FIELDS = ("event", "error", "reason")  # of a record; everything else in it is a number
_LARGEST = 1e30  # of any number; plots and averages of larger ones overflow


@dataclass(frozen=True)
class Phase:
    """Time spent in a phase.

    Attributes:
        seconds: wall seconds.
        updates: units of work; 0 where the phase does not count any.
    """

    seconds: float
    updates: int


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as recorded in its folder.

    Attributes:
        path: the folder.
        task, algorithm, preset, seed: of its config.
        env: the environment's settings, which returns depend on.
        settings: every other setting that affects learning by more than rounding, by dotted name; settings that are
            newer than the run have their defaults, which keep the older behaviour.
        target: environment steps requested.
        steps: environment steps made.
        evaluation_episodes: episodes behind one evaluation.
        evaluated: (E,) environment steps at which the policy was evaluated.
        returns: (E,) mean team return of each evaluation.
        seconds: wall seconds of all finished iterations.
        phases: time in each phase; empty for runs of versions that did not record it.
        protocol: versions, commit and machine at its start.
        status: ``finished``; ``interrupted`` and saved; ``failed`` with an error; ``stopped`` without a record, like a
            run in progress; ``empty`` before its first iteration is finished.
        error: why it failed, or which callback stopped it and why.
        metrics: (E,) of each evaluation, by name: the environment's ``episode_metrics``, such as success.
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
    error: str = ""
    metrics: Mapping[str, Array] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """The status in words."""
        return {
            "finished": f"finished: stopped by {self.error}" if self.error else "finished",
            "interrupted": "interrupted and saved",
            "failed": f"failed: {self.error}",
            "stopped": "killed, or still running",
            "empty": f"no iteration finished: {self.error or 'killed, or still running'}",
        }[self.status]


@dataclass(frozen=True)
class Problem:
    """A folder that is not in the report."""

    path: Path
    reason: str


def read_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Read every run in the given folders, which are run folders or contain some at any depth.

    Returns:
        The runs, each once, in the order given (within a folder by name), and the folders that could not be read.
    """
    runs: dict[Path, Run] = {}
    problems: list[Problem] = []
    for given in map(user_path, paths):
        if not given.is_dir():
            reason = "is not a folder" if given.exists() else "does not exist"
            problems.append(Problem(given, reason))
            continue
        found = list(_run_folders(given))
        if not found:
            problems.append(Problem(given, "contains no run"))
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
    """Read a run folder; checkpoint and replay are not needed.

    Raises:
        RunFolderError: it is damaged or not ours.
        UserError: its config is not one of a run with a policy.
    """
    folder = RunFolder.open(path)
    protocol, records = folder.protocol(), folder.records()
    config = modernise(folder.config(), for_comparison=True)
    if "dataset" in config:
        raise UserError("is a run of `dima fit`, without a trained policy to compare")
    missing = [name for name in _REQUIRED_FIELDS if name not in config]
    if missing:
        raise UserError(f"config.yaml lacks the field {missing[0]}")
    for name, kind in _REQUIRED_FIELDS.items():
        if not isinstance(config[name], kind) or isinstance(config[name], bool):
            raise UserError(f"config.yaml: {name} = {shown(config[name])} does not fit")
    for number, record in enumerate(records, 1):
        if wrong := [name for name, value in record.items() if not _plausible(name, value)]:
            raise UserError(f"metrics.jsonl: record {number}: {wrong[0]} = {shown(record[wrong[0]])} does not fit")
    iterations = [record for record in records if isinstance(record.get("step"), int)]
    evaluations = [record for record in iterations if record.get("evaluate/return") is not None]
    steps = iterations[-1]["step"] if iterations else 0
    status, error = _status(records, steps, config["steps"])
    settings = _defaults(config["algorithm"]) | dotted(config["learner"])
    settings = {name: value for name, value in settings.items() if name not in _SPEED_SETTINGS}
    settings["envs"] = config["envs"]
    return Run(
        path=path,
        task=config["task"],
        algorithm=config["algorithm"],
        preset=config["preset"],
        seed=config["seed"],
        env=config["env"],
        settings=settings,
        target=config["steps"],
        steps=steps,
        evaluation_episodes=config["evaluation_episodes"],
        evaluated=np.array([record["step"] for record in evaluations], float),
        returns=np.array([record["evaluate/return"] for record in evaluations], float),
        seconds=sum(record.get("time/iteration") or 0.0 for record in iterations),
        phases=_phases(iterations),
        protocol=protocol,
        status=status,
        error=error,
        metrics=_metrics(evaluations),
    )


def _metrics(evaluations: Sequence[Metrics]) -> dict[str, Array]:
    """What evaluations hold besides returns and lengths, where all hold it."""
    names = {name for record in evaluations for name in record if name.startswith("evaluate/")} - _OWN
    return {
        name.partition("/")[2]: np.array([record[name] for record in evaluations], float)
        for name in sorted(names)
        if all(record.get(name) is not None for record in evaluations)
    }


def _plausible(name: str, value: object) -> bool:
    """Whether a record's entry is of the kind that it is used as."""
    if name in _TEXT_FIELDS:
        return isinstance(value, str)
    if name in ("step", "iteration"):
        return type(value) is int and 0 <= value < 2**53
    return value is None or (isinstance(value, int | float) and abs(value) < _LARGEST)


def _run_folders(path: Path) -> Iterator[Path]:
    """Run folders at or below a path, by name; nothing inside a run folder is searched."""
    for folder, below, files in os.walk(path):
        below.sort()
        if PROTOCOL in files or METRICS in files:
            below.clear()
            yield Path(folder)


def _status(records: Sequence[Metrics], steps: int, target: int) -> tuple[Status, str]:
    last = records[-1] if records else {}
    error = str(last.get("error", ""))
    if steps == 0:
        return "empty", error
    if last.get("event") in ("interrupted", "failed"):
        return last["event"], error
    if last.get("event") == "stopped":  # by a callback
        return "finished", str(last.get("reason", ""))
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
    try:
        return dotted(algorithm_config(FromFile(algorithm)).to_dict())
    except ConfigError:  # code of somebody's own that is not here, or that nobody agreed to
        return {}


def _without_path(message: str, path: Path) -> str:
    """Remove a folder's path from an error message: the report's table has it in another column."""
    return message.replace(f"{path}/", "").replace(f"{path} ", "").replace(f"{path}: ", "")
