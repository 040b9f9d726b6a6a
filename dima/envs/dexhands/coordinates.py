"""The simulator's coordinates, recovered from states: for pictures, and to go on from a state.

A state holds the joints' angles, but not the place of a hand's base: that is where fingertips and palm come closest to
those of the state. The object's pose is in the state, its joints follow from its points. Left out: the turn of the
bottle's cap, and how fast caps and leaves move.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from dima.envs.dexhands.hand import DIGITS, MOUNT
from dima.envs.dexhands.observation import HAND, HAND_SIZE, OBJECT, OBJECT_SIZE, Observer
from dima.envs.dexhands.scene import SIDES
from dima.envs.dexhands.tasks import Task

_WXYZ = np.array([3, 0, 1, 2])  # MuJoCo's quaternions begin with w


class Recovery:
    """Recovers coordinates of one task.

    Args:
        model: of :func:`~dima.envs.dexhands.scene.build`.
        task: whose world it is.
    """

    def __init__(self, model: Any, task: Task) -> None:
        self._model, self._data, self._task = model, mujoco.MjData(model), task
        self._observer = Observer(model, task)
        self._bases = [
            tuple(int(model.joint(f"{side}_base_{name}").qposadr[0]) for name in ("x", "rotation")) for side in SIDES
        ]
        self._anchors = [model.joint(f"{side}_base_rotation").pos.copy() for side in SIDES]

    def qpos(self, states: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Coordinates (T, nq).

        Args:
            states: (T, S).
            first: (nq,) coordinates at the first state, from which those that states leave out are taken.
        """
        return np.stack([self._one(state, first) for state in np.asarray(states, dtype=np.float64)])

    def progress(self, qpos: np.ndarray) -> float:
        """What success is a threshold of, at coordinates (nq,)."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        observer = self._observer
        observer.read_points(self._data)
        return float(self._task.outcome(observer.palms, observer.fingertips, observer.object_points).progress)

    def _one(self, state: np.ndarray, first: np.ndarray) -> np.ndarray:
        qpos = first.copy()
        hands = state[: 2 * HAND_SIZE].reshape(2, HAND_SIZE)
        qpos[self._observer.joint_qpos] = self._observer.angles(hands[:, HAND["positions"]].ravel())
        for position, rotation in self._bases:
            qpos[position : position + 3] = 0
            qpos[rotation : rotation + 4] = (1, 0, 0, 0)
        self._place_object(qpos, state[2 * HAND_SIZE :])
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        for i, hand in enumerate(hands):
            self._place_base(qpos, i, hand)
        return qpos

    def _place_base(self, qpos: np.ndarray, i: int, hand: np.ndarray) -> None:
        """Move hand i, whose base is at 0, to where its state has fingertips and palm."""
        data, observer = self._data, self._observer
        tips = hand[HAND["fingertips"]].reshape(len(DIGITS), 13)[:, :3]
        goal = np.concatenate([tips, hand[None, HAND["palm"]]])
        palm = data.site(f"{SIDES[i]}_palm_point").xpos
        here = np.concatenate([data.xpos[observer.tips[i * len(DIGITS) : (i + 1) * len(DIGITS)]], palm[None]])
        rotation = closest_rotation(here - here.mean(0), goal - goal.mean(0))
        mount = data.body(f"{SIDES[i]}_{MOUNT}")
        anchor = mount.xpos + mount.xmat.reshape(3, 3) @ self._anchors[i]
        position, ball = self._bases[i]
        qpos[position : position + 3] = goal.mean(0) + rotation @ (anchor - here.mean(0)) - anchor
        frame = mount.xmat.reshape(3, 3)
        mujoco.mju_mat2Quat(qpos[ball : ball + 4], (frame.T @ rotation @ frame).ravel())

    def _place_object(self, qpos: np.ndarray, block: np.ndarray) -> None:
        model, thing = self._model, self._task.thing
        pose, points = block[OBJECT["pose"]], block[OBJECT_SIZE:].reshape(-1, 3)
        if thing.free:
            at = int(model.joint(thing.ROOT).qposadr[0])
            length = np.linalg.norm(pose[3:])
            qpos[at : at + 3] = pose[:3]
            qpos[at + 3 : at + 7] = pose[3:][_WXYZ] / length if length > 1e-9 else (1, 0, 0, 0)
        for name, value in thing.joints(points).items():
            joint = model.joint(name)
            qpos[joint.qposadr[0]] = np.clip(value, *joint.range)


def closest_rotation(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that brings centred points closest to others, both (P, 3), by Kabsch's algorithm."""
    left, _, right = np.linalg.svd(there.T @ here)
    handedness = np.sign(np.linalg.det(left @ right))
    rotation: np.ndarray = left @ np.diag([1, 1, handedness]) @ right
    return rotation
