"""The runs that a sweep stands for, all of them checked before one starts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from dima.algorithms import algorithm_config
from dima.config import nested, shown
from dima.envs import agreed_task, make_env, suite_config
from dima.envs.arguments import split_arguments
from dima.errors import ConfigError, UserError
from dima.presets import default_preset
from dima.registry import FromFile, agreed
from dima.sweeps.existing import State, state_of
from dima.sweeps.names import folder_name, portable, short_names
from dima.sweeps.spec import Settings, Sweep
from dima.training.run_config import TrainConfig, build_config


@dataclass(frozen=True)
class PlannedRun:
    """One run.

    Attributes:
        name: path of its folder below the sweep's.
        config: its whole configuration.
        state: what its folder held when the sweep was planned.
    """

    name: str
    config: TrainConfig
    state: State = "absent"


@dataclass(frozen=True)
class Point:
    """One combination of task, algorithm, preset and values of the grid; its runs differ in their seeds.

    Attributes:
        task, algorithm, preset: names, agreed to.
        settings: fixed ones and those of the grid, by dotted field.
        varied: the fields of the grid, which folders are named after.
        sweep: it belongs to.
    """

    task: str
    algorithm: str
    preset: str
    settings: Mapping[str, Any]
    varied: Sequence[str]
    sweep: Sweep = field(repr=False)

    def runs(self, drawn: Mapping[str, Any] | None = None, trial: int | None = None) -> list[PlannedRun]:
        """Its runs, in the order of the seeds; their folders are not looked at.

        Args:
            drawn: values of searched settings.
            trial: its number in the search.

        Raises:
            ConfigError: a field does not exist or a value does not fit.
        """
        stem = f"{self.folder}/{self._stem(drawn or {}, trial)}"
        config = build_config(self.task, self.algorithm, self.preset, {**self.settings, **(drawn or {})})
        names = {seed: f"{stem}-seed{seed}" for seed in self.sweep.spec.seeds}
        out = self.sweep.out
        return [
            PlannedRun(name, config.override({"seed": seed, "run": str(out / name)})) for seed, name in names.items()
        ]

    @property
    def folder(self) -> str:
        """The task's folder below the sweep's."""
        return "/".join(map(portable, self.task.split("/")))

    @property
    def name(self) -> str:
        """Path of the point below the sweep's folder, which its search is called after."""
        return f"{self.folder}/{self._stem({}, None)}"

    def _stem(self, drawn: Mapping[str, Any], trial: int | None) -> str:
        varied = {name: self.settings[name] for name in self.varied}
        rounded = {name: float(f"{v:.3g}") if isinstance(v, float) and v else v for name, v in drawn.items()}
        tails = short_names([*self.varied, *self.sweep.space])
        return folder_name(self.algorithm, self.preset, varied | rounded, tails, trial)


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    Attributes:
        sweep: as its file says.
        points: in the file's order; with a search, each is searched by itself.
        runs: of the grid, with the state of their folders; none where there is a search.
        allow: names of the form ``package.module:Name`` that the user agreed to beside the file.
    """

    sweep: Sweep
    points: Sequence[Point]
    runs: Sequence[PlannedRun]
    allow: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Runs of the whole sweep, trials that are not drawn yet included."""
        search = self.sweep.search
        return len(self.runs) if search is None else search.trials * len(self.points) * len(self.sweep.spec.seeds)


