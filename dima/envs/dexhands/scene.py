"""The simulated world of a task: two hands, an object, a table."""

from __future__ import annotations

from typing import Any

import mujoco

from dima.envs.dexhands.hand import free_base, hand
from dima.envs.dexhands.objects import HARD, LEFT, RIGHT, TABLES, THINGS, Contacts, DoubleDoor, quaternion
from dima.envs.dexhands.settings import CONTROL_SECONDS, DexHandsConfig
from dima.envs.dexhands.tasks import Start, Task

_GROUND = (0.80, 0.82, 0.84)  # colour below the horizon
_FOREARM_MARGIN = 0.006  # m, at which contact begins: forearms may meet at 14 mm a physics step
SIDES = ("right", "left")  # names of bodies, joints and sites begin with them: right_palm


def build(task: Task, config: DexHandsConfig, visual: bool = False) -> Any:
    """Build a task's world.

    Args:
        task: of ``TASKS``.
        config: its settings.
        visual: with the hands' looks, for pictures; the motion is the same.

    Returns:
        The compiled ``MjModel``.

    Raises:
        EnvError: the package with the hand's files is missing.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    _set_physics(spec, config)
    contacts = Contacts(config.friction or task.friction, (config.contact_time * spec.option.timestep, 1.0))
    if isinstance(task.thing, DoubleDoor):
        task.thing.add(spec, contacts, config.door_spring, config.door_damping)
    else:
        task.thing.add(spec, contacts)
    for side, start in zip(SIDES, (task.right, task.left), strict=True):
        _add_hand(spec, side, start, mirrored=side == "left" and config.left_hand == "mirror", visual=visual)
    _set_collisions(spec, contacts, config.hands_touch)
    if visual:
        _set_looks(spec)
    return spec.compile()


def _set_physics(spec: Any, config: DexHandsConfig) -> None:
    option = spec.option
    option.timestep = CONTROL_SECONDS / config.frame_skip
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone, option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, config.contact_ratio
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a broken state is to be seen, not hidden
    if mujoco.__version__ == "4.0.0":  # its sparse Cholesky factorisation is wrong
        option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE


def _add_hand(spec: Any, side: str, start: Start, mirrored: bool, visual: bool) -> None:
    child = hand(mirrored, visual)
    free_base(child, start.position, quaternion(start.euler))
    spec.worldbody.add_frame().attach_body(child.body("mount"), prefix=f"{side}_")


def _set_collisions(spec: Any, contacts: Contacts, hands_touch: bool) -> None:
    """Say what touches what, and how; a hand touches itself in the pairs that its file lists."""
    bits = {"right": (RIGHT, LEFT), "left": (LEFT, RIGHT)}
    for geom in spec.geoms:
        geom.solref, geom.condim = contacts.solref, 4
        side, is_collider, _ = geom.name.partition("_C_")  # the hands' collision shapes are named so
        if is_collider:
            own, other = bits[side]
            geom.contype, geom.conaffinity = own, THINGS | TABLES | (other if hands_touch else 0)
        if geom.name.endswith("_C_forearm"):
            geom.margin = _FOREARM_MARGIN
    for pair in spec.pairs:
        pair.solref = contacts.solref
    for joint in spec.joints:  # limits as hard as contacts
        joint.solref_limit, joint.solimp_limit, joint.margin = contacts.solref, HARD, 0


def _set_looks(spec: Any) -> None:
    """A bright sky and two lights."""
    sky = mujoco.mjtTexture.mjTEXTURE_SKYBOX
    gradient = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    spec.add_texture(
        name="sky", type=sky, builtin=gradient, rgb1=(0.95, 0.96, 0.97), rgb2=_GROUND, width=64, height=384
    )
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = (0.35,) * 3, (0.35,) * 3
    spec.visual.headlight.specular = (0.05,) * 3
    directional = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    for side in (-1, 1):
        light = spec.worldbody.add_light(type=directional, pos=(side, 0, 3), dir=(-0.5 * side, -0.3 * side, -1))
        light.diffuse, light.specular = (0.35,) * 3, (0.05,) * 3
