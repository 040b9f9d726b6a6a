"""Draw a MuJoCo robot from its states, each agent's part in its colour, with a camera that follows it.

Its coordinates are recovered from the states (``dima/envs/mujoco/coordinates.py``); velocities that these omit are 0:
pictures do not depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from dima.envs.mujoco.coordinates import Layout, coordinates
from dima.envs.render.colors import SHARED, agent_color, rgb
from dima.envs.render.drawing import Drawing
from dima.envs.render.scene import Scene

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
        actuators: ids of each agent's.
        width: of a picture in pixels.
        height: of a picture in pixels.
        from_above: view from above instead of from the side.
        cannot_imagine: why states do not determine a pose, if so.

    Raises:
        EnvError: this machine cannot render.
    """

    def __init__(
        self,
        simulator: Any,
        layout: Layout,
        actuators: Mapping[str, np.ndarray],
        width: int,
        height: int,
        from_above: bool = False,
        cannot_imagine: str = "",
    ) -> None:
        self._simulator, self._layout, self.cannot_imagine = simulator, layout, cannot_imagine
        self.seconds = float(simulator.dt)
        self.agents = tuple(actuators)
        model = copy.copy(simulator.model)
        _paint(model, list(actuators.values()))
        self._tile = _tile_size(model)
        self._drawing = Drawing(model, mujoco.MjvCamera(), width, height)
        self._place_camera(from_above, width / height)

    def now(self) -> MujocoPose:
        data = self._simulator.data
        return MujocoPose(data.qpos.copy(), data.qvel.copy())

    def poses(self, states: np.ndarray, first: MujocoPose) -> list[MujocoPose]:
        qpos, qvel = coordinates(self._layout, self._drawing.model, states, first.qpos, self.seconds)
        return [MujocoPose(*row) for row in zip(qpos, qvel, strict=True)]

    def draw(self, pose: MujocoPose) -> np.ndarray:
        drawing = self._drawing
        drawing.move(self._near_origin(pose.qpos), pose.qvel)
        if self._layout.unseen_qpos:  # the robot moves about
            drawing.camera.lookat[:2] = drawing.data.subtree_com[0, :2]
        return drawing.picture()

    def measures(self, pose: MujocoPose) -> dict[str, float]:
        """The root's position in metres, which the picture cannot show: the camera follows it."""
        unseen = self._layout.unseen_qpos
        names = [f"x{n}" for n in range(len(unseen))] if self._layout.several_roots else "xy"
        return {name: float(pose.qpos[i]) for name, i in zip(names, unseen, strict=False)}

    def close(self) -> None:
        self._drawing.close()

    def _near_origin(self, qpos: np.ndarray) -> np.ndarray:
        """``qpos`` moved by whole tiles of the floor, which looks the same but is finite."""
        near, unseen = qpos.copy(), list(self._layout.unseen_qpos)
        place = qpos[unseen[:1] if self._layout.several_roots else unseen]
        near[unseen] -= self._tile * np.round(place / self._tile)
        return near

    def _place_camera(self, from_above: bool, aspect: float) -> None:
        """Put the camera where the robot, or a fixed task's whole scene, fills the picture."""
        model, data, camera = self._drawing.model, self._drawing.data, self._drawing.camera
        mujoco.mj_forward(model, data)
        moves_about = bool(self._layout.unseen_qpos)
        solid = (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE.value) & ((model.geom_bodyid > 0) | (not moves_about))
        radius = model.geom_rbound[solid, None]
        low, high = (data.geom_xpos[solid] - radius).min(0), (data.geom_xpos[solid] + radius).max(0)
        camera.lookat[:] = (low + high) / 2
        size = np.linalg.norm(high - low) / 2 / min(1.0, aspect)
        camera.distance = _MARGIN * size / np.tan(np.radians(model.vis.global_.fovy) / 2)
        camera.azimuth, camera.elevation = 90.0, -65.0 if from_above else -15.0


def _paint(model: Any, actuators: list[np.ndarray]) -> None:
    """Give the bodies that an agent moves its colour, and the rest of the robot a common one."""
    owners = owners_of_bodies(model, actuators)
    robots = {int(model.body_rootid[body]) for body in owners}
    for geom, body in enumerate(model.geom_bodyid.tolist()):
        if int(model.body_rootid[body]) in robots:
            color = agent_color(owners[body]) if body in owners else SHARED
            model.geom_matid[geom] = -1
            model.geom_rgba[geom, :3] = np.array(rgb(color)) / 255


def owners_of_bodies(model: Any, actuators: list[np.ndarray]) -> dict[int, int]:
    """Place of the agent that moves each body; bodies that several agents move, or none, are left out.

    Args:
        model: the simulator's ``MjModel``.
        actuators: ids of each agent's, which act on joints.
    """
    movers: dict[int, set[int]] = {}
    for agent, ids in enumerate(actuators):
        for body in model.jnt_bodyid[model.actuator_trnid[ids, 0]].tolist():
            movers.setdefault(body, set()).add(agent)
    for body in range(1, model.nbody):  # parents come first
        parent = int(model.body_parentid[body])
        if model.body_jntnum[body] == 0 and parent in movers:  # welded to it
            movers[body] = movers[parent]
    return {body: next(iter(agents)) for body, agents in movers.items() if len(agents) == 1}


def _tile_size(model: Any) -> float:
    """Period of the floor's pattern in metres; 1 without a pattern."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value):
        material, size = int(model.geom_matid[geom]), float(model.geom_size[geom, 0])
        if material >= 0 and size > 0:
            return 2 * size / float(model.mat_texrepeat[material, 0])
    return 1.0
