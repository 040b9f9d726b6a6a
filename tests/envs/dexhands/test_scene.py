"""The simulated world: the hand's files, joints, masses, drag, mirror image."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import mujoco
import numpy as np
import pytest

from dima.envs.dexhands import hand as hands
from dima.envs.dexhands.hand import ACTUATED, COUPLINGS, JOINTS, assets, hand
from dima.envs.dexhands.scene import SIDES, build
from dima.envs.dexhands.settings import DexHandsConfig
from dima.envs.dexhands.tasks import TASKS
from dima.errors import EnvError

SHA256 = {  # of gymnasium-robotics 1.4.2
    "robot.xml": "d23af9f9ab8f0ad479964fd31663536d8866b129d82ef2f676165990a1c8514b",
    "shared.xml": "fbc404e52def67e38222a395fcc39c051eacc503dbf8e22a22a5bcce36992524",
    "shared_asset.xml": "95a9153e6bba4c555ad7cdcea746520eab38e0d57415fa9b3bfaf987dd0418f1",
}


@cache
def model_of(task: str, **settings: Any) -> Any:
    return build(TASKS[task], DexHandsConfig(**settings))


def test_the_installed_hand_is_the_one_that_the_tasks_were_made_for() -> None:
    folder = assets() / "hand"
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SHA256} == SHA256


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "find_spec", lambda name: None)
    with pytest.raises(EnvError, match=r"needs the Shadow Hand of gymnasium-robotics 1\.4: pip install"):
        assets()


def test_an_old_mujoco_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco, "MjSpec", object)
    with pytest.raises(EnvError, match=r"dexhands needs MuJoCo 3\.3\.6 or newer, not .*: pip install -U mujoco"):
        hand()


@pytest.mark.parametrize("task", TASKS)
def test_joints_actuators_couplings_and_masses(task: str) -> None:
    model = model_of(task)
    for side in SIDES:
        names = [model.joint(i).name for i in range(model.njnt)]
        own = [
            name.removeprefix(f"{side}_") for name in names if name.startswith(side) and name[len(side) + 1].isupper()
        ]
        assert own == list(JOINTS)
        assert [model.actuator(f"{side}_A_{joint}").name for joint in ACTUATED]
        assert model.body_subtreemass[model.body(f"{side}_mount").id] == pytest.approx(5.011)
        assert model.joint(f"{side}_FFJ2").range == pytest.approx([0, 1.571])  # radians
        assert model.joint(f"{side}_WRJ1").range == pytest.approx([-0.489, 0.14])
    assert model.ntendon == 2 * len(COUPLINGS)
    assert model.tendon_range[model.tendon("right_T_FFJ1c").id] == pytest.approx([-0.001, 0.001])
    assert len(ACTUATED) == 20
    ranges = {"cap_lift": 0.064, "cap_slide": 0.492, "right_hinge": 1.5708, "left_hinge": 1.5708}
    for name in {model.joint(i).name for i in range(model.njnt)} & ranges.keys():
        assert model.joint(name).range == pytest.approx([0, ranges[name]])


def test_last_joints_follow_the_ones_before() -> None:
    model = model_of("pen")
    data = mujoco.MjData(model)
    data.ctrl[model.actuator("right_A_FFJ1").id] = 1.2
    mujoco.mj_step(model, data, 400)
    j1, j0 = (data.joint(f"right_FFJ{i}").qpos[0] for i in (1, 0))
    assert j1 > 0.8
    assert abs(0.00705 * j0 - 0.00805 * j1) < 0.0015


@pytest.mark.parametrize(("task", "speed"), [("bottle-cap", 0.333), ("door-open-outward", 1.663)])
def test_a_full_force_drives_a_hand_at_the_speed_of_its_drag(task: str, speed: float) -> None:
    model, data = alone(task)
    for axis in range(3):
        mujoco.mj_resetData(model, data)
        data.xfrc_applied[model.body("right_forearm").id, axis] = TASKS[task].force
        mujoco.mj_step(model, data, 60)
        before = data.subtree_com[model.body("right_mount").id].copy()
        mujoco.mj_step(model, data, 24)  # 0.1 s
        moved = data.subtree_com[model.body("right_mount").id] - before
        assert moved[axis] / 0.1 == pytest.approx(speed, rel=0.05)


@pytest.mark.parametrize(("axis", "speed"), [("x", 3.2), ("y", 3.14), ("z", 7.4)])
def test_a_full_torque_turns_a_hand_about_its_centre_of_mass(axis: str, speed: float) -> None:
    model, data = alone("door-open-outward")
    mount = model.body("right_mount").id
    mujoco.mj_forward(model, data)
    centre = data.subtree_com[mount].copy()
    own = data.xmat[mount].reshape(3, 3)[:, "xyz".index(axis)].copy()  # z is the forearm's
    data.xfrc_applied[model.body("right_forearm").id, 3:] = own * TASKS["door-open-outward"].torque
    mujoco.mj_step(model, data, 24)
    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, mount, velocity, 0)
    assert velocity[:3] @ own == pytest.approx(speed, rel=0.08)
    assert np.linalg.norm(data.subtree_com[mount] - centre) < 0.01


def alone(task: str) -> tuple[Any, Any]:
    """A world where nothing touches the hands."""
    model = build(TASKS[task], DexHandsConfig())
    model.geom_contype[:] = model.geom_conaffinity[:] = 0
    return model, mujoco.MjData(model)


def test_a_mirrored_hand_moves_as_the_mirror_image() -> None:
    def world(mirrored: bool) -> tuple[Any, Any]:
        spec = hand(mirrored)
        spec.option.timestep = 0.002
        mount, sign = spec.body("mount"), -1 if mirrored else 1
        mount.pos, mount.quat, mount.alt.type = (0, 0, 0), (1, 0, 0, 0), mujoco.mjtOrientation.mjORIENTATION_QUAT
        ball = spec.worldbody.add_body(name="ball", pos=(sign * 0.02, -0.05, 0.4))
        ball.add_freejoint()
        ball.add_geom(size=(0.02, 0, 0), contype=1, conaffinity=1, mass=0.05)
        model = spec.compile()
        data = mujoco.MjData(model)
        data.joint(model.njnt - 1).qvel[:3] = (sign * 0.05, 1.0, 0)
        return model, data

    (model, data), (other, mirrored) = world(False), world(True)
    rng, flip = np.random.default_rng(0), np.array([-1.0, 1.0, 1.0])
    hits = 0
    for _ in range(20):
        data.ctrl[:] = mirrored.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
        mujoco.mj_step(model, data, 20)
        mujoco.mj_step(other, mirrored, 20)
        hits += any(model.nbody - 1 in model.geom_bodyid[geoms] for geoms in data.contact.geom)
    assert hits  # the ball was met
    np.testing.assert_allclose(data.qpos[: len(JOINTS)], mirrored.qpos[: len(JOINTS)], atol=1e-9)
    np.testing.assert_allclose(data.xpos * flip, mirrored.xpos, atol=1e-9)
    assert np.abs(data.xpos[model.body("thdistal").id] - mirrored.xpos[model.body("thdistal").id]).max() > 0.05
    assert (other.mesh_facenum == model.mesh_facenum).all()


def test_a_true_left_hand_has_its_thumb_on_the_other_side() -> None:
    thumbs = []
    for left in ("copy", "mirror"):
        model = model_of("pen", left_hand=left)
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        thumbs.append((data.body("left_thproximal").xpos - data.body("left_palm").xpos)[1])
    assert thumbs[0] * thumbs[1] < 0


def test_the_jacobian_is_dense_where_the_sparse_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_of("pen").opt.jacobian != mujoco.mjtJacobian.mjJAC_DENSE
    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    assert build(TASKS["pen"], DexHandsConfig()).opt.jacobian == mujoco.mjtJacobian.mjJAC_DENSE


def test_hands_touch_each_other_unless_told_otherwise() -> None:
    for touch in (True, False):
        model = model_of("pen", hands_touch=touch)
        right, left = (model.geom(f"{side}_C_palm0").id for side in SIDES)
        meet = model.geom_contype[right] & model.geom_conaffinity[left]
        assert bool(meet) == touch
        assert not model.geom_contype[right] & model.geom_conaffinity[right]
