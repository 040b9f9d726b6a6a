"""What a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dima.config import Config, Count, Range, Whole


@dataclass(frozen=True)
class DiagnosisConfig(Config):
    """How much is played and foretold. More of either narrows the intervals."""

    episodes: Count = 8  # fresh episodes of each policy
    segments: Count = 64  # stretches of each policy's episodes that are foretold
    horizon: Count | None = None  # steps of a segment; default: 50, or half the longest episode where that is less
    futures: Annotated[int, Range(3)] = 32  # drawn of a segment: is their spread right? 90 % intervals need 19 of them
    calibrated: Count = 48  # segments that so many futures are drawn of
    orders: Annotated[int, Range(2)] = 24  # orders of agents compared, at most
    starts: Annotated[int, Range(2)] = 32  # segments that orders are compared on, and steps to see whose action matters
    seed: Whole = 0  # of the episodes, the segments and the model's noise
    batch: Count = 1024  # segments foretold at a time; less needs less memory
