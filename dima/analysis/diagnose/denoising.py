"""How the next state takes shape while one agent after another is revealed.

For world models that take agents in one after another, in the order they do so when left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Curve, Resampling
from dima.analysis.diagnose.forecasts import Foreteller
from dima.analysis.diagnose.segments import Segments
from dima.analysis.diagnose.units import Units
from dima.errors import DivergenceError
from dima.runtime.rng import drawn_from
from dima.world_models.base import SequentialReveal


@dataclass(frozen=True)
class Stage:
    """What is expected once the model has seen the actions of some agents, and has finished with them."""

    agents: list[str]  # whose newest action it sees
    error: Curve  # of the expected state after each step of an imagination, mean absolute, standardised


@dataclass(frozen=True)
class TakingShape:
    """In the model's own imagination, of real segments and their actions."""

    order: list[str]  # in which the agents are revealed
    stages: list[Stage]
    levels: dict[str, list[float]]  # by group of state features: error at each level of the first step
    level_agents: list[list[str]]  # whose action each level sees


def taking_shape(foreteller: Foreteller, segments: Segments, units: Units, seed: int) -> TakingShape:
    """Follow the estimate of the next state through the levels, at every step of the segments.

    Args:
        foreteller: of a world model that is :class:`~dima.world_models.base.SequentialReveal`.
        segments: a few.
        units: what the features are.
        seed: of the intervals.
    """
    model = foreteller.world_model
    assert isinstance(model, SequentialReveal)
    seen, estimate = _estimates(foreteller, segments)
    gap = (estimate - segments.state).abs() / units.state_scale  # (K, B, H, S)
    resampling = Resampling(segments.episode, seed)
    names = [[units.agents[agent] for agent in agents] for agents in seen]
    last = [level for level in range(len(names)) if level + 1 == len(names) or names[level + 1] != names[level]]
    alive = segments.alive[:, 0]
    return TakingShape(
        order=[units.agents[agent] for agent in model.reveal_order],
        stages=[Stage(names[level], resampling.mean(gap[level].mean(-1), segments.alive)) for level in last],
        levels={name: gap[:, alive, 0][..., places].mean((1, 2)).tolist() for name, places in units.groups.items()},
        level_agents=names,
    )


@torch.no_grad()
def _estimates(foreteller: Foreteller, segments: Segments) -> tuple[list[list[int]], Tensor]:
    """The agents that each of K levels sees, and the states (K, B, H, S) expected there."""
    model, device = foreteller.world_model, foreteller.device
    assert isinstance(model, SequentialReveal)
    told = []
    with drawn_from(device, foreteller.seed):
        latent = model.start(segments.start.to(device))
        for action in segments.action.to(device).unbind(1):
            told.append(model.reveal(latent, action, model.reveal_order))
            latent = model.step_in_order(latent, action, model.reveal_order).latent
    estimate = torch.stack([reveal.estimate for reveal in told], dim=2).cpu()
    estimate = torch.where(segments.alive[..., None], estimate, 0.0)
    if not estimate.isfinite().all():
        raise DivergenceError("the world model's state is not finite while it takes shape: it diverged")
    return told[0].agents, estimate
