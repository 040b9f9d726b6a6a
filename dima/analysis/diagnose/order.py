"""Does it matter in which order the agents are revealed? Compared with what noise and other actions change.

For world models that take agents in one after another. Everything but what is varied stays the same, noise included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Curve, Resampling
from dima.analysis.diagnose.forecasts import Foreteller
from dima.analysis.diagnose.segments import Segments
from dima.analysis.diagnose.units import Units

MIN_MEMBERS = 8  # noises and actions compared, at least: a team of two has two orders only


@dataclass(frozen=True)
class OrderSpread:
    """Spreads are root mean squares over segments and state features, in standard deviations of the data."""

    orders: list[list[int]]  # the agents, first revealed first
    members: int  # noises, and joint actions, that were compared
    order: Curve  # spread between orders, after each step
    noise: Curve  # spread between noises
    action: Curve  # spread between the actions of other segments
    share_of_noise: list[float | None]  # order spread by noise spread
    share_of_action: list[float | None]  # order spread by action spread


def order_spread(
    foreteller: Foreteller,
    segments: Segments,
    units: Units,
    limit: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> OrderSpread:
    """Foretell the same segments under several orders, noises and actions.

    Args:
        foreteller: of a world model that is :class:`~dima.world_models.base.SequentialReveal`.
        segments: a few; each is foretold some dozens of times.
        units: what the features are.
        limit: number of orders, at most.
        seed: of the orders drawn where there are more.
        advance: called after each future of all segments.
    """
    orders = some_orders(len(units.agents), limit, seed)
    members = max(len(orders), MIN_MEMBERS)
    resampling = Resampling(segments.episode, seed)

    def spread(futures: Iterable[Tensor]) -> Curve:
        """Of (B, H, S) states."""
        total, square, count = torch.zeros(()), torch.zeros(()), 0
        for state in futures:
            scaled = (state / units.state_scale).double()
            total, square, count = total + scaled, square + scaled.square(), count + 1
            advance()
        variance = (square - total.square() / count).clamp(min=0) / (count - 1)
        return resampling.mean(variance.mean(-1), segments.alive).map(np.sqrt)

    first = orders[0]
    by_order = spread(foreteller.foretell(segments, order=order).state for order in orders)
    by_noise = spread(foreteller.foretell(segments, draw=n, order=first).state for n in range(members))
    by_action = spread(
        foreteller.foretell(segments, action=segments.action.roll(n, 0), order=first).state for n in range(members)
    )
    return OrderSpread(
        orders=[list(order) for order in orders],
        members=members,
        order=by_order,
        noise=by_noise,
        action=by_action,
        share_of_noise=_ratio(by_order, by_noise),
        share_of_action=_ratio(by_order, by_action),
    )


def some_orders(agents: int, limit: int, seed: int) -> list[tuple[int, ...]]:
    """All orders of the agents, or ``limit`` different ones drawn at random where there are more."""
    if factorial(agents) <= limit:
        return list(permutations(range(agents)))
    rng, drawn = np.random.default_rng(seed), dict[tuple[int, ...], None]()
    while len(drawn) < limit:
        drawn[tuple(rng.permutation(agents).tolist())] = None
    return list(drawn)


def future_count(agents: int, limit: int) -> int:
    """How often :func:`order_spread` foretells its segments."""
    orders = min(limit, factorial(agents))
    return orders + 2 * max(orders, MIN_MEMBERS)


def _ratio(one: Curve, other: Curve) -> list[float | None]:
    return [a / b if a is not None and b else None for a, b in zip(one.mean, other.mean, strict=True)]
