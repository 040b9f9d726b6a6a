"""Models that reveal agents' actions one after another: effect of the order, error at each noise level.

Both apply to :class:`~dima.world_models.base.SequentialReveal` models only. Everything that is not varied stays the
same, noise included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Bootstrap, Curve
from dima.analysis.diagnose.episodes import FeatureScales
from dima.analysis.diagnose.rollouts import Forecaster, Segments
from dima.errors import DivergenceError
from dima.runtime.rng import drawn_from
from dima.world_models.base import SequentialReveal

MIN_VARIANTS = 8  # of the noise and of the actions: a team of two has two orders only


@dataclass(frozen=True)
class OrderSensitivity:
    """Standard deviation of predicted states over orders, noises and actions.

    Root mean squares over segments and state features, in standard deviations of the data, after each step.
    """

    orders: list[list[int]]  # agents, first revealed first
    variants: int  # noises, and joint actions, that were compared
    order: Curve  # over orders
    noise: Curve  # over noises
    action: Curve  # over actions of other segments
    order_noise_ratio: list[float | None]
    order_action_ratio: list[float | None]


def order_sensitivity(
    forecaster: Forecaster,
    segments: Segments,
    scales: FeatureScales,
    limit: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> OrderSensitivity:
    """Forecast the same segments under several orders, noises and actions.

    Args:
        forecaster: of a :class:`~dima.world_models.base.SequentialReveal` model.
        segments: a few; each is forecast dozens of times.
        scales: of the features.
        limit: number of orders, at most.
        seed: of the orders drawn where there are more.
        advance: called after each forecast of all segments.
    """
    orders = choose_orders(len(scales.agents), limit, seed)
    variants = max(len(orders), MIN_VARIANTS)
    bootstrap = Bootstrap(segments.episode, seed)

    def state(draw: int = 0, action: Tensor | None = None, order: Sequence[int] = orders[0]) -> Tensor:
        predicted = forecaster.forecast(segments, draw=draw, action=action, order=order).state
        assert predicted is not None  # states are what such a model reveals
        return predicted

    def deviation(forecasts: Iterable[Tensor]) -> Curve:
        """Standard deviation over (B, H, S) states."""
        total, square, count = torch.zeros(()), torch.zeros(()), 0
        for forecast in forecasts:
            scaled = (forecast / scales.state_scale).double()
            total, square, count = total + scaled, square + scaled.square(), count + 1
            advance()
        variance = (square - total.square() / count).clamp(min=0) / (count - 1)
        return bootstrap.mean(variance.mean(-1), segments.alive).map(np.sqrt)

    by_order = deviation(state(order=order) for order in orders)
    by_noise = deviation(state(draw=n) for n in range(variants))
    by_action = deviation(state(action=segments.action.roll(n, 0)) for n in range(variants))
    return OrderSensitivity(
        orders=[list(order) for order in orders],
        variants=variants,
        order=by_order,
        noise=by_noise,
        action=by_action,
        order_noise_ratio=_ratio(by_order, by_noise),
        order_action_ratio=_ratio(by_order, by_action),
    )


def choose_orders(agents: int, limit: int, seed: int) -> list[tuple[int, ...]]:
    """All orders of the agents, or ``limit`` distinct random ones where there are more."""
    if factorial(agents) <= limit:
        return list(permutations(range(agents)))
    rng, drawn = np.random.default_rng(seed), dict[tuple[int, ...], None]()
    while len(drawn) < limit:
        drawn[tuple(rng.permutation(agents).tolist())] = None
    return list(drawn)


def forecast_count(agents: int, limit: int) -> int:
    """Number of times that :func:`order_sensitivity` forecasts its segments."""
    orders = min(limit, factorial(agents))
    return orders + 2 * max(orders, MIN_VARIANTS)


def _ratio(one: Curve, other: Curve) -> list[float | None]:
    return [a / b if a is not None and b else None for a, b in zip(one.mean, other.mean, strict=True)]


@dataclass(frozen=True)
class Stage:
    """Error of the estimated next state when the actions of these agents are revealed."""

    agents: list[str]
    error: Curve  # after each step of a rollout, mean absolute, standardised


@dataclass(frozen=True)
class DenoisingError:
    """Error of the estimated next state while the agents are revealed, on real segments and their actions."""

    order: list[str]  # in which the agents are revealed
    stages: list[Stage]
    level_errors: dict[str, list[float]]  # by group of state features: at each noise level of the first step
    level_agents: list[list[str]]  # agents whose actions each noise level is conditioned on


def denoising_error(forecaster: Forecaster, segments: Segments, scales: FeatureScales, seed: int) -> DenoisingError:
    """Measure the error of the estimate at every noise level, in the model's own order.

    Args:
        forecaster: of a :class:`~dima.world_models.base.SequentialReveal` model.
        segments: a few.
        scales: of the features.
        seed: of the intervals.

    Raises:
        DivergenceError: an estimate is NaN or infinite.
    """
    model = forecaster.world_model
    assert isinstance(model, SequentialReveal)
    revealed, estimate = _estimates(forecaster, segments)
    error = (estimate - segments.state).abs() / scales.state_scale  # (K, B, H, S)
    bootstrap = Bootstrap(segments.episode, seed)
    names = [[scales.agents[agent] for agent in agents] for agents in revealed]
    # the last noise level of each set of revealed agents
    last = [level for level in range(len(names)) if level + 1 == len(names) or names[level + 1] != names[level]]
    alive = segments.alive[:, 0]
    return DenoisingError(
        order=[scales.agents[agent] for agent in model.reveal_order],
        stages=[Stage(names[level], bootstrap.mean(error[level].mean(-1), segments.alive)) for level in last],
        level_errors={
            name: error[:, alive, 0][..., features].mean((1, 2)).tolist() for name, features in scales.groups.items()
        },
        level_agents=names,
    )


@torch.no_grad()
def _estimates(forecaster: Forecaster, segments: Segments) -> tuple[list[list[int]], Tensor]:
    """Agents revealed at each of K noise levels, and the next states (K, B, H, S) estimated there."""
    model, device = forecaster.world_model, forecaster.device
    assert isinstance(model, SequentialReveal)
    reveals = []
    with drawn_from(device, forecaster.seed):
        latent = model.start(segments.start.to(device))
        for action in segments.action.to(device).unbind(1):
            reveals.append(model.reveal(latent, action, model.reveal_order))
            latent = model.step_in_order(latent, action, model.reveal_order).latent
    estimate = torch.stack([reveal.estimate for reveal in reveals], dim=2).cpu()
    estimate = torch.where(segments.alive[..., None], estimate, 0.0)
    if not estimate.isfinite().all():
        raise DivergenceError("the world model's estimate of the next state is not finite: it diverged")
    return reveals[0].agents, estimate
