"""Scripted hands, as a yardstick: they open the doors, lift the cap and pull the pen apart by feedback on observations.

A script is a list of moves for each hand. A move steers the mean of some fingertips towards a point of the object, by a
force in proportion to the distance, and sets the fingers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dima.envs.dexhands.hand import ACTUATED, DIGITS
from dima.envs.dexhands.observation import ACTION, HAND, HAND_SIZE, OBJECT_SIZE

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Move:
    """What a hand does for some steps.

    Attributes:
        steps: how long.
        point: place of the point among the object's.
        offset: from the point to where the fingertips go, m.
        gain: force per metre, in full forces.
        push: force on top, in full forces.
        torque: about the axes of the world, in full torques.
        digits: whose tips are steered, of ``ff mf rf lf th``.
        fingers: targets in [-1, 1] of joints whose name begins with the key; those of longer keys prevail.
    """

    steps: int
    point: int
    offset: Vector = (0.0, 0.0, 0.0)
    gain: float = 5.0
    push: Vector = (0.0, 0.0, 0.0)
    torque: Vector = (0.0, 0.0, 0.0)
    digits: Sequence[str] = DIGITS
    fingers: Mapping[str, float] = field(default_factory=dict)


Script = Sequence[Move]


def act(script: Script, step: int, obs: np.ndarray) -> np.ndarray:
    """A hand's action (26,) at a step of the episode, of its observation (O,); the last move goes on for ever."""
    ends = np.cumsum([move.steps for move in script])
    move = script[min(int(np.searchsorted(ends, step, side="right")), len(script) - 1)]
    tips = obs[HAND["fingertips"]].reshape(len(DIGITS), 13)[[DIGITS.index(digit) for digit in move.digits], :3]
    point = obs[HAND_SIZE + OBJECT_SIZE :].reshape(-1, 3)[move.point]
    action = np.zeros(ACTION)
    action[:3] = move.gain * (point + move.offset - tips.mean(0)) + move.push
    action[3:6] = move.torque
    for prefix in sorted(move.fingers, key=len):
        for place, joint in enumerate(ACTUATED):
            if joint.startswith(prefix):
                action[6 + place] = move.fingers[prefix]
    return np.clip(action, -1, 1)
