"""Does the world model rank stretches of play as the environment does? Imagined against real returns, same actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Curve, Resampling, spearman
from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.segments import Segments

_DRAWS = 200  # resamples behind a rank correlation's interval


@dataclass(frozen=True)
class ValueRanking:
    """Returns are sums of rewards over a segment's steps, undiscounted; imagined ones end where an end is foretold."""

    correlation: Curve  # rank correlation over all segments, after each step
    by_source: dict[str, Curve]  # among the segments of one policy, where it is harder
    real: list[float]  # (B,) returns over the whole segment
    imagined: list[float]  # (B,)
    source: list[str]  # (B,) whose segment it is


def value_ranking(
    told: Foretold, segments: Segments, names: Sequence[str], resampling: Resampling, seed: int
) -> ValueRanking:
    """Compare the segments' returns so far after each step; a segment that ended keeps its return."""
    real = (segments.reward * segments.alive).cumsum(1)
    imagined = imagined_returns(told)
    by_source = {}
    for number, name in enumerate(names):
        chosen = segments.source == number
        if chosen.any():
            apart = Resampling(segments.episode[chosen], seed)
            by_source[name] = _correlation(real[chosen], imagined[chosen], apart)
    return ValueRanking(
        correlation=_correlation(real, imagined, resampling),
        by_source=by_source,
        real=real[:, -1].tolist(),
        imagined=imagined[:, -1].tolist(),
        source=[names[number] for number in segments.source.tolist()],
    )


def imagined_returns(told: Foretold) -> Tensor:
    """(B, H) expected sum of the rewards up to each step, the task going on as foretold."""
    going_on = told.continuation.roll(1, dims=1)
    going_on[:, 0] = 1
    return (told.reward * going_on.cumprod(1)).cumsum(1)


def _correlation(real: Tensor, imagined: Tensor, resampling: Resampling) -> Curve:
    x, y = real.double().numpy(), imagined.double().numpy()

    def statistic(chosen: np.ndarray) -> np.ndarray:
        return np.array([spearman(x[chosen, h], y[chosen, h]) for h in range(x.shape[1])])

    return resampling.statistic(statistic, _DRAWS)
