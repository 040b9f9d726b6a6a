"""Draw two hands and their object from states, each hand in its agent's colour.

Where a state leaves a coordinate out (the turn of the bottle's cap), it is drawn as it was at the first state.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from dima.envs.dexhands.coordinates import Recovery
from dima.envs.dexhands.scene import SIDES, build
from dima.envs.dexhands.settings import CONTROL_SECONDS
from dima.envs.render.colors import agent_color, rgb
from dima.envs.render.drawing import Drawing
from dima.envs.render.scene import Scene


class DexHandsScene(Scene[np.ndarray]):
    """Hands and object, drawn from a model of their own; a pose is ``qpos`` (nq,).

    Args:
        env: the ``DexHandsEnv``; it is only read.
        width: of a picture in pixels.
        height: likewise.

    Raises:
        EnvError: this machine cannot render.
    """

    seconds = CONTROL_SECONDS

    def __init__(self, env: Any, width: int, height: int) -> None:
        self._env, self.agents = env, tuple(env.possible_agents)
        model = build(env.task, env.config, visual=True)
        _paint(model)
        view, camera = env.task.view, mujoco.MjvCamera()
        camera.lookat[:] = view.lookat
        camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth, view.elevation
        camera.distance *= max(1.0, 4 / 3 * height / width)
        self._drawing = Drawing(model, camera, width, height)
        self._recovery = Recovery(env.model, env.task)

    def now(self) -> np.ndarray:
        return self._env.data.qpos.copy()

    def poses(self, states: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
        return list(self._recovery.qpos(states, first))

    def draw(self, pose: np.ndarray) -> np.ndarray:
        self._drawing.move(pose)
        return self._drawing.picture()

    def measures(self, pose: np.ndarray) -> dict[str, float]:
        """What success is a threshold of, in metres: the cap's lift, the gap between handles, the pen's length."""
        return {self._env.task.progress: self._recovery.progress(pose)}

    def close(self) -> None:
        self._drawing.close()


def _paint(model: mujoco.MjModel) -> None:
    """Give each hand its agent's colour, and show looks instead of collision shapes."""
    for geom in range(model.ngeom):
        name = model.geom(geom).name
        for place, side in enumerate(SIDES):
            if name.startswith(f"{side}_V_"):
                model.geom_rgba[geom, :3] = np.array(rgb(agent_color(place))) / 255
            elif name.startswith(f"{side}_C_"):
                model.geom_rgba[geom, 3] = 0
