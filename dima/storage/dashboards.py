"""Optional dashboards for the metrics: TensorBoard, Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dima.errors import ConfigError


class Dashboard(Protocol):
    """Receives the numbers of each record."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/``; points from ``purge_step`` on, of an interrupted iteration, are hidden."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow import: only if a run writes events

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step or None)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Needs the extra ``dima-marl[wandb]``; a resumed run continues under its name.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("wandb = True needs the package wandb: pip install 'dima-marl[wandb]'") from None
        name = "-".join(folder.resolve().parts[-3:])
        self._run = wandb.init(project="dima", id=name, name=name, dir=folder, config=dict(config), resume="allow")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def open_dashboards(folder: Path, config: Mapping[str, Any], purge_step: int) -> list[Dashboard]:
    """Open the dashboards enabled in a run's config.

    Raises:
        ConfigError: one of them is not installed.
    """
    dashboards: list[Dashboard] = []
    if config.get("tensorboard"):
        dashboards.append(TensorBoard(folder, purge_step))
    if config.get("wandb"):
        dashboards.append(WeightsAndBiases(folder, config))
    return dashboards
