"""The Shadow Hand of Gymnasium-Robotics, as a specification that moves freely in space.

Its MJCF is read from the installed package. Bi-DexHands uses the same hand, with all tendons but the four couplings of
the fingers' last joints disabled. Both its hands are right hands; :func:`hand` can also mirror one.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from dima.errors import EnvError

JOINTS = (
    *("WRJ1", "WRJ0", "FFJ3", "FFJ2", "FFJ1", "FFJ0", "MFJ3", "MFJ2", "MFJ1", "MFJ0", "RFJ3", "RFJ2", "RFJ1", "RFJ0"),
    *("LFJ4", "LFJ3", "LFJ2", "LFJ1", "LFJ0", "THJ4", "THJ3", "THJ2", "THJ1", "THJ0"),
)
ACTUATED = tuple(joint for joint in JOINTS if joint not in ("FFJ0", "MFJ0", "RFJ0", "LFJ0"))  # the rest follows J1
DIGITS = ("ff", "mf", "rf", "lf", "th")
COUPLINGS = ("T_FFJ1c", "T_MFJ1c", "T_RFJ1c", "T_LFJ1c")
MOUNT, FOREARM, PALM = "mount", "forearm", "palm"
DRAG = 100.0  # 1/s: force and torque against motion, over mass and inertia
_PALM_POINT, _TIP_POINT = (0.0, -0.02, 0.08), (0.0, 0.0, 0.02)  # that rewards look at
MUJOCO = "3.3.6"  # the first version tried whose specifications can be edited as here
_OLD = re.compile(r'<size [^>]*></size>| user="[^"]*"')  # of the files: sizes and user data of an old format
_FILES = ("shared.xml", "shared_asset.xml", "robot.xml")
_WORLD = """<mujoco model="hand">
  <compiler angle="radian" meshdir="{meshes}"/>
  <include file="shared.xml"/>
  <asset><include file="shared_asset.xml"/></asset>
  <worldbody><include file="robot.xml"/></worldbody>
