"""Observations of a MuJoCo robot's agents: the full state and an id, or the nearby joints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from dima.envs.mujoco.partitions import SCENARIOS, Parts, quiet

_ARRAYS = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")  # of the simulator, in this order
_FROM_BODIES = ("pusher", "reacher")  # scenarios with features computed from body positions, not copied
_KINDS = {
    "state": "state",
    "cinert": "body inertias",
    "cvel": "body velocities",
    "qfrc_actuator": "actuator forces",
    "cfrc_ext": "contact forces",
}


def standardized(rows: np.ndarray) -> np.ndarray:
    """Each row (..., F) minus its own mean, divided by its own standard deviation unless that is 0."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    std = centred.std(axis=-1, keepdims=True)
    scaled: np.ndarray = centred / np.where(std > 0, std, 1)
    return scaled


class FullObservation:
    """The whole state and a one-hot id for every agent: N rows of S + N features."""

    def __init__(self, n_agents: int, state_dim: int, standardize: bool) -> None:
        self.sizes = (state_dim + n_agents,) * n_agents
        self._rows = np.concatenate([np.zeros((n_agents, state_dim)), np.eye(n_agents)], axis=1)
        self._state_dim, self._standardize = state_dim, standardize

    def observe(self, state: np.ndarray, data: Any) -> list[np.ndarray]:
        """One row per agent from the state (S,)."""
        rows = self._rows.copy()
        rows[:, : self._state_dim] = state
        return list(standardized(rows) if self._standardize else rows)


class LocalObservation:
    """An agent's own joints, the positions of joints at most ``distance`` edges away, and the root.

    Observations equal those of ``gymnasium_robotics.mamujoco_v1`` with ``agent_obsk=distance``. They are entries of the
    simulator's arrays, some clipped. Their indices and limits are found once, by applying the package's own function to
    numbered entries; a step then costs one indexing. Two scenarios compute features, and call that function instead.
    """

    def __init__(self, scenario: str, parts: Parts, distance: int, contact_forces: bool, data: Any) -> None:
        with quiet():
            from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs, get_joints_at_kdist

        near = SCENARIOS[scenario].near + (("cfrc_ext",) if contact_forces else ())
        categories = [list(near)] + [["qpos"]] * distance
        # The package sorts joints by label only, and some share one: sort by actuator, too.
        around = [get_joints_at_kdist(joints, parts.edges, distance) for joints in parts.joints]
        for rings in around:
            for ring in rings.values():
                ring.sort(key=lambda node: (node.label, -1 if node.act_ids is None else node.act_ids))

        def build(source: Any, agent: int) -> Any:
            return build_obs(source, around[agent], categories, parts.globals, ("qpos", "qvel"))

        self._build, self._agents = build, range(len(around))
        self.sizes = tuple(build(data, agent).size for agent in self._agents)
        self._computed = scenario in _FROM_BODIES
        if not self._computed:
            self._names = [name for name in _ARRAYS if name in ("qpos", "qvel", *near)]
            self._find_indices(data)

    def _find_indices(self, data: Any) -> None:
        shapes = [getattr(data, name).shape for name in self._names]
        cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])
        total, cuts = int(cuts[-1]), cuts[:-1]

        def observed(values: np.ndarray, agent: int) -> Any:
            pieces = [piece.reshape(s) for piece, s in zip(np.split(values, cuts), shapes, strict=True)]
            return self._build(SimpleNamespace(**dict(zip(self._names, pieces, strict=True))), agent)

        numbers = np.arange(1, total + 1) / (2 * total)  # below every clipping limit
        self._index, low, high = [], [], []
        for agent in self._agents:
            self._index.append(np.rint(observed(numbers, agent) * 2 * total).astype(int) - 1)
            low.append(observed(np.full(total, -np.inf), agent))
            high.append(observed(np.full(total, np.inf), agent))
        self._all, self._ends = np.concatenate(self._index), np.cumsum(self.sizes)[:-1]
        self._low, self._high = np.concatenate(low), np.concatenate(high)
        self._clips = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def observe(self, state: np.ndarray, data: Any) -> list[np.ndarray]:
        """One row per agent from the simulator's data."""
        if self._computed:
            return [self._build(data, agent) for agent in self._agents]
        rows = np.concatenate([getattr(data, name).ravel() for name in self._names])[self._all]
        if self._clips:
            rows = np.minimum(np.maximum(rows, self._low), self._high)
        return np.split(rows, self._ends)


def state_names(simulator: Any, state_dim: int) -> list[str]:
    """Names of the state features, such as ``qpos:rootz`` or ``qvel:bthigh``; numbered if unknown."""
    structure = getattr(simulator, "observation_structure", None)
    model = simulator.model
    positions: list[str] = []
    velocities: list[str] = []
    for i in range(model.njnt):
        joint = model.joint(i)
        name, kind = joint.name or f"joint{i}", int(joint.type[0])
        free = kind == 0
        positions += [f"{name}.{axis}" for axis in ("x", "y", "z", "qw", "qx", "qy", "qz")] if free else [name]
        velocities += [f"{name}.{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz")] if free else [name]
    names: list[str] = []
    if structure is not None:
        names += [f"qpos:{name}" for name in positions[structure.get("skipped_qpos", 0) :]]
        names += [f"qvel:{name}" for name in velocities]
        bodies = [model.body(i).name or f"body{i}" for i in range(1, model.nbody)]
        for category, width in (("cinert", 10), ("cvel", 6)):
            names += [f"{category}:{b}.{k}" for b in bodies for k in range(width) if structure.get(category)]
        names += [f"qfrc_actuator:{name}" for name in velocities[6:] if structure.get("qfrc_actuator")]
        names += [f"cfrc_ext:{b}.{k}" for b in bodies for k in range(6) if structure.get("cfrc_ext")]
    return names if len(names) == state_dim else [f"state:{i}" for i in range(state_dim)]


def state_kinds(simulator: Any, names: list[str]) -> list[str]:
    """Kinds of quantity of the features named by :func:`state_names`, such as ``root orientation``.

    The root is every joint without an actuator: the robot's position and orientation.
    """
    model = simulator.model
    actuated = {model.joint(int(i)).name for i in model.actuator_trnid[:, 0]}
    hinges = {model.joint(i).name for i in range(model.njnt) if int(model.joint(i).type[0]) == 3}
    kinds = []
    for name in names:
        array, _, place = name.partition(":")
        joint, _, axis = place.partition(".")
        turns = axis[0] in "qr" if axis else joint in hinges
        if array == "qpos" and joint not in actuated:
            kinds.append("root orientation" if turns else "root position")
        elif array == "qvel" and joint not in actuated:
            kinds.append("root rotation" if turns else "root velocity")
        else:
            kinds.append({"qpos": "joint positions", "qvel": "joint velocities"}.get(array) or _KINDS[array])
    return kinds
