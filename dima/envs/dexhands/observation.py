"""What hands observe: the state as one vector of named parts, of which each hand sees its own and the object's.

=============  ====  =========================================================================================
of each hand   size
=============  ====  =========================================================================================
positions        24  of the joints, -1 and 1 at their limits
velocities       24  of the joints, times 0.2
forces           24  of actuators and constraints on the joints, times 10
fingertips       65  of ff, mf, rf, lf, th: position 3, quaternion xyzw 4, velocity 3, angular velocity 3
contacts         30  force 3 and torque 3 of contacts on the fingertips, in their frames, times 10
palm              3  a point of the palm
base              3  Euler angles xyz of the mount, from 0 to 2 pi
action           26  the last one
=============  ====  =========================================================================================

After both hands (right, left) follows the object: position 3, quaternion xyzw 4, velocity 3, angular velocity times 0.2
3, and its points. Every feature is clipped to [-5, 5], as in Bi-DexHands: forces saturate at 0.5 N, angles at 5 rad.

Features are rounded, forces to 0.1 mN: a torque that is zero but for the simulator's rounding errors of 1e-16 would
look like a signal once it is divided by its standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dima.envs.dexhands.hand import DIGITS, JOINTS, MOUNT
from dima.envs.dexhands.scene import SIDES
from dima.envs.dexhands.tasks import Task

CLIP, TURN = 5.0, 2 * math.pi
DECIMALS, FORCE_DECIMALS = 5, 3  # of features
ACTION = 26  # base force 3 and torque 3, targets of 20 joints
HAND_PARTS = {
    "positions": 24,
    "velocities": 24,
    "forces": 24,
    "fingertips": 65,
    "contacts": 30,
    "palm": 3,
    "base": 3,
    "action": ACTION,
}
OBJECT_PARTS = {"pose": 7, "velocity": 3, "angular velocity": 3}


def slices(sizes: dict[str, int]) -> dict[str, slice]:
    """Where each part stands in a vector of all."""
    ends = np.cumsum(list(sizes.values()))
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends.tolist(), strict=True)}


HAND, OBJECT = slices(HAND_PARTS), slices(OBJECT_PARTS)
HAND_SIZE, OBJECT_SIZE = sum(HAND_PARTS.values()), sum(OBJECT_PARTS.values())


class Observer:
    """Reads states (S,) off a simulation, by arrays of indices that are looked up once.

    Args:
        model: of :func:`~dima.envs.dexhands.scene.build`.
        task: whose world it is.
    """

    def __init__(self, model: Any, task: Task) -> None:
        joints = [model.joint(f"{side}_{joint}") for side in SIDES for joint in JOINTS]
        self.joint_qpos = np.array([int(joint.qposadr[0]) for joint in joints])
        self.joint_dofs = np.array([int(joint.dofadr[0]) for joint in joints])
        low, high = np.array([joint.range for joint in joints]).T
        self._scale, self._offset = 2 / (high - low), (high + low) / (low - high)
        self.tips = np.array([model.body(f"{side}_{digit}distal").id for side in SIDES for digit in DIGITS])
        self.mounts = np.array([model.body(f"{side}_{MOUNT}").id for side in SIDES])
        self._roots = np.repeat(self.mounts, len(DIGITS))  # body whose centre of mass velocities refer to
        self.thing = int(model.body(task.thing.ROOT).id)
        self._thing_dofs = slice(*(int(model.body_dofadr[self.thing]) + np.array([0, 6]))) if task.thing.free else None
        names = [f"{side}_palm_point" for side in SIDES]
        names += [f"{side}_{digit}_point" for side in SIDES for digit in DIGITS]
        names += [f"point:{name}" for name in task.thing.POINTS]
        self._sites = np.array([model.site(name).id for name in names])
        self.points = np.zeros((len(names), 3))
        self.size = 2 * HAND_SIZE + OBJECT_SIZE + 3 * len(task.thing.POINTS)
        self._names = task.thing.POINTS
        self._allocate()

    def _allocate(self) -> None:
        """The vector, and views of its parts: (2, ...) for both hands."""
        self._state = np.zeros(self.size)
        hands = self._state[: 2 * HAND_SIZE].reshape(2, HAND_SIZE)
        self._hand = {name: hands[:, part] for name, part in HAND.items()}
        self._tip = self._hand["fingertips"].reshape(2, len(DIGITS), 13)
        self._contact = self._hand["contacts"].reshape(2, len(DIGITS), 6)
        thing = self._state[2 * HAND_SIZE :]
        self._object = {name: thing[part] for name, part in OBJECT.items()}
        self._object_points = thing[OBJECT_SIZE:]

    @property
    def palms(self) -> np.ndarray:
        """(2, 3) points of the palms at the last :meth:`read`."""
        return self.points[:2]

    @property
    def fingertips(self) -> np.ndarray:
        """(2, 5, 3) points of the fingertips, 2 cm from where the state has them."""
        return self.points[2:12].reshape(2, len(DIGITS), 3)

    @property
    def object_points(self) -> np.ndarray:
        """(K, 3) points of the object."""
        return self.points[12:]

    def angles(self, scaled: np.ndarray) -> np.ndarray:
        """Angles (48,) of both hands' joints, of their scaled ones in a state."""
        return (scaled - self._offset) / self._scale

    def read_forces(self, data: Any) -> None:
        """Read forces of the last physics step, after ``mj_rnePostConstraint`` and before positions are updated."""
        forces = (data.qfrc_actuator + data.qfrc_constraint)[self.joint_dofs]
        np.round(10 * forces.reshape(2, -1), FORCE_DECIMALS, out=self._hand["forces"])
        wrench, arm = data.cfrc_ext[self.tips], data.subtree_com[self._roots] - data.xpos[self.tips]
        rotation, force = data.xmat[self.tips].reshape(2, 5, 3, 3), wrench[:, 3:]  # wrenches are torque, then force
        torque = wrench[:, :3] + _cross(arm, force)
        world = 10 * np.stack([force, torque], axis=1).reshape(2, 5, 2, 3)
        np.round(world @ rotation, FORCE_DECIMALS, out=self._contact.reshape(2, 5, 2, 3))

    def read_points(self, data: Any) -> None:
        """Read palms, fingertips and the object's points, which rewards are made of."""
        np.take(data.site_xpos, self._sites, axis=0, out=self.points)

    def read(self, data: Any, action: np.ndarray) -> np.ndarray:
        """The state (S,) float32.

        Args:
            data: of the simulation, whose positions and velocities are up to date.
            action: (2, 26), the last one.
        """
        hand, tip, thing = self._hand, self._tip, self._object
        hand["positions"][:] = (data.qpos[self.joint_qpos] * self._scale + self._offset).reshape(2, -1)
        np.multiply(data.qvel[self.joint_dofs].reshape(2, -1), 0.2, out=hand["velocities"])
        position, velocity = data.xpos[self.tips], data.cvel[self.tips]  # angular, then that of the root's centre
        tip[..., :3] = position.reshape(2, 5, 3)
        tip[..., 3:7] = data.xquat[self.tips][:, _XYZW].reshape(2, 5, 4)
        spin = velocity[:, :3]
        tip[..., 7:10] = (velocity[:, 3:] + _cross(spin, position - data.subtree_com[self._roots])).reshape(2, 5, 3)
        tip[..., 10:] = spin.reshape(2, 5, 3)
        self.read_points(data)
        hand["palm"][:] = self.palms
        hand["base"][:] = [euler_angles(quat) for quat in data.xquat[self.mounts].tolist()]
        hand["action"][:] = action
        thing["pose"][:3], thing["pose"][3:] = data.xpos[self.thing], data.xquat[self.thing][_XYZW]
        if self._thing_dofs is not None:
            motion = data.qvel[self._thing_dofs]
            thing["velocity"][:] = motion[:3]
            thing["angular velocity"][:] = 0.2 * (data.xmat[self.thing].reshape(3, 3) @ motion[3:])
        self._object_points[:] = self.object_points.ravel()
        return np.minimum(np.maximum(self._state, -CLIP), CLIP).round(DECIMALS).astype(np.float32)

    def of_hands(self, state: np.ndarray) -> list[np.ndarray]:
        """Each hand's observation of a state (S,): its own part and the object's."""
        thing = state[2 * HAND_SIZE :]
        return [np.concatenate([state[i * HAND_SIZE : (i + 1) * HAND_SIZE], thing]) for i in range(2)]

    def names(self) -> list[str]:
        """Names of the state's features, such as ``right positions: FFJ3``."""
        tip = ["x", "y", "z", *(f"quaternion {axis}" for axis in "xyzw")]
        tip += [f"{kind} {axis}" for kind in ("velocity", "angular velocity") for axis in "xyz"]
        wrench = [f"{kind} {axis}" for kind in ("force", "torque") for axis in "xyz"]
        inner = {
            "positions": JOINTS,
            "velocities": JOINTS,
            "forces": JOINTS,
            "fingertips": [f"{digit} {name}" for digit in DIGITS for name in tip],
            "contacts": [f"{digit} {name}" for digit in DIGITS for name in wrench],
            "palm": "xyz",
            "base": "xyz",
            "action": [str(i) for i in range(ACTION)],
        }
        names = [f"{side} {part}: {name}" for side in SIDES for part in HAND_PARTS for name in inner[part]]
        names += [f"object pose: {name}" for name in tip[:7]]
        names += [f"object {part}: {axis}" for part in ("velocity", "angular velocity") for axis in "xyz"]
        return names + [f"object points: {point} {axis}" for point in self._names for axis in "xyz"]


_XYZW = np.array([1, 2, 3, 0])  # MuJoCo's quaternions begin with w


def euler_angles(quat: Sequence[float]) -> tuple[float, float, float]:
    """Rotations about x, then y, then z of the world, from 0 to 2 pi, of a quaternion w, x, y, z."""
    w, x, y, z = quat
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(min(max(2 * (w * y - z * x), -1), 1))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return roll % TURN, pitch % TURN, yaw % TURN


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products (..., 3), without the overhead of ``np.cross`` for small arrays."""
    return a[..., _YZX] * b[..., _ZXY] - a[..., _ZXY] * b[..., _YZX]


_YZX, _ZXY = np.array([1, 2, 0]), np.array([2, 0, 1])
