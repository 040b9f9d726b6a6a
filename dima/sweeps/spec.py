"""What a sweep's file may say, checked field by field.

tasks: [toy/walk]                     # or a mapping: task -> settings of its own
algorithms: {mappo: {learner.ppo.clip: [0.1, 0.2]}, happo: {}}    # likewise, or a list
seeds: [0, 1, 2]
settings: {steps: 2000}               # dotted fields of the run's config; a list is tried value by value
search: {trials: 20, fields: {learner.ppo.actor_lr: {log: [1e-5, 1e-2]}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from dima.config import Config, Count, NonEmpty, Range, Whole, read_yaml, shown, user_path
from dima.errors import ConfigError, nearest
from dima.sweeps.space import Space, read_space

Backend = Literal["auto", "ray", "serial"]
_OWN_PLACE = {"task": "tasks", "algorithm": "algorithms", "preset": "presets", "seed": "seeds", "run": "out"}


@dataclass(frozen=True)
class Grid:
    """One setting of a sweep.

    Attributes:
        values: to be tried.
        varies: whether they were given as a list, so that folders are named after them.
    """

    values: tuple[Any, ...]
    varies: bool


Settings = Mapping[str, Grid]  # by dotted field


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """What a run holds while it works, where several run side by side."""

    cpus: Count = 1  # cores of a run, which are also its threads of PyTorch unless `threads` is set
    gpus: Annotated[float, Range(0, 16)] | None = None  # share of a GPU; default: 1 if `device` and the machine allow


@dataclass(frozen=True, kw_only=True)
class SearchSpec(Config):
    """A search of settings for the best return."""

    trials: Count  # how many settings are tried, for each task, algorithm, preset and value of the grid
    objective: Literal["last", "mean"] = "last"  # of a trial's evaluation returns; the mean over its seeds is maximised
    prune: Literal["none", "asha", "median"] = "none"  # stop poor trials early: successive halving, or the median rule
    grace: Count | None = None  # environment steps before which none is stopped; default: a tenth of the run
    startup: Whole = 10  # trials drawn at random before Optuna's tree-structured Parzen estimator chooses
    seed: Whole = 0  # of Optuna's choices


@dataclass(frozen=True, kw_only=True)
class SweepSpec(Config):
    """A sweep's file without its names and settings, which :class:`Sweep` holds."""

    presets: Annotated[tuple[str, ...], NonEmpty("small")] | None = None  # default: each algorithm's default preset
    seeds: Annotated[tuple[Annotated[int, Range(0, 2**63 - 1)], ...], NonEmpty("0")] = (0,)
    out: str | None = None  # folder of all runs; default: runs/<name of the file>
    resources: Resources = Resources()
    retries: Whole = 2  # of a run whose process or machine dies
    backend: Backend = "auto"  # auto: Ray where it is installed
    address: str | None = None  # of a Ray cluster, such as auto or 10.0.0.1:6379; default: this machine


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        spec: its plain fields.
        tasks, algorithms: names, each with the settings of its own.
        settings: of all runs.
        search: how settings are searched, with the space; None for a grid alone.
        where: the file, for messages; None for a mapping from Python.
    """

    spec: SweepSpec
    tasks: Mapping[str, Settings]
    algorithms: Mapping[str, Settings]
    settings: Settings
    search: SearchSpec | None
    space: Space = field(default_factory=dict)
    where: Path | None = None

    @property
    def out(self) -> Path:
        """The folder of all runs."""
        default = "runs/sweep" if self.where is None else f"runs/{self.where.stem}"
        return user_path(self.spec.out or default)

    @property
    def any_values(self) -> dict[str, Any]:
        """A value of each searched setting, where it does not matter which."""
        return {name: drawn.samples[0] for name, drawn in self.space.items()}


def read_sweep(source: str | Path | Mapping[str, Any], **changes: Any) -> Sweep:
    """Read and check a sweep.

    Args:
        source: a YAML file, or its content.
        changes: fields that replace those of the file, such as ``out``; None changes nothing.

    Raises:
        ConfigError: in one line: a field is unknown, of the wrong kind, empty or given twice.
    """
    if isinstance(source, Mapping):
        return _checked(source, changes, None)
    path = user_path(source)
    content = read_yaml(path)
    try:
        return _checked(content, changes, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _checked(content: Mapping[str, Any], changes: Mapping[str, Any], where: Path | None) -> Sweep:
    plain = {one.name for one in fields(SweepSpec)}
    known = {"tasks", "algorithms", "settings", "search", *plain}
    for name in content:
        if name not in known:
            raise ConfigError(f"there is no field {shown(name)} in a sweep: {nearest(str(name), known)}")
    for name in ("tasks", "algorithms"):
        if name not in content:
            raise ConfigError(f"{name} is missing: list at least one, as in {name}: [{_EXAMPLES[name]}]")
    given = {name: value for name, value in content.items() if name in plain}
    if "resources" in given:
        given["resources"] = _nested(Resources(), "resources", given["resources"])
    spec = SweepSpec().override(given | {name: value for name, value in changes.items() if value is not None})
    for name in ("presets", "seeds"):
        _distinct(name, getattr(spec, name) or ())
    search, space = _search(content["search"]) if content.get("search") is not None else (None, {})
    return Sweep(
        spec=spec,
        tasks=_names("tasks", content["tasks"]),
        algorithms=_names("algorithms", content["algorithms"]),
        settings=_settings("settings", content.get("settings") or {}),
        search=search,
        space=space,
        where=where,
    )


_EXAMPLES = {"tasks": "toy/walk", "algorithms": "mappo"}


def _names(name: str, value: object) -> dict[str, Settings]:
    """Tasks or algorithms: a list, or a mapping to settings of their own."""
    if not isinstance(value, list | tuple | Mapping) or not all(isinstance(one, str) for one in value):
        expected = "a list of names, or a mapping of names to settings"
        raise ConfigError(f"{name} = {shown(value)} does not fit: expected {expected}, as in [{_EXAMPLES[name]}]")
    if not value:
        raise ConfigError(f"{name} = {shown(value)} is empty: name at least one, such as {_EXAMPLES[name]}")
    _distinct(name, value)
    own = value if isinstance(value, Mapping) else dict.fromkeys(value)
    return {one: _settings(f"{name}.{one}", own[one] or {}) for one in value}


def _settings(where: str, value: object) -> dict[str, Grid]:
    """Settings by dotted field, each with its values."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where} = {shown(value)} does not fit: expected fields and their values, as in {{steps: 2000}}"
        )
    found: dict[str, Grid] = {}
    for given, values in value.items():
        name = setting_name(where, given)
        if name in found:
            raise ConfigError(f"{where}: {name} stands twice")
        if isinstance(values, Mapping):
            inner = next(iter(values), "field")
            raise ConfigError(f"{where}: {name} = {shown(values)} does not fit: write {name}.{inner}: value")
        if isinstance(values, list | tuple) and not values:
            raise ConfigError(f"{where}: {name} = [] is empty: give at least one value")
        grid = Grid(tuple(values), True) if isinstance(values, list | tuple) else Grid((values,), False)
        _distinct(f"{where}: {name}", grid.values)
        found[name] = grid
    return found


