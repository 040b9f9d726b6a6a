"""Optional dashboards for the metrics: TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dima.config import read_text
from dima.errors import ConfigError, one_line
from dima.storage.atomic import read_errors, write_text

WANDB_ID = "wandb.id"  # of the run in Weights & Biases


class Dashboard(Protocol):
    """Receives the numbers of each record."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/``.

    Points from ``purge_step`` on, which an interrupted iteration wrote, are hidden.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow import: only if a run writes events

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step or None)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Needs the extra ``dima-marl[wandb]``; a resumed run continues under its id, which its folder keeps.

    The project is ``WANDB_PROJECT``, or ``dima``.

    Raises:
        ConfigError: the package is not installed, or refuses to start.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = _wandb()
        settings = {
            "project": os.environ.get("WANDB_PROJECT") or "dima",
            "id": _wandb_id(folder / WANDB_ID),
            "name": "-".join(folder.resolve().parts[-3:]),
        }
        try:
            self._run = wandb.init(**settings, dir=folder, config=dict(config), resume="allow")
        except Exception as error:  # of several kinds, from the network to the settings
            raise ConfigError(f"wandb = True: Weights & Biases does not start: {one_line(error)}") from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def require_dashboards(config: Mapping[str, Any]) -> None:
    """Check that the dashboards enabled in a run's config can be opened, before anything is computed.

    Raises:
        ConfigError: Weights & Biases is not installed, or has no key.
    """
    if config.get("wandb"):
        try:
            _wandb().login()
        except ConfigError:
            raise
        except Exception as error:  # it has no key, and no terminal to ask on
            raise ConfigError(
                f"wandb = True needs a key ({one_line(error)}): run `wandb login`, or set WANDB_API_KEY or "
                "WANDB_MODE=offline"
            ) from error


def _wandb() -> Any:
    try:
        return import_module("wandb")
    except ImportError:
        raise ConfigError("wandb = True needs the package wandb: pip install 'dima-marl[wandb]'") from None


def _wandb_id(path: Path) -> str:
    """The run's own id in a file, made if there is none: names of folders may be equal, or hold what an id may not."""
    if path.exists():
        with read_errors(path):
            kept = read_text(path, 100).strip()
            if not re.fullmatch(r"[0-9a-f]{16}", kept):
                raise ValueError("it holds no id of a Weights & Biases run: remove it")
            return kept
    write_text(path, made := secrets.token_hex(8))
    return made


def open_dashboards(folder: Path, config: Mapping[str, Any], purge_step: int) -> list[Dashboard]:
    """Open the dashboards enabled in a run's config.

    Raises:
        ConfigError: one of them is not installed, or does not start.
    """
    dashboards: list[Dashboard] = []
    if config.get("tensorboard"):
        dashboards.append(TensorBoard(folder, purge_step))
    if config.get("wandb"):
        dashboards.append(WeightsAndBiases(folder, config))
    return dashboards
