"""Settings of the tasks, ``--env.*`` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dima.config import Config, EpisodeSteps, Fraction, NonNegative, Positive, Range

CONTROL_SECONDS = 1 / 60  # of a step of the environment


@dataclass(frozen=True)
class DexHandsConfig(Config):
    """The left hand, length of episodes, noise at reset, contacts."""

    left_hand: Literal["copy", "mirror"] = (
        "copy"  # copy: a second right hand, as in Bi-DexHands; mirror: a true left hand
    )
    episode_limit: EpisodeSteps | None = None  # steps until truncation; None: the task's (125, doors 250)
    frame_skip: Annotated[int, Range(4, 64)] = (
        4  # physics steps per step of 1/60 s; the original's 2 let contacts explode here
    )
    reset_action: Fraction = 0.01  # reset plays one step with actions up to this, Bi-DexHands' only randomness
    reset_joint_noise: Annotated[float, Range(0, 0.5)] = (
        0.0  # of each hand joint at reset, uniform, as a fraction of its range
    )
    reset_position_noise: Annotated[float, Range(0, 0.05)] = 0.0  # of both hands and a free object at reset, uniform, m
    reset_rotation_noise: Annotated[float, Range(0, 0.5)] = 0.0  # likewise, about a random axis, rad
    friction: Annotated[float, Range(0.01, 100)] | None = (
        None  # of everything that touches the object; None: the task's (bottle 5, doors 0.55, pen 1)
    )
    contact_time: Annotated[float, Range(2, 20)] = 2.0  # time constant of contacts, in physics steps; larger is softer
    contact_ratio: Annotated[float, Range(1, 100)] = (
        10.0  # stiffness of friction over that of contact (impratio); smaller slips more
    )
    hands_touch: bool = True  # the two hands collide with each other
    door_spring: NonNegative = 0.0  # closes the leaves of a door, N m/rad; Bi-DexHands states 5, with its drive off
    door_damping: Positive = 1.0  # of the leaves of a door, N m s/rad