def make_plan(sweep: Sweep, allow: Sequence[str] = ()) -> Plan:
    """Expand and check a sweep; nothing is written.

    Args:
        sweep: checked field by field.
        allow: names of the form ``package.module:Name`` in the file that the user agrees to import.

    Raises:
        UserError: in one line: a task, an algorithm, a preset or a field does not exist, a value does not fit, the user
            has not agreed to a name in the file, two runs would share a folder or be the same, or a folder holds a
            run of other settings.
    """
    where = sweep.where or "the sweep"
    try:
        points = list(_points(sweep, frozenset(allow)))
        runs = [run for point in points for run in point.runs()]
        _require_different(runs)
        for point in points if sweep.search else ():
            _try_range_ends(point)
        _require_tasks(runs)
    except UserError as error:
        raise type(error)(f"{where}: {error}") if sweep.where else error from None
    if sweep.search is not None:
        return Plan(sweep, points, [], tuple(allow))
    return Plan(sweep, points, [replace(run, state=state_of(run.config)) for run in runs], tuple(allow))


def _points(sweep: Sweep, allow: frozenset[str]) -> Iterator[Point]:
    """Every combination but for the seeds."""
    for given_task, given_algorithm in itertools.product(sweep.tasks, sweep.algorithms):
        grids = {**sweep.settings, **sweep.tasks[given_task], **sweep.algorithms[given_algorithm]}
        if both := sorted(grids.keys() & sweep.space.keys()):
            raise ConfigError(f"{both[0]} is a setting and is searched: give one of them")
        algorithm = _agreed_algorithm(sweep, given_algorithm, allow)
        algorithm_config(algorithm)  # a misspelt one, before its presets are looked for
        for preset in sweep.spec.presets or (default_preset(algorithm),):
            for settings in _grid(grids):
                task = _agreed_task(sweep, given_task, settings, allow)
                varied = [name for name, grid in grids.items() if grid.varies]
                yield Point(task, algorithm, preset, settings, varied, sweep)


def _grid(grids: Settings) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*(grid.values for grid in grids.values())):
        yield dict(zip(grids, combination, strict=True))


def _agreed_algorithm(sweep: Sweep, name: str, allow: frozenset[str]) -> str:
    if sweep.where is None:
        return name
    return agreed("algorithm", FromFile(name), name if name in allow else None, "it", repeat=_repeat(name))


def _agreed_task(sweep: Sweep, name: str, settings: Mapping[str, Any], allow: frozenset[str]) -> str:
    if sweep.where is None:
        return name
    ranges = {name: drawn.to_dict() for name, drawn in sweep.space.items()}
    env = nested({**settings, **ranges}).get("env")
    kept, arguments = split_arguments(env if isinstance(env, Mapping) else {})
    if arguments:  # as good as in `env.arguments`
        kept["arguments"] = json.dumps(arguments, default=str)
    return agreed_task(FromFile(name), kept, name if name in allow else None, "it", _repeat(name))


def _repeat(name: str) -> str:
    return f"--allow {name} (in Python allow=[{name!r}])"


def _require_different(runs: Sequence[PlannedRun]) -> None:
    """Raise ConfigError if two runs are the same, or would share a folder."""
    folders: set[str] = set()
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        if (folder := run.name.lower()) in folders:  # some file systems do not tell cases apart
            raise ConfigError(
                f"two runs would share the folder {run.name}: give settings as lists, so that it names them"
            )
        folders.add(folder)
        if (other := seen.setdefault(repr(run.config.to_dict() | {"run": None}), run)) is not run:
            raise ConfigError(f"{other.name} and {run.name} are the same run: give each value once")


def _try_range_ends(point: Point) -> None:
    """Check the ranges of a search against the fields' types and limits, one field at a time."""
    for name, drawn in point.sweep.space.items():
        for value in drawn.samples:
            try:
                point.runs(point.sweep.any_values | {name: value})
            except ConfigError as error:
                raise ConfigError(f"search.fields.{name} with the value {shown(value)}: {error}") from None


def _require_tasks(runs: Sequence[PlannedRun]) -> None:
    """Build each environment once: a misspelt task or a simulator that is missing shows before anything starts."""
    seen: list[Any] = []
    for config in (run.config for run in runs):
        if (config.task, config.env) not in seen:
            seen.append((config.task, config.env))
            suite_config(config.task)
            with closing(make_env(config.task, config.env)):
                pass
