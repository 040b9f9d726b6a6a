"""Pictures of a MuJoCo model in any pose."""

from __future__ import annotations

import contextlib
from typing import Any

import mujoco
import numpy as np

from dima.envs.render.headless import open_context

_MAX_GEOMS = 2000  # in a picture


class Drawing:
    """Draws a model with a camera.

    Args:
        model: ``MjModel``, owned by the drawing: its picture settings are changed.
        camera: an ``MjvCamera``, which may be moved between pictures.
        width: of a picture in pixels.
        height: likewise.

    Attributes:
        data: the ``MjData`` of the last picture.

    Raises:
        EnvError: this machine cannot render.
    """

    def __init__(self, model: Any, camera: Any, width: int, height: int) -> None:
        self._context = open_context(width, height)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.shadowsize = 0  # shadows take 90 % of the time without a GPU
        self.model, self.data, self.camera = model, mujoco.MjData(model), camera
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._context.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._renderer)

    def move(self, qpos: np.ndarray, qvel: np.ndarray | None = None) -> None:
        """Put the model into a pose: ``qpos`` (nq,), ``qvel`` (nv,)."""
        self.data.qpos = qpos
        self.data.qvel = 0 if qvel is None else qvel
        mujoco.mj_forward(self.model, self.data)

    def picture(self) -> np.ndarray:
        """The present pose, (height, width, 3) uint8."""
        self._context.make_current()
        visual = self._options, self._perturbation, self.camera, mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, self.data, *visual, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._renderer)
        picture = np.empty((self._viewport.height, self._viewport.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, self._viewport, self._renderer)
        return picture[::-1]

    def close(self) -> None:
        """Free the renderer."""
        if self._context is not None:
            self._context.make_current()
            self._renderer.free()
            self._context.free()
            self._context = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # __init__ may have failed, or Python is ending
            self.close()
