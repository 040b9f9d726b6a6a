"""Noise at the start of an episode."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from dima.envs.dexhands.observation import Observer
from dima.envs.dexhands.scene import SIDES
from dima.envs.dexhands.settings import DexHandsConfig
from dima.envs.dexhands.tasks import Task


def add_noise(
    qpos: np.ndarray, model: Any, task: Task, config: DexHandsConfig, observer: Observer, random: np.random.Generator
) -> None:
    """Move coordinates ``qpos`` (nq,), in place, by the noise that the settings ask for."""
    if not (config.reset_joint_noise or config.reset_position_noise or config.reset_rotation_noise):
        return  # and leave the random stream alone
    joints = observer.joint_qpos
    low, high = model.jnt_range[model.dof_jntid[observer.joint_dofs]].T
    shift = config.reset_joint_noise * random.uniform(-1, 1, joints.size) * (high - low)
    qpos[joints] = np.clip(qpos[joints] + shift, low, high)
    poses = [model.joint(f"{side}_base_{name}").qposadr[0] for side in SIDES for name in ("x", "rotation")]
    if task.thing.free:
        first = model.joint(task.thing.ROOT).qposadr[0]
        poses += [first, first + 3]
    for position, rotation in zip(poses[::2], poses[1::2], strict=True):
        qpos[position : position + 3] += random.uniform(-1, 1, 3) * config.reset_position_noise
        axis = random.normal(size=3)
        turn = axis / np.linalg.norm(axis) * random.uniform(0, config.reset_rotation_noise)
        mujoco.mju_quatIntegrate(qpos[rotation : rotation + 4], turn, 1.0)
