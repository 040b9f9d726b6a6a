"""Settings of the tasks, ``--env.*`` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dima.config import Config, EpisodeSteps, Fraction, NonNegative, Positive, Range

CONTROL_SECONDS = 1 / 60  # of a step of the environment
FrameSkip = Annotated[int, Range(4, 64)]
JointNoise = Annotated[float, Range(0, 0.5)]
PositionNoise = Annotated[float, Range(0, 0.05)]
Friction = Annotated[float, Range(0.01, 100)]
ContactTime = Annotated[float, Range(2, 20)]
ContactRatio = Annotated[float, Range(1, 100)]


@dataclass(frozen=True)
class DexHandsConfig(Config):
    """The left hand, length of episodes, noise at reset, contacts."""

    left_hand: Literal["copy", "mirror"] = "copy"  # copy: a second right hand, as published; mirror: a left one
    episode_limit: EpisodeSteps | None = None  # steps until truncation; None: the task's (125, doors 250)
    frame_skip: FrameSkip = 4  # physics steps per step of 1/60 s; the original's 2 are not stable here
    reset_action: Fraction = 0.01  # reset plays one step with actions up to this, Bi-DexHands' only randomness
    reset_joint_noise: JointNoise = 0.0  # of each hand joint at reset, uniform, as a share of its range
    reset_position_noise: PositionNoise = 0.0  # of both hands and a free object at reset, uniform, m
    reset_rotation_noise: JointNoise = 0.0  # likewise, about a random axis, rad
    friction: Friction | None = None  # on the object; None: the task's (bottle 5, doors 0.55, pen 1)
    contact_time: ContactTime = 2.0  # time constant of contacts, in physics steps; larger is softer
    contact_ratio: ContactRatio = 10.0  # MuJoCo's impratio; smaller lets grasps slip
    hands_touch: bool = True  # the two hands collide with each other
    door_spring: NonNegative = 0.0  # closes the leaves of a door, N m/rad; Bi-DexHands states 5, with its drive off
    door_damping: Positive = 1.0  # of the leaves of a door, N m s/rad
