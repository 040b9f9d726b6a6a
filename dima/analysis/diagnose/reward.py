"""Foretold rewards against real ones: step by step, and summed over a segment."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dima.analysis.diagnose.bootstrap import Curve, Resampling, pearson
from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.segments import Segments

POINTS = 400  # of a scatter plot, at most


@dataclass(frozen=True)
class RewardError:
    """In the environment's units."""

    step: Curve  # mean absolute error of a step's reward
    cumulative: Curve  # mean absolute error of the sum of rewards so far
    constant_step: Curve  # what always expecting the mean reward of these segments would give
    constant_cumulative: Curve
    bias: Curve  # foretold minus real, a step
    correlation: float | None  # between foretold and real reward of a step
    explained: float | None  # share of the real rewards' variance that is foretold, below 0 if worse than a constant
    real: list[float]  # some steps, drawn at random
    told: list[float]  # what was foretold of them


def reward_error(told: Foretold, segments: Segments, resampling: Resampling, seed: int) -> RewardError:
    """Compare every step that was really taken."""
    alive, real = segments.alive, segments.reward
    gap = told.reward - real
    mean = real[alive].double().mean().float()
    constant = (mean - real) * alive
    variance = real[alive].double().var(correction=0)
    steps = alive.nonzero()
    picked = steps[torch.randperm(len(steps), generator=torch.Generator().manual_seed(seed))[:POINTS]].unbind(1)
    return RewardError(
        step=resampling.mean(gap.abs(), alive),
        cumulative=resampling.mean(gap.cumsum(1).abs(), alive),
        constant_step=resampling.mean(constant.abs(), alive),
        constant_cumulative=resampling.mean(constant.cumsum(1).abs(), alive),
        bias=resampling.mean(gap, alive),
        correlation=pearson(told.reward[alive], real[alive]),
        explained=float(1 - gap[alive].double().square().mean() / variance) if variance > 0 else None,
        real=real[picked].tolist(),
        told=told.reward[picked].tolist(),
    )
