"""Scripted hands, as a yardstick: they open the doors, lift the cap and pull the pen apart by feedback on observations.

A script is a list of moves for each hand. A move steers the mean of some fingertips towards a point of the object, by a
force in proportion to the distance, and sets the fingers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dima.envs.dexhands.hand import ACTUATED, DIGITS
from dima.envs.dexhands.objects import Vector
from dima.envs.dexhands.observation import ACTION, HAND, HAND_SIZE, OBJECT_SIZE


@dataclass(frozen=True)
class Move:
    """What a hand does for some steps.

    Attributes:
        steps: how long; the last move goes on for ever.
        point: place of the point among the object's.
        offset: from the point to where the fingertips go, m.
        gain: force per metre, in full forces.
        push: force on top, in full forces.
        digits: whose tips are steered, of ``ff mf rf lf th``.
        fingers: targets in [-1, 1] of joints; the others stay in the middle of their range.
    """

    steps: int
    point: int
    offset: Vector = (0.0, 0.0, 0.0)
    gain: float = 5.0
    push: Vector = (0.0, 0.0, 0.0)
    digits: Sequence[str] = DIGITS
    fingers: Mapping[str, float] = field(default_factory=dict)


Script = Sequence[Move]
Scripts = tuple[Script, Script]  # of the right and of the left hand

_FOUR = ("ff", "mf", "rf", "lf")  # without the thumb
_STRAIGHT = {"FFJ2": -1, "FFJ1": -1, "MFJ2": -1, "MFJ1": -1, "RFJ2": -1, "RFJ1": -1, "LFJ2": -1, "LFJ1": -1}
_AXIS = np.array([-0.644, 0.0, 0.765])  # of the bottle at the start


def _curl(j2: float, j1: float) -> dict[str, float]:
    """Targets of the middle joints of the four fingers."""
    return {f"{digit.upper()}{joint}": target for digit in _FOUR for joint, target in (("J2", j2), ("J1", j1))}


def _bottle_cap() -> Scripts:
    """The left hand closes round the bottle and lifts a little; the right one pinches the cap and draws it off."""
    left = Move(0, 0, gain=0, push=(0.048, -0.031, 0.15), fingers={**_curl(0.966, 0.807), "THJ4": 0.882, "THJ3": 0.228})
    wrist = {"WRJ0": -0.86, "WRJ1": 0.33, "THJ4": 0.221}
    ready = {**wrist, **_curl(-0.338, 0.245), "THJ3": -0.136, "THJ0": 0.061}
    grip = {**wrist, **_curl(0.732, 0.186), "THJ3": 1.0, "THJ0": -0.056, "THJ1": 0.248}
    near = (-0.045, 0.004, -0.014)
    x, y, z = near + 0.044 * _AXIS
    reach, pinch = Move(46, 1, near, 5.43, fingers=ready), Move(19, 1, near, 5.43, fingers=grip)
    return [reach, pinch, Move(0, 1, (x, y, z), 5.43, fingers=grip)], [left]


def _door(inward: bool) -> Scripts:
    """Outward: fingertips go to the handles and through them. Inward: fingers reach behind the bars, curl, and pull."""
    flat = {**_STRAIGHT, "WRJ1": 0.55, "WRJ0": 0.176}
    hook = {**flat, **_curl(0.4, 0.9)}
    scripts = []
    for point, side in ((1, 1), (0, -1)):
        if inward:
            beside = 0.05 * side  # of the handle, away from the other one
            script = [
                Move(35, point, (0.06, beside, 0.0), 9, digits=_FOUR, fingers=flat),
                Move(20, point, (-0.02, beside, 0.0), 9, digits=_FOUR, fingers=flat),
                Move(15, point, (-0.02, 0.8 * beside, 0.0), 9, digits=_FOUR, fingers=hook),
                Move(0, point, gain=0, push=(0.18, 0.0, 0.0), fingers=hook),
            ]
        else:
            script = [
                Move(40, point, (0.01, 0.0, 0.0), 8, fingers=flat),
                Move(0, point, (-0.06, 0.01 * side, 0.0), 5, fingers=flat),
            ]
        scripts.append(script)
    return scripts[0], scripts[1]


def _pen() -> Scripts:
    """Both hands come down over their half, close, and go apart."""
    ready = {**_curl(-0.306, -0.481), "THJ4": 0.222, "THJ3": -0.96, "THJ0": 0.87}
    grip = {**ready, **_curl(0.236, 0.453), "THJ3": 0.291, "THJ0": -0.229, "THJ1": -0.577, "WRJ1": 0.55}
    ready |= {"WRJ1": 0.55, "WRJ0": 0.176}
    grip |= {"WRJ0": 0.176}
    scripts = []
    for point, side in ((0, 1), (1, -1)):
        above, low = (-0.037, -0.003 * side, 0.054), (-0.037, -0.003 * side, -0.008)
        scripts.append(
            [
                Move(21, point, above, 6, digits=_FOUR, fingers=ready),
                Move(17, point, low, 6, digits=_FOUR, fingers=ready),
                Move(8, point, gain=0, push=(0.0, 0.0, -0.046), fingers=grip),
                Move(0, point, gain=0, push=(0.0, 0.12 * side, 0.06), fingers=grip),
            ]
        )
    return scripts[0], scripts[1]


SCRIPTS: dict[str, Scripts] = {
    "bottle-cap": _bottle_cap(),
    "door-open-inward": _door(inward=True),
    "door-open-outward": _door(inward=False),
    "pen": _pen(),
}


def act_both(task: str, step: int, observations: Iterable[np.ndarray]) -> np.ndarray:
    """Both hands' actions (2, 26) on a task, at a step of the episode, of their observations."""
    return np.stack([act(script, step, obs) for script, obs in zip(SCRIPTS[task], observations, strict=True)])


def act(script: Script, step: int, obs: np.ndarray) -> np.ndarray:
    """A hand's action (26,) at a step of the episode, of its observation (O,).

    Args:
        script: of the hand; its last move goes on for ever.
        step: of the episode, from 0.
        obs: (O,) its observation.
    """
    ends = np.cumsum([move.steps for move in script[:-1]])
    move = script[int(np.searchsorted(ends, step, side="right"))]
    tips = obs[HAND["fingertips"]].reshape(len(DIGITS), 13)[[DIGITS.index(digit) for digit in move.digits], :3]
    point = obs[HAND_SIZE + OBJECT_SIZE :].reshape(-1, 3)[move.point]
    action = np.zeros(ACTION, dtype=np.float32)
    action[:3] = move.gain * (point + move.offset - tips.mean(0)) + move.push
    for joint, target in move.fingers.items():
        action[6 + ACTUATED.index(joint)] = target
    return np.clip(action, -1, 1)
