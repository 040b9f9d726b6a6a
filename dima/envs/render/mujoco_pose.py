"""From a MuJoCo robot's state, which is what it observes, back to the simulator's coordinates ``qpos`` and ``qvel``.

Most v5 tasks observe ``qpos`` without where the root stands, then ``qvel``, then quantities that follow from both.
Where the root stands is integrated from its velocity by the trapezoidal rule. Three tasks compute what they observe
(angles as sine and cosine, bodies instead of joints); the coupled cheetahs have two roots. Velocities that a state does
not tell, those of a pushed object or a target, are left at 0: no picture needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Coordinates = tuple[np.ndarray, np.ndarray]  # qpos (T, nq), qvel (T, nv)
_FREE, _BALL = 0, 1  # MuJoCo's joint types whose coordinates hold a quaternion


@dataclass(frozen=True)
class Layout:
    """How a task's state relates to the simulator's coordinates.

    Attributes:
        read: model and states (T, S) -> ``qpos`` and ``qvel``, zero where the state does not tell.
        unseen_qpos: coordinates that no state tells. They follow from their velocities, which have the same numbers:
            no quaternion comes before them.
        several_roots: the unseen coordinates are places of several robots along one axis.
    """

    read: Callable[[Any, np.ndarray], Coordinates]
    unseen_qpos: tuple[int, ...] = ()
    several_roots: bool = False


def layout_of(scenario: str, simulator: Any) -> Layout:
    """The layout of a scenario's states, as its Gymnasium environment makes them."""
    if scenario in _OTHERS:
        return _OTHERS[scenario]
    skipped = simulator.observation_structure.get("skipped_qpos", 0)
    return _copied(tuple(range(skipped)))


def coordinates(layout: Layout, model: Any, states: np.ndarray, first_qpos: np.ndarray, seconds: float) -> Coordinates:
    """``qpos`` (T, nq) and ``qvel`` (T, nv) of a sequence of states.

    Args:
        layout: of the states.
        model: the simulator's ``MjModel``.
        states: (T, S), one environment step apart.
        first_qpos: (nq,) true coordinates at the first state; unseen ones start from there.
        seconds: of an environment step.
    """
    qpos, qvel = layout.read(model, np.asarray(states, dtype=np.float64))
    for i in layout.unseen_qpos:
        speed = qvel[:, i]
        come = seconds * np.cumsum((speed[1:] + speed[:-1]) / 2)
        qpos[:, i] = first_qpos[i] + np.concatenate([[0.0], come])
    for joint in range(model.njnt):
        kind, at = int(model.jnt_type[joint]), int(model.jnt_qposadr[joint])
        if kind in (_FREE, _BALL):
            turn = slice(at + 3, at + 7) if kind == _FREE else slice(at, at + 4)
            qpos[:, turn] = _unit(qpos[:, turn])
    return qpos, qvel


def _unit(quaternion: np.ndarray) -> np.ndarray:
    """Quaternions (T, 4) of length 1; what has no direction becomes no rotation."""
    length = np.linalg.norm(quaternion, axis=-1, keepdims=True)
    upright = np.array([1.0, 0.0, 0.0, 0.0])
    return np.where(length > 1e-9, quaternion / np.maximum(length, 1e-9), upright)


def _copied(unseen: tuple[int, ...]) -> Layout:
    """States that begin with a copy of ``qpos``, but for what is unseen, and of ``qvel``."""

    def read(model: Any, states: np.ndarray) -> Coordinates:
        seen = [i for i in range(model.nq) if i not in unseen]
        qpos = np.zeros((len(states), model.nq))
        qpos[:, seen] = states[:, : len(seen)]
        return qpos, states[:, len(seen) : len(seen) + model.nv].copy()

    return Layout(read, unseen)


def _reacher(model: Any, states: np.ndarray) -> Coordinates:
    """Cosines and sines of two angles, the target, two velocities: where the arm points is known, not its turns."""
    angles = np.arctan2(states[:, 2:4], states[:, 0:2])
    still = np.zeros((len(states), 2))
    return np.concatenate([angles, states[:, 4:6]], axis=1), np.concatenate([states[:, 6:8], still], axis=1)


def _double_pendulum(model: Any, states: np.ndarray) -> Coordinates:
    """The cart, sines and cosines of two angles, three velocities (clipped)."""
    angles = np.arctan2(states[:, 1:3], states[:, 3:5])
    return np.concatenate([states[:, :1], angles], axis=1), states[:, 5:8].copy()


def _pusher(model: Any, states: np.ndarray) -> Coordinates:
    """Seven joints and their velocities, then where fingertip, object and goal are; the object slides on the table."""
    qpos, qvel = np.zeros((len(states), model.nq)), np.zeros((len(states), model.nv))
    qpos[:, :7], qvel[:, :7] = states[:, :7], states[:, 7:14]
    for body, place in (("object", states[:, 17:20]), ("goal", states[:, 20:23])):
        first = int(model.body(body).jntadr[0])
        for joint in range(first, first + int(model.body(body).jntnum[0])):
            qpos[:, int(model.jnt_qposadr[joint])] = (place - model.body(body).pos) @ model.jnt_axis[joint]
    return qpos, qvel


_OTHERS = {
    "coupledhalfcheetah": replace(_copied((0, 9)), several_roots=True),
    "inverteddoublependulum": Layout(_double_pendulum),
    "pusher": Layout(_pusher),
    "reacher": Layout(_reacher),
}