</mujoco>"""


def assets() -> Path:
    """Folder of the assets in the installed package.

    Raises:
        EnvError: the package is missing, or has no Shadow Hand.
    """
    found = find_spec("gymnasium_robotics")
    for place in (found.submodule_search_locations or ()) if found else ():
        folder = Path(place) / "envs" / "assets"
        if all((folder / "hand" / name).is_file() for name in _FILES):
            return folder
    raise EnvError("dexhands needs the Shadow Hand of gymnasium-robotics 1.4: pip install 'gymnasium-robotics>=1.4'")


def hand(mirrored: bool = False, visual: bool = False) -> Any:
    """The specification of a hand, whose first body is the mount.

    Args:
        mirrored: reflected in its plane x = 0, as a left hand.
        visual: with the meshes that are only looked at.

    Raises:
        EnvError: the package with its files is missing, or MuJoCo is too old.
    """
    folder = assets()
    files = {name: (folder / "hand" / name).read_text(encoding="utf-8") for name in _FILES}
    files["robot.xml"] = files["robot.xml"].replace("robot0:hand mount", MOUNT)
    texts = {name: _OLD.sub("", text.replace("robot0:", "")).encode() for name, text in files.items()}
    if not hasattr(mujoco.MjSpec, "delete"):
        raise EnvError(f"dexhands needs MuJoCo {MUJOCO} or newer, not {mujoco.__version__}: pip install -U mujoco")
    spec = mujoco.MjSpec.from_string(_WORLD.format(meshes=folder / "stls" / "hand"), include=texts)
    _strip(spec, visual)
    for body in spec.bodies[1:]:
        body.gravcomp = 1  # no gravity on the hands
    spec.body(PALM).add_site(name="palm_point", pos=_PALM_POINT, group=4)
    for digit in DIGITS:
        spec.body(f"{digit}distal").add_site(name=f"{digit}_point", pos=_TIP_POINT, group=4)
    if mirrored:
        _mirror(spec)
    return spec


def free_base(spec: Any, position: Any, quat: np.ndarray) -> None:
    """Let a hand move freely from a pose, with Bi-DexHands' drag.

    Three slides along the world's axes, then a ball, at the hand's centre of mass. The ball's damping is the drag about
    the hand's long axis; actuators without input add what the drag about the other two is larger.

    Args:
        spec: of the hand; changed.
        position: (3,) of the mount.
        quat: (4,) rotation applied after the mount's own.
    """
    mass, centre, inertia = _mass_of(spec)
    mount = spec.body(MOUNT)
    turned = np.zeros(4)
    mujoco.mju_mulQuat(turned, quat, _as_quaternion(spec, mount))
    _orient(mount, turned)
    mount.pos = position
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, turned)
    for name, axis in zip("xyz", axes.reshape(3, 3), strict=True):  # row i: world axis i in the mount's frame
        mount.add_joint(name=f"base_{name}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=DRAG * mass)
    least = DRAG * inertia.min()
    mount.add_joint(name="base_rotation", type=mujoco.mjtJoint.mjJNT_BALL, pos=centre, damping=least)
    for i, name in enumerate("xyz"):
        if (more := DRAG * inertia[i] - least) > 0:
            drag = spec.add_actuator(name=f"drag_{name}", target="base_rotation")
            drag.trntype = mujoco.mjtTrn.mjTRN_JOINT
            drag.gaintype, drag.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
            drag.gainprm[0], drag.biasprm[2] = 0, -more
            drag.gear[:3] = np.eye(3)[i]


class _Mass(NamedTuple):
    total: float
    centre: np.ndarray  # (3,) in the mount's frame
    inertia: np.ndarray  # (3,) about the centre and the mount's axes


def _mass_of(spec: Any) -> _Mass:
    """Mass properties of a hand with straight fingers."""
    model = spec.copy().compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    rotation = data.xmat[1].reshape(3, 3)
    centre = rotation.T @ (data.subtree_com[1] - data.xpos[1])
    inertia = np.zeros((3, 3))
    for i in range(1, model.nbody):
        frame, offset = data.ximat[i].reshape(3, 3), data.xipos[i] - data.subtree_com[1]
        inertia += frame @ np.diag(model.body_inertia[i]) @ frame.T
        inertia += model.body_mass[i] * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    return _Mass(float(model.body_mass.sum()), centre, np.diag(rotation.T @ inertia @ rotation).copy())


def _strip(spec: Any, visual: bool) -> None:
    """Delete what the tasks have no use for."""
    for part in [*spec.sensors, *spec.sites, *(tendon for tendon in spec.tendons if tendon.name not in COUPLINGS)]:
        spec.delete(part)
    if not visual:
        for geom in [geom for geom in spec.geoms if geom.name.startswith("V_")]:
            spec.delete(geom)
        for mesh in [mesh for mesh in spec.meshes if mesh.name != "forearm_cvx"]:
            spec.delete(mesh)
    for geom in spec.geoms:
        geom.material = ""
    for material in list(spec.materials):
        spec.delete(material)
    for texture in list(spec.textures):
        spec.delete(texture)


def _mirror(spec: Any) -> None:
    """Reflect a hand in the plane x = 0 of each body."""
    flip = np.array([-1.0, 1.0, 1.0])
    for body in spec.bodies[1:]:
        mount = body.name == MOUNT
        quat = _as_quaternion(spec, body)
        _orient(body, quat if mount else _mirrored(quat))  # where the hand is mounted stays
        body.pos = body.pos if mount else body.pos * flip
        body.ipos, body.iquat = body.ipos * flip, _mirrored(body.iquat)
    for geom in spec.geoms:
        _orient(geom, _mirrored(_as_quaternion(spec, geom)))
        geom.pos = geom.pos * flip
    for site in spec.sites:
        site.pos = site.pos * flip
    for joint in spec.joints:  # hinges: their axes are pseudo-vectors
        joint.pos, joint.axis = joint.pos * flip, -joint.axis * flip
    for mesh in spec.meshes:
        mesh.scale = mesh.scale * flip


def _mirrored(quat: np.ndarray) -> np.ndarray:
    return np.asarray(quat) * (1, 1, -1, -1)


def _as_quaternion(spec: Any, part: Any) -> np.ndarray:
    if part.alt.type == mujoco.mjtOrientation.mjORIENTATION_QUAT:
        return np.array(part.quat)
    sequence = spec.compiler.eulerseq
    return np.array(spec.resolve_orientation(degree=False, sequence=sequence, orientation=part.alt))


def _orient(part: Any, quat: np.ndarray) -> None:
    part.alt.type, part.quat = mujoco.mjtOrientation.mjORIENTATION_QUAT, quat
