"""Settings of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dima.config import Config, Count, Range, Whole


@dataclass(frozen=True)
class DiagnosisConfig(Config):
    """Sample sizes of a diagnosis; larger ones narrow the intervals."""

    episodes: Count = 8  # fresh episodes of each policy
    segments: Count = 64  # segments of each policy's episodes to forecast
    horizon: Count | None = None  # steps of a segment; default: 50, or half the longest episode where that is less
    samples: Annotated[int, Range(3)] = 32  # forecasts sampled per segment for calibration; 90 % intervals need 19
    calibration_segments: Count = 48  # segments that these samples are drawn for
    orders: Annotated[int, Range(2)] = 24  # orders of the agents to compare, at most
    starts: Annotated[int, Range(2)] = 32  # segments to compare orders on; time steps to replace single actions at
    seed: Whole = 0  # of the episodes, the segments and the model's noise
    batch: Count = 1024  # segments forecast at a time; less needs less memory