def setting_name(where: str, given: object) -> str:
    """A dotted field of the run's config; a hyphen, as in flags, is an underscore.

    Raises:
        ConfigError: it is no name, or has a place of its own in a sweep.
    """
    if not isinstance(given, str):
        raise ConfigError(f"{where}: {shown(given)} is not the name of a field, such as learner.ppo.clip")
    name = given.removeprefix("--").replace("-", "_")
    if name in _OWN_PLACE:
        raise ConfigError(f"{where}: {name} is not a setting here: write it under {_OWN_PLACE[name]}")
    return name


def _search(value: object) -> tuple[SearchSpec, Space]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"search = {shown(value)} does not fit: expected trials and fields")
    for name in ("trials", "fields"):
        if name not in value:
            raise ConfigError(f"search.{name} is missing: {_SEARCH_HINTS[name]}")
    known = {"fields", *(one.name for one in fields(SearchSpec))}
    for name in value:
        if name not in known:
            raise ConfigError(f"search.{name} is not a field of a search: {nearest(str(name), known)}")
    plain = {name: one for name, one in value.items() if name != "fields"}
    search = _nested(SearchSpec(trials=1), "search", plain)
    return search, read_space({setting_name("search.fields", name): one for name, one in _pairs(value["fields"])})


_SEARCH_HINTS = {
    "trials": "say how many settings are tried, as in trials: 20",
    "fields": "name what is searched, as in fields: {learner.ppo.clip: {float: [0.1, 0.3]}}",
}


def _pairs(value: object) -> Sequence[tuple[Any, Any]]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"search.fields = {shown(value)} does not fit: {_SEARCH_HINTS['fields']}")
    return list(value.items())


def _nested(default: Any, name: str, value: object) -> Any:
    """A nested part of the file as its settings class, with errors that begin with its path."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} = {shown(value)} does not fit: expected a mapping of fields to values")
    try:
        return default.override(value)
    except ConfigError as error:
        raise ConfigError(f"{name}.{error}") from None


def _distinct(name: str, values: Sequence[Any] | Mapping[str, Any]) -> None:
    """Raise ConfigError if a value stands twice; 1 and 1.0 are one value, 1 and true are not."""
    seen: list[Any] = []
    for value in values:
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in seen):
            raise ConfigError(f"{name}: {shown(value)} stands twice")
        seen.append(value)
