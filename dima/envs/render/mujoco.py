"""Draw a MuJoCo robot from its states, with a camera that follows it.

A robot's state is its observation, from which ``qpos`` and ``qvel`` are recovered. Most v5 tasks observe ``qpos``
without the root's position, then ``qvel``, then quantities that follow from both; the root's position is integrated
from its velocity by the trapezoidal rule. Three tasks compute their observations (angles as sine and cosine, bodies
instead of joints); the coupled cheetahs have two roots. Velocities that the state omits, those of a pushed object or a
target, are set to 0: pictures do not depend on them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from dima.envs.render.headless import open_context
from dima.envs.render.scene import Scene

Coordinates = tuple[np.ndarray, np.ndarray]  # qpos (T, nq), qvel (T, nv)
_FREE, _BALL = 0, 1  # MuJoCo's joint types with a quaternion
_MAX_GEOMS = 2000  # in a picture
_MARGIN = 1.05  # of the view around the robot


@dataclass(frozen=True)
class MujocoPose:
    """The simulator's coordinates."""

    qpos: np.ndarray  # (nq,)
    qvel: np.ndarray  # (nv,)


class MujocoScene(Scene[MujocoPose]):
    """The robot of a Gymnasium environment, drawn from a copy of its model.

    Args:
        simulator: the environment, without wrappers; it is only read.
        layout: of its states.
        width: of a picture in pixels.
        height: of a picture in pixels.
        from_above: view from above instead of from the side.

    Raises:
        EnvError: this machine cannot render.
    """

    def __init__(self, simulator: Any, layout: Layout, width: int, height: int, from_above: bool = False) -> None:
        self._simulator, self._layout = simulator, layout
        self.seconds = float(simulator.dt)
        self._context = open_context(width, height)
        self._model = model = copy.copy(simulator.model)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.shadowsize = 0  # shadows take 90 % of the time without a GPU
        self._data, self._tile = mujoco.MjData(model), _tile_size(model)
        self._camera = self._place_camera(from_above, width / height)
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._context.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._renderer)

    def now(self) -> MujocoPose:
        data = self._simulator.data
        return MujocoPose(data.qpos.copy(), data.qvel.copy())

    def poses(self, states: np.ndarray, first: MujocoPose) -> list[MujocoPose]:
        qpos, qvel = coordinates(self._layout, self._model, states, first.qpos, self.seconds)
        return [MujocoPose(*row) for row in zip(qpos, qvel, strict=True)]

    def draw(self, pose: MujocoPose) -> np.ndarray:
        self._data.qpos, self._data.qvel = self._near_origin(pose.qpos), pose.qvel
        mujoco.mj_forward(self._model, self._data)
        self._context.make_current()
        if self._layout.unseen_qpos:  # the robot moves about
            self._camera.lookat[:2] = self._data.subtree_com[0, :2]
        visual = self._options, self._perturbation, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._data, *visual, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._renderer)
        picture = np.empty((self._viewport.height, self._viewport.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, self._viewport, self._renderer)
        return picture[::-1]

    def measures(self, pose: MujocoPose) -> dict[str, float]:
        """The root's position in metres, which the picture cannot show: the camera follows it."""
        unseen = self._layout.unseen_qpos
        names = [f"x{n}" for n in range(len(unseen))] if self._layout.several_roots else "xy"
        return {name: float(pose.qpos[i]) for name, i in zip(names, unseen, strict=False)}

    def close(self) -> None:
        if self._context is not None:
            self._context.make_current()
            self._renderer.free()
            self._context.free()
            self._context = None

    def _near_origin(self, qpos: np.ndarray) -> np.ndarray:
        """``qpos`` moved by whole tiles of the floor, which looks the same but is finite."""
        near, unseen = qpos.copy(), list(self._layout.unseen_qpos)
        place = qpos[unseen[:1] if self._layout.several_roots else unseen]
        near[unseen] -= self._tile * np.round(place / self._tile)
        return near

    def _place_camera(self, from_above: bool, aspect: float) -> Any:
        """A camera at the distance where the robot, or a fixed task's whole scene, fills the picture."""
        model, data = self._model, self._data
        mujoco.mj_forward(model, data)
        moves_about = bool(self._layout.unseen_qpos)
        solid = (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE.value) & ((model.geom_bodyid > 0) | (not moves_about))
        radius = model.geom_rbound[solid, None]
        low, high = (data.geom_xpos[solid] - radius).min(0), (data.geom_xpos[solid] + radius).max(0)
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (low + high) / 2
        size = np.linalg.norm(high - low) / 2 / min(1.0, aspect)
        camera.distance = _MARGIN * size / np.tan(np.radians(model.vis.global_.fovy) / 2)
        camera.azimuth, camera.elevation = 90.0, -65.0 if from_above else -15.0
        return camera

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # __init__ may have failed, or Python is ending
            self.close()


def _tile_size(model: Any) -> float:
    """Period of the floor's pattern in metres; 1 without a pattern."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value):
        material, size = int(model.geom_matid[geom]), float(model.geom_size[geom, 0])
        if material >= 0 and size > 0:
            return 2 * size / float(model.mat_texrepeat[material, 0])
    return 1.0


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
