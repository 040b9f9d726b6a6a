"""Is the spread of many futures as large as their error? Rank histograms and the coverage of central intervals.

If the truth is one more draw of the same distribution, it falls with equal probability into each of the n + 1 gaps
that n futures leave (Hamill 2001). Ties, such as those of a deterministic world, are broken at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Curve, Resampling, pearson
from dima.analysis.diagnose.error import OBSERVATIONS, STATE
from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.segments import Segments
from dima.analysis.diagnose.units import Units

LEVELS = (0.5, 0.9)  # of the central intervals
_ROUNDING = 1e-5  # differences below this share of a standard deviation, or of the value, are ties


@dataclass(frozen=True)
class Calibration:
    """Of state or observations; features that never vary are left out."""

    futures: int
    histogram: list[float]  # (n + 1,) share of the truths in each gap, all steps together; flat is right
    first_histogram: list[float]  # the same after the first step
    coverage: dict[str, Curve]  # by level that so many futures resolve: share of the truths inside the central interval
    spread: Curve  # of the futures, root mean square over features, in standard deviations of the data
    error: Curve  # of the futures' mean, likewise; equal to the spread where that is right
    correlation: (
        float | None
    )  # between spread and error over segments, averaged over steps: does it know when to doubt?


def calibration(
    futures: Foretold, segments: Segments, units: Units, resampling: Resampling, seed: int
) -> dict[str, Calibration]:
    """Compare the spread of (B, n, H, ...) futures with their error, for the state and for the observations."""
    rng = np.random.default_rng(seed)
    varies = units.obs_varies
    pairs = {
        STATE: (futures.state / units.state_scale, segments.state / units.state_scale, units.state_varies),
        OBSERVATIONS: (futures.obs / units.obs_scale, segments.obs / units.obs_scale, varies),
    }
    return {
        what: _calibration(drawn[..., chosen], truth[..., chosen], segments.alive, resampling, rng)
        for what, (drawn, truth, chosen) in pairs.items()
        if chosen.any()
    }


def _calibration(
    drawn: Tensor, truth: Tensor, alive: Tensor, resampling: Resampling, rng: np.random.Generator
) -> Calibration:
    """Of futures (B, n, H, F) and truth (B, H, F)."""
    count = drawn.shape[1]
    ranks = _ranks(drawn, truth, rng)
    # a gap counts as far as it lies inside the central interval, so that a flat histogram covers exactly what it should
    edges = np.linspace(0, 1, count + 2)
    coverage = {}
    for level in LEVELS:
        low, high = (1 - level) / 2, (1 + level) / 2
        if low * (count + 1) < 1 - 1e-9:  # the outermost gaps reach inside: whatever lies there would half count
            continue
        inside = (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * (count + 1)
        coverage[f"{level:.0%}"] = resampling.mean(torch.from_numpy(inside)[ranks].mean(-1), alive)
    variance = drawn.var(1).mean(-1) * (count + 1) / count  # what the mean's squared error is expected to be
    squared = (drawn.mean(1) - truth).square().mean(-1)
    steps = [pearson(v[here].sqrt(), s[here].sqrt()) for v, s, here in zip(variance.T, squared.T, alive.T, strict=True)]
    known = [value for value in steps if value is not None]
    return Calibration(
        futures=count,
        histogram=_histogram(ranks[alive], count),
        first_histogram=_histogram(ranks[:, 0], count),
        coverage=coverage,
        spread=resampling.mean(variance, alive).map(np.sqrt),
        error=resampling.mean(squared, alive).map(np.sqrt),
        correlation=float(np.mean(known)) if known else None,
    )


def _ranks(drawn: Tensor, truth: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, H, F) how many of the futures lie below the truth."""
    slack = _ROUNDING * (1 + truth.abs())
    below = (drawn < (truth - slack)[:, None]).sum(1)
    ties = (drawn <= (truth + slack)[:, None]).sum(1) - below
    return below + torch.from_numpy(rng.integers(0, ties.numpy() + 1))


def _histogram(ranks: Tensor, count: int) -> list[float]:
    counts = torch.bincount(ranks.flatten(), minlength=count + 1).double()
    return (counts / counts.sum()).tolist()
