"""Everything a diagnosis found, as numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dima.analysis.diagnose.calibration import Calibration
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.diagnose.denoising import TakingShape
from dima.analysis.diagnose.error import HorizonError
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.order import OrderSpread
from dima.analysis.diagnose.reward import RewardError
from dima.analysis.diagnose.termination import Termination
from dima.analysis.diagnose.value import ValueRanking

_DIGITS = 6  # significant ones that are kept


@dataclass(frozen=True)
class SourceFacts:
    """What was played by one policy."""

    name: str
    seen: bool  # the world model was trained on these episodes
    episodes: int
    steps: int
    mean_return: float
    ends: int  # episodes that the task ended, rather than a time limit
    segments: int  # cut from them
    seeds: list[int]  # of the environment; empty for episodes the world model was trained on


@dataclass(frozen=True)
class Diagnosis:
    """The numbers behind ``diagnosis.json`` and ``diagnosis.html``."""

    run: Mapping[str, Any]  # task, algorithm, preset, seed, environment steps
    settings: DiagnosisConfig  # its horizon chosen
    config: Mapping[str, Any]  # of the run
    protocol: Mapping[str, Any]  # versions and machine of the diagnosis
    sources: list[SourceFacts]
    error: HorizonError
    calibration: dict[str, Calibration]
    reward: RewardError
    termination: Termination
    value: ValueRanking
    order: OrderSpread | None  # None for a world model that takes all agents in at once
    denoising: TakingShape | None  # likewise
    influence: Influence

    @property
    def horizon(self) -> int:
        """Steps of a segment."""
        assert self.settings.horizon is not None
        return self.settings.horizon

    @property
    def findings(self) -> list[str]:
        """The main results, a sentence each."""
        from dima.analysis.diagnose.findings import findings

        return findings(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; every number is finite, and None where one is not defined."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"findings": self.findings} | {name: _plain(part) for name, part in parts.items()}

    def save(self, folder: str | Path) -> Path:
        """Write ``diagnosis.json``, ``diagnosis.html`` and ``plots/`` into a folder, and return the page's path.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        from dima.analysis.diagnose.page import save

        return save(self, Path(folder))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return value
