"""The four tasks: where hands and object start, how strong the hands are, how long an episode lasts.

Lengths are in metres, angles in radians: rotations about x, then y, then z of the world. The first hand is the right
one. Numbers are those of Bi-DexHands' tasks and settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dima.envs.dexhands import rewards
from dima.envs.dexhands.objects import Bottle, DoubleDoor, Pen, Vector


@dataclass(frozen=True)
class Start:
    """Where a hand's mount starts."""

    position: Vector
    euler: Vector  # applied after the mount's own rotation


@dataclass(frozen=True)
class View:
    """Camera of the pictures."""

    lookat: Vector
    distance: float
    azimuth: float  # degrees
    elevation: float


@dataclass(frozen=True)
class Task:
    """One task."""

    note: str  # for the list of tasks
    thing: Bottle | DoubleDoor | Pen  # the object
    right: Start
    left: Start
    force: float  # N, of a full action on a hand's forearm
    torque: float  # N m, likewise
    episode_limit: int  # steps
    friction: float  # of everything that touches the object
    outcome: Callable[[Any, Any, Any], rewards.Outcome]  # of palms, fingertips and the object's points
    progress: str  # what success is a threshold of, m
    view: View
    joints: Mapping[str, float] = field(default_factory=dict)  # of each hand that do not start at 0


def _door(inward: bool) -> Task:
    return Task(
        note=f"open both leaves of a door, {'pulling' if inward else 'pushing'}",
        thing=DoubleDoor(inward=inward),
        right=Start((0.55, 0.2, 0.6), (math.pi, 1.57, 1.57)),
        left=Start((0.55, -0.2, 0.6), (math.pi, -1.57, 1.57)),
        force=0.5 / 60 * 1e5,
        torque=0.5 / 60 * 1e3,
        episode_limit=250,
        friction=0.55,  # the mean of the hand's 1 and the door's 0.1
        outcome=rewards.door,
        progress="gap",
        view=View((0.15, 0.0, 0.68), 1.35, 215.0, -25.0),
    )


TASKS = {
    "bottle-cap": Task(
        note="hold a bottle with one hand, lift its cap with the other",
        thing=Bottle(),
        right=Start((0.0, -1.05, 0.5), (0.5, math.pi, math.pi)),
        left=Start((0.0, -0.25, 0.45), (0.0, 0.87, 0.0)),
        force=0.1 / 60 * 1e5,
        torque=0.1 / 60 * 1e3,
        episode_limit=125,
        friction=5.0,  # does not slip in practice; the original has 100
        outcome=rewards.bottle_cap,
        progress="lift",
        view=View((0.0, -0.64, 0.54), 0.95, 160.0, -20.0),
        joints={"THJ4": -1.04, "THJ3": 1.2, "THJ0": -1.57},
    ),
    "door-open-inward": _door(inward=True),
    "door-open-outward": _door(inward=False),
    "pen": Task(
        note="pull the cap off a pen that lies on a table",
        thing=Pen(),
        right=Start((0.55, 0.2, 0.8), (math.pi, 0.0, 1.57)),
        left=Start((0.55, -0.2, 0.8), (math.pi, 0.0, 1.57)),
        force=0.5 / 60 * 1e5,
        torque=0.1 / 60 * 1e3,
        episode_limit=125,
        friction=1.0,
        outcome=rewards.pen,
        progress="length",
        view=View((0.12, 0.0, 0.65), 1.2, 215.0, -30.0),
    ),
}
