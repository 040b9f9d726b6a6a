"""The simulator's coordinates ``qpos`` and ``qvel``, recovered from a task's states.

A robot's state is its observation. Most v5 tasks observe ``qpos`` without the root's position, then ``qvel``, then
quantities that follow from both; the root's position is integrated from its velocity by the trapezoidal rule. Three
tasks compute their observations (angles as sine and cosine, bodies instead of joints); the coupled cheetahs have two
roots. Velocities that the state omits, those of a pushed object or a target, are set to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Coordinates = tuple[np.ndarray, np.ndarray]  # qpos (T, nq), qvel (T, nv)
_FREE, _BALL = 0, 1  # MuJoCo's joint types with a quaternion


@dataclass(frozen=True)
class Layout:
    """Relation of a task's state to the simulator's coordinates.

    Attributes:
        read: model and states (T, S) -> ``qpos`` and ``qvel``, zero if not in the state.
        unseen_qpos: indices of ``qpos`` that are not in the state. They are integrated from the velocities of the same
            indices: no quaternion precedes them.
        several_roots: the unseen coordinates are positions of several robots along one axis.
    """

    read: Callable[[Any, np.ndarray], Coordinates]
    unseen_qpos: tuple[int, ...] = ()
    several_roots: bool = False


def layout_of(scenario: str, simulator: Any) -> Layout:
    """Layout of a scenario's states in its Gymnasium environment."""
    if scenario in _LAYOUTS:
        return _LAYOUTS[scenario]
    skipped = simulator.observation_structure.get("skipped_qpos", 0)
    return _copied(tuple(range(skipped)))


def coordinates(layout: Layout, model: Any, states: np.ndarray, first_qpos: np.ndarray, seconds: float) -> Coordinates:
    """Recover ``qpos`` (T, nq) and ``qvel`` (T, nv) from a sequence of states.

    Args:
        layout: of the states.
        model: the simulator's ``MjModel``.
        states: (T, S), one environment step apart.
        first_qpos: (nq,) true coordinates at the first state, from which unseen ones are integrated.
        seconds: of an environment step.
    """
    qpos, qvel = layout.read(model, np.asarray(states, dtype=np.float64))
    for i in layout.unseen_qpos:
        speed = qvel[:, i]
        distance = seconds * np.cumsum((speed[1:] + speed[:-1]) / 2)
        qpos[:, i] = first_qpos[i] + np.concatenate([[0.0], distance])
    for joint in range(model.njnt):
        kind, at = int(model.jnt_type[joint]), int(model.jnt_qposadr[joint])
        if kind in (_FREE, _BALL):
            rotation = slice(at + 3, at + 7) if kind == _FREE else slice(at, at + 4)
            qpos[:, rotation] = _normalized(qpos[:, rotation])
    return qpos, qvel


def _normalized(quaternion: np.ndarray) -> np.ndarray:
    """Quaternions (T, 4) of length 1; zero becomes the identity."""
    length = np.linalg.norm(quaternion, axis=-1, keepdims=True)
    identity = np.array([1.0, 0.0, 0.0, 0.0])
    return np.where(length > 1e-9, quaternion / np.maximum(length, 1e-9), identity)


def _copied(unseen: tuple[int, ...]) -> Layout:
    """States that start with a copy of ``qpos`` without the unseen entries, and of ``qvel``."""

    def read(model: Any, states: np.ndarray) -> Coordinates:
        seen = [i for i in range(model.nq) if i not in unseen]
        qpos = np.zeros((len(states), model.nq))
        qpos[:, seen] = states[:, : len(seen)]
        return qpos, states[:, len(seen) : len(seen) + model.nv].copy()

    return Layout(read, unseen)


def _reacher(model: Any, states: np.ndarray) -> Coordinates:
    """Cosines and sines of two angles, the target, two velocities; angles are known modulo a full turn."""
    angles = np.arctan2(states[:, 2:4], states[:, 0:2])
    zeros = np.zeros((len(states), 2))
    return np.concatenate([angles, states[:, 4:6]], axis=1), np.concatenate([states[:, 6:8], zeros], axis=1)


def _double_pendulum(model: Any, states: np.ndarray) -> Coordinates:
    """Cart position, sines and cosines of two angles, three velocities (clipped)."""
    angles = np.arctan2(states[:, 1:3], states[:, 3:5])
    return np.concatenate([states[:, :1], angles], axis=1), states[:, 5:8].copy()


def _pusher(model: Any, states: np.ndarray) -> Coordinates:
    """Seven joints and their velocities, then the positions of fingertip, object and goal."""
    qpos, qvel = np.zeros((len(states), model.nq)), np.zeros((len(states), model.nv))
    qpos[:, :7], qvel[:, :7] = states[:, :7], states[:, 7:14]
    for body, position in (("object", states[:, 17:20]), ("goal", states[:, 20:23])):
        first = int(model.body(body).jntadr[0])
        for joint in range(first, first + int(model.body(body).jntnum[0])):
            qpos[:, int(model.jnt_qposadr[joint])] = (position - model.body(body).pos) @ model.jnt_axis[joint]
    return qpos, qvel


_LAYOUTS = {
    "coupledhalfcheetah": replace(_copied((0, 9)), several_roots=True),
    "inverteddoublependulum": Layout(_double_pendulum),
    "pusher": Layout(_pusher),
    "reacher": Layout(_reacher),
}
