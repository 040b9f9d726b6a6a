"""What the folder of a planned run holds already."""

from __future__ import annotations

from typing import Literal

from dima.config import dotted, shown
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


def _require_same(config: TrainConfig, folder: RunFolder) -> None:
    kept = folder.config()
    for name in ("task", "algorithm"):  # before anything that the folder names is looked up
        if kept.get(name) != getattr(config, name):
            raise _conflict(folder, name, kept.get(name), getattr(config, name))
    if "dataset" in kept:
        raise ConfigError(f"{folder.path} holds a run of `dima fit`: choose another out")
    # as if the user had typed it, unless their own configuration allows it
    algorithm = None if isinstance(config.algorithm, Allowed) else str(config.algorithm)
    before = dotted(RunConfig.from_dict(kept, algorithm=algorithm, where=folder.path).to_dict())
    now = dotted(config.to_dict())
    for name in {**before, **now}:
        switched_on = name == "env.agents_leave" and before.get(name)  # `dima train` does so by itself
        if name != "run" and not switched_on and before.get(name) != now.get(name):
            raise _conflict(folder, name, before.get(name), now.get(name))


def _conflict(folder: RunFolder, name: str, before: object, now: object) -> ConfigError:
    longer = "; `dima resume RUN --steps N` makes a run longer" if name == "steps" else ""
    return ConfigError(
        f"{folder.path} holds a run with {name} = {shown(before)}, this sweep says {shown(now)}: "
        f"choose another out, or remove that folder{longer}"
    )
