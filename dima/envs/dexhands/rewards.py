"""Rewards, failures and successes of the tasks, as functions of points in space.

Every function takes

- ``palms`` (..., 2, 3): a point of the right and of the left palm,
- ``tips`` (..., 2, 5, 3): the fingertips of the right and of the left hand,
- ``points`` (..., K, 3): the object's, in the order in which they are observed,

with any leading axes, and returns an :class:`Outcome`. NumPy arrays, torch tensors and JAX arrays will do. The formulas
and thresholds are Bi-DexHands'; lengths in metres.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a task makes of a state; each of shape (...)."""

    reward: Any  # of the team
    failed: Any  # ends the episode
    succeeded: Any
    right: Any  # sum of the distances of the right hand's fingertips to its target
    left: Any
    progress: Any  # the quantity that success is a threshold of


def bottle_cap(palms: Any, tips: Any, points: Any) -> Outcome:
    """Lift the cap off the bottle that the left hand holds; ``points``: bottle, cap, origin of the cap's link.

    Turning the cap is not rewarded. The bottle falls, or a hand is too far from its target: failure.
    """
    bottle, cap, origin = points[..., 0, :], points[..., 1, :], points[..., 2, :]
    right, left = _reach(tips[..., 0, :, :], cap), _reach(tips[..., 1, :, :], bottle)
    right_palm, left_palm = _distance(palms[..., 0, :], cap), _distance(palms[..., 1, :], bottle)
    lift = _distance(origin, bottle)
    return Outcome(
        reward=2 - right - left_palm + (right <= 0.3) * (30 * lift),
        failed=(cap[..., 2] <= 0.5) | (right_palm >= 0.5) | (left_palm >= 0.2),
        succeeded=lift > 0.03,
        right=right,
        left=left,
        progress=lift,
    )


def door(palms: Any, tips: Any, points: Any) -> Outcome:
    """Bring the handles of a double door apart; ``points``: left handle, right handle. A hand strays: failure."""
    left_handle, right_handle = points[..., 0, :], points[..., 1, :]
    right, left = _reach(tips[..., 0, :, :], right_handle), _reach(tips[..., 1, :, :], left_handle)
    gap = abs(right_handle[..., 1] - left_handle[..., 1])
    return Outcome(
        reward=2 - right - left + ((right < 0.5) & (left < 0.5)) * (2 * gap),
        failed=(right >= 1.5) | (left >= 1.5),
        succeeded=gap > 0.5,
        right=right,
        left=left,
        progress=gap,
    )


def pen(palms: Any, tips: Any, points: Any) -> Outcome:
    """Pull the halves of a pen apart; ``points``: cap half (for the right hand), body half. A hand strays: failure."""
    cap, body = points[..., 0, :], points[..., 1, :]
    right, left = _reach(tips[..., 0, :, :], cap), _reach(tips[..., 1, :, :], body)
    length = _distance(cap, body)
    return Outcome(
        reward=math.exp(-10) ** right + math.exp(-10) ** left + ((right < 0.75) & (left < 0.75)) * (5 * length - 0.8),
        failed=(right >= 1.5) | (left >= 1.5),
        succeeded=5 * length > 1.5,
        right=right,
        left=left,
        progress=length,
    )


def _distance(a: Any, b: Any) -> Any:
    """(..., 3), (..., 3) -> (...)."""
    return ((a - b) ** 2).sum(-1) ** 0.5


def _reach(tips: Any, target: Any) -> Any:
    """Sum of the fingertips' distances to a target: (..., 5, 3), (..., 3) -> (...)."""
    return _distance(tips, target[..., None, :]).sum(-1)
