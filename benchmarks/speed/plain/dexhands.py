"""The step of ``dexhands/...`` as a first version would have it: parts by name, one body and one finger at a time.

The physics is the library's, one call per physics step; every quantity is looked up by name where it is needed.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from dima.envs.dexhands.hand import ACTUATED, DIGITS, JOINTS
from dima.envs.dexhands.scene import SIDES
from dima.envs.dexhands.settings import DexHandsConfig
from dima.envs.dexhands.tasks import TASKS

Step = tuple[np.ndarray, float, bool, bool]  # state (S,), reward, failure, success


class PlainHands:
    """Steps a task's simulation.

    Args:
        task: of ``TASKS``.
        model: of the task, with the default settings.
    """

    def __init__(self, task: str, model: Any) -> None:
        self.name, self.task, self.model, self.data = task, TASKS[task], model, mujoco.MjData(model)

    def place(self, snapshot: np.ndarray) -> None:
        """Continue from a state of the simulation, as ``mj_getState`` gives it."""
        mujoco.mj_setState(self.model, self.data, snapshot, mujoco.mjtState.mjSTATE_INTEGRATION)

    def step(self, actions: np.ndarray) -> Step:
        """Play both hands' actions (2, 26)."""
        model, data = self.model, self.data
        for side, action in zip(SIDES, actions, strict=True):
            action = np.clip(action, -1, 1).astype(np.float64)
            wrench = np.concatenate([action[:3] * self.task.force, action[3:6] * self.task.torque])
            data.body(f"{side}_forearm").xfrc_applied[:] = wrench
            for joint, target in zip(ACTUATED, action[6:], strict=True):
                low, high = model.actuator(f"{side}_A_{joint}").ctrlrange
                data.actuator(f"{side}_A_{joint}").ctrl[:] = (low + high) / 2 + target * (high - low) / 2
        for _ in range(DexHandsConfig().frame_skip):
            mujoco.mj_step(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        forces = {side: self._forces(side) for side in SIDES}
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        parts = []
        for side, action in zip(SIDES, actions, strict=True):
            parts += self._hand(side, np.clip(action, -1, 1), *forces[side])
        state = np.clip(np.concatenate([*parts, *self._object()]), -5, 5).round(5).astype(np.float32)
        return state, *self._outcome()

    def _forces(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Of the joints (24,) and on the fingertips (30,)."""
        data = self.data
        joints = [data.joint(f"{side}_{joint}") for joint in JOINTS]
        on_joints = np.array([float(joint.qfrc_actuator[0] + joint.qfrc_constraint[0]) for joint in joints])
        on_tips = []
        for digit in DIGITS:
            body = data.body(f"{side}_{digit}distal")
            torque, force = body.cfrc_ext[:3], body.cfrc_ext[3:]
            torque = torque + np.cross(data.body(f"{side}_mount").subtree_com - body.xpos, force)
            frame = body.xmat.reshape(3, 3)
            on_tips += [frame.T @ force, frame.T @ torque]
        return on_joints, np.concatenate(on_tips)

    def _hand(self, side: str, action: np.ndarray, on_joints: np.ndarray, on_tips: np.ndarray) -> list[Any]:
        model, data = self.model, self.data
        angles, speeds = [], []
        for joint in JOINTS:
            low, high = model.joint(f"{side}_{joint}").range
            angles.append((2 * data.joint(f"{side}_{joint}").qpos[0] - high - low) / (high - low))
            speeds.append(0.2 * data.joint(f"{side}_{joint}").qvel[0])
        tips = []
        for digit in DIGITS:
            body = data.body(f"{side}_{digit}distal")
            velocity = np.zeros(6)
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body.id, velocity, 0)
            tips += [body.xpos, body.xquat[1:], body.xquat[:1], velocity[3:], velocity[:3]]
        palm = data.site(f"{side}_palm_point").xpos
        w, x, y, z = data.body(f"{side}_mount").xquat
        euler = [
            np.arctan2(2 * (w * x + y * z), 1 - 2 * (x**2 + y**2)),
            np.arcsin(np.clip(2 * (w * y - z * x), -1, 1)),
            np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2)),
        ]
        on_joints, on_tips = (10 * on_joints).round(3), (10 * on_tips).round(3)
        return [angles, speeds, on_joints, *tips, on_tips, palm, np.mod(euler, 2 * np.pi), action]

    def _points(self) -> list[np.ndarray]:
        return [self.data.site(f"point:{name}").xpos for name in self.task.thing.POINTS]

    def _object(self) -> list[Any]:
        data, thing = self.data, self.task.thing
        body, motion = data.body(thing.ROOT), np.zeros(6)
        if thing.free:
            mujoco.mj_objectVelocity(self.model, data, mujoco.mjtObj.mjOBJ_XBODY, body.id, motion, 0)
        return [body.xpos, body.xquat[1:], body.xquat[:1], motion[3:], 0.2 * motion[:3], *self._points()]

    def _reach(self, side: str, target: np.ndarray) -> float:
        return sum(float(np.linalg.norm(self.data.site(f"{side}_{digit}_point").xpos - target)) for digit in DIGITS)

    def _palm(self, side: str, target: np.ndarray) -> float:
        return float(np.linalg.norm(self.data.site(f"{side}_palm_point").xpos - target))

    def _outcome(self) -> tuple[float, bool, bool]:
        points = self._points()
        if self.name == "bottle-cap":
            bottle, cap, link = points
            right, lift = self._reach("right", cap), float(np.linalg.norm(link - bottle))
            reward = 2 - right - self._palm("left", bottle) + (30 * lift if right <= 0.3 else 0)
            far = self._palm("right", cap) >= 0.5 or self._palm("left", bottle) >= 0.2
            return reward, bool(cap[2] <= 0.5 or far), lift > 0.03
        if self.name == "pen":
            right, left = self._reach("right", points[0]), self._reach("left", points[1])
            length = float(np.linalg.norm(points[0] - points[1]))
            pull = 5 * length - 0.8 if right < 0.75 and left < 0.75 else 0
            return np.exp(-10 * right) + np.exp(-10 * left) + pull, right >= 1.5 or left >= 1.5, 5 * length > 1.5
        right, left = self._reach("right", points[1]), self._reach("left", points[0])
        gap = float(abs(points[0][1] - points[1][1]))
        reward = 2 - right - left + (2 * gap if right < 0.5 and left < 0.5 else 0)
        return reward, right >= 1.5 or left >= 1.5, gap > 0.5
