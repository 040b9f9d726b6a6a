"""Draws a MuJoCo robot in any pose, from a camera that goes along with it."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from dima.envs.render.headless import open_context
from dima.envs.render.mujoco_pose import Layout, coordinates
from dima.envs.render.scene import Scene

_GEOMS = 2000  # most things in a picture
_MARGIN = 1.05  # of the view around the robot


@dataclass(frozen=True)
class MujocoPose:
    """The simulator's coordinates."""

    qpos: np.ndarray  # (nq,)
    qvel: np.ndarray  # (nv,)


class MujocoScene(Scene[MujocoPose]):
    """The robot of a Gymnasium environment, drawn from a copy of its simulator, which is left alone.

    Args:
        simulator: the environment, without wrappers.
        layout: of its states.
        width: of a picture in pixels.
        height: likewise.
        from_above: look down on it, rather than from the side.

    Raises:
        EnvError: this machine cannot draw.
    """

    def __init__(self, simulator: Any, layout: Layout, width: int, height: int, from_above: bool = False) -> None:
        self._simulator, self._layout = simulator, layout
        self.seconds = float(simulator.dt)
        self._context = open_context(width, height)
        self._model = model = copy.copy(simulator.model)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.shadowsize = 0  # shadows are nine tenths of the work where there is no GPU
        self._data, self._tile = mujoco.MjData(model), _tile(model)
        self._camera, self._area = self._place_camera(from_above, width / height), mujoco.MjrRect(0, 0, width, height)
        self._context.make_current()
        self._view = mujoco.MjvScene(model, maxgeom=_GEOMS)
        self._options, self._pull = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._painter = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._painter)

    def now(self) -> MujocoPose:
        data = self._simulator.data
        return MujocoPose(data.qpos.copy(), data.qvel.copy())

    def poses(self, states: np.ndarray, first: MujocoPose) -> list[MujocoPose]:
        qpos, qvel = coordinates(self._layout, self._model, states, first.qpos, self.seconds)
        return [MujocoPose(*row) for row in zip(qpos, qvel, strict=True)]

    def draw(self, pose: MujocoPose) -> np.ndarray:
        self._data.qpos, self._data.qvel = self._near(pose.qpos), pose.qvel
        mujoco.mj_forward(self._model, self._data)
        self._context.make_current()
        if self._layout.unseen_qpos:  # it goes where it likes
            self._camera.lookat[:2] = self._data.subtree_com[0, :2]
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._data, self._options, self._pull, self._camera, everything, self._view)
        mujoco.mjr_render(self._area, self._view, self._painter)
        picture = np.empty((self._area.height, self._area.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, self._area, self._painter)
        return picture[::-1]

    def measures(self, pose: MujocoPose) -> dict[str, float]:
        """Where the root stands, as far as states do not tell, in metres: the camera goes along."""
        unseen = self._layout.unseen_qpos
        names = [f"x{n}" for n in range(len(unseen))] if self._layout.several_roots else "xy"
        return {name: float(pose.qpos[i]) for name, i in zip(names, unseen, strict=False)}

    def close(self) -> None:
        if self._context is not None:
            self._context.make_current()
            self._painter.free()
            self._context.free()
            self._context = None

    def _near(self, qpos: np.ndarray) -> np.ndarray:
        """The robot moved back by whole tiles of the floor, which looks the same there but ends somewhere."""
        near, unseen = qpos.copy(), list(self._layout.unseen_qpos)
        place = qpos[unseen[:1] if self._layout.several_roots else unseen]
        near[unseen] -= self._tile * np.round(place / self._tile)
        return near

    def _place_camera(self, from_above: bool, aspect: float) -> Any:
        """So far away that the robot, or all that does not move, fills most of the picture in its first pose."""
        model, data = self._model, self._data
        mujoco.mj_forward(model, data)
        roams = bool(self._layout.unseen_qpos)
        solid = (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE.value) & ((model.geom_bodyid > 0) | (not roams))
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


def _tile(model: Any) -> float:
    """After how many metres the pattern of the floor repeats itself; 1 where there is none."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value):
        material, size = int(model.geom_matid[geom]), float(model.geom_size[geom, 0])
        if material >= 0 and size > 0:
            return 2 * size / float(model.mat_texrepeat[material, 0])
    return 1.0
