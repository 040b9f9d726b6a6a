"""Pictures of an environment's own ``render()``: its present state, never an imagined one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np
from PIL import Image

from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.errors import EnvError


class RenderedScene(Scene[np.ndarray]):
    """What ``render()`` gives under ``render_mode = "rgb_array"``; a pose is the picture.

    Args:
        env: made with that mode; it is reset once, to see whether it renders.
        width: of a picture in pixels.
        cannot_imagine: why there is no other scene.

    Raises:
        EnvError: it renders something else than a picture.
    """

    def __init__(self, env: JointEnv, width: int, cannot_imagine: str = "render() draws no imagined states") -> None:
        self._env, self._width, self.cannot_imagine = env, width, cannot_imagine
        self._shape: tuple[int, ...] | None = None
        self.seconds = _seconds(env.metadata)
        env.reset(seed=0)
        self.now()

    def now(self) -> np.ndarray:
        picture, name = self._env.render(), self._env.name
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise EnvError(
                f"{name}: render() with render_mode = 'rgb_array' gave {type(picture).__name__}: "
                "expected a picture, (height, width, 3) uint8"
            )
        if self._shape not in (None, picture.shape):
            sizes = f"{picture.shape} after {self._shape}"
            raise EnvError(f"{name}: render() gave a picture of shape {sizes}: keep its size")
        self._shape = picture.shape
        high, wide, _ = picture.shape
        size = (self._width, max(1, round(high * self._width / wide)))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))

    def poses(self, states: np.ndarray, first: np.ndarray) -> NoReturn:
        raise EnvError(f"{self._env.name}: {self.cannot_imagine}")

    def draw(self, pose: np.ndarray) -> np.ndarray:
        return pose


def _seconds(metadata: Mapping[str, object]) -> float:
    """Seconds of a step from ``render_fps``, the frames a second that show an environment in real time."""
    rate = metadata.get("render_fps")
    return 1 / rate if isinstance(rate, int | float) and rate > 0 else 0.0
