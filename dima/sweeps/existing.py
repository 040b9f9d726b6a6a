"""What the folder of a planned run holds already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dima.config import shown
from dima.errors import ConfigError
from dima.registry import Allowed
from dima.storage.layout import CHECKPOINT, CONFIG, METRICS, check_available
from dima.storage.run_folder import RunFolder
from dima.storage.saved import saved_metrics_bytes
from dima.training.run_config import RunConfig, TrainConfig

State = Literal["absent", "unfinished", "finished"]


def state_of(config: TrainConfig) -> State:
    """How far a planned run is.

    Args:
        config: of the run, whose names were agreed to.

    Raises:
        ConfigError: the folder holds a run of other settings; the first that differs is named.
        RunFolderError: it holds something else, or is damaged.
    """
    path = config.folder
    if not (path / CONFIG).exists():
        check_available(path, overwrite=False)
        return "absent"
    folder = RunFolder.open(path)
    _require_same(config, folder)
    steps = max((record["step"] for record in folder.records() if isinstance(record.get("step"), int)), default=0)
    if steps < config.steps:
        return "unfinished"
    whole = saved_metrics_bytes(path / CHECKPOINT) == (path / METRICS).stat().st_size
    return "finished" if whole else "unfinished"  # its last iteration was logged, but not saved


def typed_name(name: str) -> str | None:
    """A name as the user typed it, to be repeated beside a file; None if their own configuration allows it."""
    return None if isinstance(name, Allowed) else str(name)


def _require_same(config: TrainConfig, folder: RunFolder) -> None:
    kept = folder.config()
    for name in ("task", "algorithm"):  # before anything that the folder names is looked up
        if kept.get(name) != getattr(config, name):
            raise _conflict(folder, name, kept.get(name), getattr(config, name))
    if "dataset" in kept:
        raise ConfigError(f"{folder.path} holds a run of `dima fit`: choose another out")
    found = RunConfig.from_dict(kept, algorithm=typed_name(config.algorithm), where=folder.path)
    for name, before, now in _differences(found.to_dict(), config.to_dict()):
        if name == "run" or (name == "env.agents_leave" and before):  # `dima train` switches that on by itself
            continue
        raise _conflict(folder, name, before, now)


def _conflict(folder: RunFolder, name: str, before: object, now: object) -> ConfigError:
    longer = "; `dima resume RUN --steps N` makes a run longer" if name == "steps" else ""
    return ConfigError(
        f"{folder.path} holds a run with {name} = {shown(before)}, this sweep says {shown(now)}: "
        f"choose another out, or remove that folder{longer}"
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted fields whose values differ, with both values."""
    for name in (*one, *(name for name in other if name not in one)):
        before, now = one.get(name), other.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name}", before, now
