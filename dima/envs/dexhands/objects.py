"""The objects: a bottle with a cap, a double door, a pen; each a few primitive shapes.

Sizes are those of the meshes of Bi-DexHands, in the frames of its assets; lengths in metres. Each object adds itself to
a specification and marks with sites, in the order in which they are observed, the points that rewards look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np

Vector = tuple[float, float, float]

THINGS, TABLES, RIGHT, LEFT = 4, 8, 1, 2  # bits of what collides
HARD = (0.95, 0.9999, 0.001, 0.5, 2.0)  # impedance of limits
DENSITY = 500.0  # kg/m^3
_CYLINDER, _CAPSULE = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE
_COLORS = {"body": (0.55, 0.68, 0.85, 1), "part": (0.93, 0.62, 0.25, 1), "table": (0.80, 0.76, 0.70, 1)}
_SLIDE_ARMATURE = 0.2  # kg; without it a hand's pull breaks the slide's limit, as a cap weighs next to nothing


@dataclass(frozen=True)
class Contacts:
    """How things touch: the same for every geom of a scene but for friction."""

    friction: float  # of the object
    solref: tuple[float, float]  # time constant in seconds, damping ratio


def quaternion(euler: Vector) -> np.ndarray:
    """(4,) w, x, y, z of rotations about x, then y, then z of the world."""
    quat = np.zeros(4)
    mujoco.mju_euler2Quat(quat, np.asarray(euler, dtype=np.float64), "XYZ")
    return quat


@dataclass(frozen=True)
class Bottle:
    """A free bottle along its z axis, with a cap that slides and turns; the two are not coupled by a thread."""

    POINTS: ClassVar = ("bottle", "cap", "cap link")
    ROOT: ClassVar = "bottle"
    free: ClassVar = True

    position: Vector = (0.0, -0.6, 0.5)
    euler: Vector = (0.0, -0.7, 0.0)
    sections: tuple[tuple[float, float, float], ...] = (  # radius, from z, to z
        (0.0386, -0.026, 0.106),
        (0.035, 0.106, 0.134),
        (0.011, 0.134, 0.149),
    )
    cap: tuple[float, float, float] = (0.013, 0.139, 0.1503)
    cap_mass: float = 0.0026  # kg
    cap_point: Vector = (0.0, 0.0, 0.15)  # on the bottle: it stays when the cap leaves
    cap_link: Vector = (0.0070, 0.0075, 0.0)  # origin of the cap's link, 0.0103 from the bottle's
    lift: float = 0.064  # range of the slide
    table: tuple[Vector, Vector] = ((0.0, -0.6, 0.05), (0.15, 0.15, 0.05))  # centre, half sizes

    def add(self, spec: Any, contacts: Contacts) -> None:
        """Add the object to a specification."""
        _table(spec, self.table)
        bottle = _body(spec.worldbody, "bottle", self.position, quaternion(self.euler))
        bottle.add_freejoint(name="bottle")
        for number, section in enumerate(self.sections):
            _rod(bottle, _CYLINDER, f"bottle_{number}", section, contacts, "body")
        _point(bottle, "bottle", (0, 0, 0))
        _point(bottle, "cap", self.cap_point)
        slider = _body(bottle, "cap_slider")
        _slide(slider, "cap_lift", (0, 0, 1), self.lift, damping=1.0, frictionloss=0.05)
        _weight(slider, 0.2 * self.cap_mass, (0, 0, self.cap[1]), self.cap[0])
        _point(slider, "cap link", self.cap_link)
        cap = _body(slider, "cap")
        cap.add_joint(name="cap_turn", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1), damping=1e-3, armature=1e-5)
        _rod(cap, _CYLINDER, "cap", self.cap, contacts, "part", mass=0.8 * self.cap_mass)

    def joints(self, points: np.ndarray) -> dict[str, float]:
        """The joints that follow from the points (3, 3)."""
        bottle, cap, link = points
        along = (cap - bottle) / np.linalg.norm(cap - bottle)
        return {"cap_lift": float((link - bottle) @ along)}


@dataclass(frozen=True)
class DoubleDoor:
    """Two leaves in a frame along y, hinged at its ends, with bars to grip on both faces.

    In the door's frame, leaves swing to -x and hands come from +x; turned by 180 degrees about y, it opens inward.
    """

    POINTS: ClassVar = ("left handle", "right handle")
    ROOT: ClassVar = "door"
    free: ClassVar = False

    inward: bool
    position: Vector = (0.0, 0.0, 0.7)
    hinges: tuple[tuple[float, float], ...] = ((-0.0085, 0.4265), (-0.0056, -0.4204))  # x, y: right, left
    leaf: Vector = (0.0176, 0.4405, 0.925)  # thick, wide, high
    leaf_front: float = 0.016  # of the leaf's +x face, from the hinge
    opening: float = 1.5708  # range of the hinges
    handle: Vector = (0.018, 0.035, 0.30)  # of a bar: thick, wide, high
    handle_mass: float = 0.33  # kg, of each bar
    handle_across: float = 0.3745  # from the hinge to the bar's middle
    handle_z: float = -0.04
    reach: tuple[float, float] = (0.093, -0.083)  # x of the bars' outer faces: front, back
    post: float = 0.02  # height of what joins a bar to the leaf
    point_across: float = 0.39  # the point that rewards look at, from the hinge
    point_x: float = 0.04
    point_z: float = -0.017
    strip: tuple[Vector, float] = ((0.0485, 1.762, 0.0044), 0.48)  # of the frame: size, distance from the middle

    @property
    def euler(self) -> Vector:
        """Rotation of the whole door."""
        return (0.0, math.pi if self.inward else 0.0, 0.0)

    def add(self, spec: Any, contacts: Contacts, spring: float = 0.0, damping: float = 1.0) -> None:
        """Add the object to a specification, with a spring (N m/rad) and damping (N m s/rad) of the hinges."""
        door = _body(spec.worldbody, "door", self.position, quaternion(self.euler))
        for z in (-1, 1):
            _box(door, f"strip_{z}", (0, 0, z * self.strip[1]), self.strip[0], contacts, "table")
        for name, (x, y), side in zip(("right", "left"), self.hinges, (1, -1), strict=True):
            leaf = _body(door, f"{name}_leaf", (x, y, 0))
            kind, axis = mujoco.mjtJoint.mjJNT_HINGE, (0, 0, -side)
            hinge = leaf.add_joint(name=f"{name}_hinge", type=kind, axis=axis, damping=damping, stiffness=spring)
            hinge.range, hinge.limited = (0, self.opening), 1
            thick, wide, _ = self.leaf
            middle = side * (wide / 2) - y  # it reaches from the door's middle to beyond the hinge
            _box(leaf, f"{name}_leaf", (self.leaf_front - thick / 2, middle, 0), self.leaf, contacts, "body")
            self._add_handles(leaf, name, -side, contacts)
        for name, side in (("left", 1), ("right", -1)):
            point = (-self.point_x if self.inward else self.point_x, side * self.point_across, self.point_z)
            _point(spec.body(f"{name}_leaf"), f"{name} handle", point)

    def joints(self, points: np.ndarray) -> dict[str, float]:
        """The joints that follow from the points (2, 3)."""
        angles = {}
        for name, point, (x, y), side in zip(("left", "right"), points, reversed(self.hinges), (1, -1), strict=True):
            flip = -1 if self.inward else 1  # a half turn about y
            arm = (flip * (point[0] - self.position[0]) - x, point[1] - self.position[1] - y)
            shut = (-self.point_x if self.inward else self.point_x, side * self.point_across)
            turn = np.arctan2(shut[0] * arm[1] - shut[1] * arm[0], shut[0] * arm[0] + shut[1] * arm[1])
            angles[f"{name}_hinge"] = float(side * turn)
        return angles

    def _add_handles(self, leaf: Any, name: str, side: int, contacts: Contacts) -> None:
        thick, wide, high = self.handle
        y = side * self.handle_across
        faces = (self.leaf_front, self.leaf_front - self.leaf[0])
        for face, surface, outer in zip(("front", "back"), faces, self.reach, strict=True):
            out = np.sign(outer)
            inner = outer - out * thick  # of the bar
            bar = (outer - out * thick / 2, y, self.handle_z)
            _box(leaf, f"{name}_{face}_bar", bar, self.handle, contacts, "part", self.handle_mass)
            for end in (-1, 1):
                z = self.handle_z + end * (high - self.post) / 2
                size = (abs(inner - surface), wide, self.post)
                _box(leaf, f"{name}_{face}_post_{end}", ((inner + surface) / 2, y, z), size, contacts, "part", 0.0)


@dataclass(frozen=True)
class Pen:
    """A free pen along its z axis, on a table, with a cap that slides off towards -z."""

    POINTS: ClassVar = ("cap", "body")
    ROOT: ClassVar = "pen"
    free: ClassVar = True

    position: Vector = (0.0, 0.0, 0.6)  # its axis in the table's top: contact pushes it out
    euler: Vector = (1.57, 1.57, 0.0)
    barrel: tuple[float, float, float] = (0.0105, -0.04, 0.20)  # radius, from z, to z
    inner: tuple[float, float, float] = (0.005, -0.16, -0.04)  # what the cap covers
    cap: tuple[float, float, float] = (0.0115, -0.172, -0.040)
    barrel_mass: float = 0.05  # kg
    cap_mass: float = 0.028
    cap_point: Vector = (0.0, 0.0, -0.1)
    body_point: Vector = (0.0, 0.0, 0.07)
    slide: float = 0.492
    table: tuple[Vector, Vector] = ((0.0, 0.0, 0.3), (0.25, 0.5, 0.3))  # centre, half sizes

    def add(self, spec: Any, contacts: Contacts) -> None:
        """Add the object to a specification."""
        _table(spec, self.table)
        pen = _body(spec.worldbody, "pen", self.position, quaternion(self.euler))
        pen.add_freejoint(name="pen")
        _rod(pen, _CAPSULE, "barrel", self.barrel, contacts, "body", 0.9 * self.barrel_mass)
        _rod(pen, _CAPSULE, "inner", self.inner, contacts, "body", 0.1 * self.barrel_mass)
        cap = _body(pen, "cap")
        _slide(cap, "cap_slide", (0, 0, -1), self.slide, damping=0.5)
        _rod(cap, _CAPSULE, "cap", self.cap, contacts, "part", self.cap_mass)
        _point(cap, "cap", self.cap_point)
        _point(pen, "body", self.body_point)

    def joints(self, points: np.ndarray) -> dict[str, float]:
        """The joints that follow from the points (2, 3)."""
        shut = self.body_point[2] - self.cap_point[2]
        return {"cap_slide": float(np.linalg.norm(points[0] - points[1])) - shut}


def _body(parent: Any, name: str, position: Any = (0, 0, 0), quat: Any = (1, 0, 0, 0)) -> Any:
    return parent.add_body(name=name, pos=position, quat=quat)


def _point(body: Any, name: str, position: Any) -> None:
    body.add_site(name=f"point:{name}", pos=position, size=(0.005,) * 3, group=4)


def _weight(body: Any, mass: float, centre: Any, radius: float) -> None:
    """Inertia of a ball, for a body without shape."""
    body.explicitinertial, body.mass, body.ipos = True, mass, centre
    body.inertia = (0.4 * mass * radius**2,) * 3


def _slide(body: Any, name: str, axis: Any, length: float, damping: float, frictionloss: float = 0.0) -> None:
    resistance = {"damping": damping, "frictionloss": frictionloss, "armature": _SLIDE_ARMATURE}
    joint = body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, **resistance)
    joint.range, joint.limited = (0, length), 1


def _box(body: Any, name: str, at: Any, size: Any, contacts: Contacts, color: str, mass: float | None = None) -> None:
    half = np.asarray(size) / 2
    _shape(body, name, mujoco.mjtGeom.mjGEOM_BOX, half, at, contacts, color, mass)


def _rod(
    body: Any, kind: Any, name: str, size: Vector, contacts: Contacts, color: str, mass: float | None = None
) -> None:
    radius, low, high = size
    half = (radius, (high - low) / 2 - (radius if kind == _CAPSULE else 0), 0)
    _shape(body, name, kind, half, (0, 0, (low + high) / 2), contacts, color, mass)


def _shape(
    body: Any, name: str, kind: Any, half: Any, at: Any, contacts: Contacts, color: str, mass: float | None
) -> None:
    geom = body.add_geom(name=name, type=kind, size=half, pos=at, rgba=_COLORS[color], density=DENSITY)
    if mass is not None:
        geom.mass = mass
    geom.friction[0], geom.priority = contacts.friction, 1  # instead of the larger of two geoms' friction
    geom.contype, geom.conaffinity = THINGS, RIGHT | LEFT  # the object's parts do not touch each other


def _table(spec: Any, place: tuple[Vector, Vector]) -> None:
    centre, half = place
    box = mujoco.mjtGeom.mjGEOM_BOX
    table = spec.worldbody.add_geom(name="table", type=box, pos=centre, size=half, rgba=_COLORS["table"])
    table.contype, table.conaffinity = TABLES, RIGHT | LEFT | THINGS
