"""The environment: spaces, seeds, start, ends, time limit, settings, noise, snapshots."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dima.envs import all_tasks, make_env, make_parallel_env, suite_config
from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.observation import HAND, HAND_SIZE, OBJECT, OBJECT_SIZE, euler_angles
from dima.envs.dexhands.scripted import act_both
from dima.envs.dexhands.settings import DexHandsConfig
from dima.envs.dexhands.tasks import TASKS
from dima.errors import ConfigError, DivergenceError, EnvError

NAMES = [f"dexhands/{task}" for task in TASKS]
NOTHING = {agent: np.zeros(26, np.float32) for agent in AGENTS}


def exact(task: str, **settings) -> DexHandsEnv:
    """An environment exactly at the task's start, before any step."""
    env = DexHandsEnv(task, DexHandsConfig(**settings))
    env.place()
    env.observer.read(env.data, np.zeros((2, 26)))
    return env


def outcome(env: DexHandsEnv):
    return env.task.outcome(env.observer.palms, env.observer.fingertips, env.observer.object_points)


def play(env: DexHandsEnv, policy, seed: int = 0) -> tuple[float, int, bool]:
    """Return, steps and success of an episode; ``policy`` takes a step and both observations."""
    observations, _ = env.reset(seed=seed)
    total, step, infos = 0.0, 0, {}
    while env.agents:
        actions = dict(zip(AGENTS, policy(step, [observations[agent] for agent in AGENTS]), strict=True))
        observations, rewards, _, _, infos = env.step(actions)
        total, step = total + rewards["left_hand"], step + 1
    return total, step, infos["right_hand"]["success"]


def scripted(task: str, right: bool = True):
    hold = np.zeros(26, np.float32)

    def policy(step: int, obs: list[np.ndarray]) -> list[np.ndarray]:
        hands = list(act_both(task, step, obs))
        return hands if right else [hold, hands[1]]

    return policy


# -- interface --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pettingzoo_s_own_tests(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = make_parallel_env(name)
    parallel_api_test(env, num_cycles=60)
    parallel_seed_test(lambda: make_parallel_env(name), num_cycles=20)
    assert "Passed" in capsys.readouterr().out
    own = 221 if "bottle" in name else 218
    assert [env.observation_space(agent).shape for agent in AGENTS] == [(own,), (own,)]
    assert [env.action_space(agent).shape for agent in AGENTS] == [(26,), (26,)]
    assert env.state().shape == ((420,) if "bottle" in name else (417,))
    assert env.state_space.contains(env.state())
    assert len(set(env.state_names())) == len(env.state_kinds()) == env.state().size
    assert name in {info.name for info in all_tasks()}


def test_the_adapter_takes_it_like_any_other_task() -> None:
    env = make_env("dexhands/pen")
    spec = env.spec
    assert (spec.agents, spec.state_dim, spec.obs_sizes, spec.action_sizes) == (AGENTS, 417, (218, 218), (26, 26))
    assert (spec.episode_limit, spec.agents_leave, spec.episode_metrics) == (125, False, ("success",))
    with pytest.raises(DivergenceError, match=r"dexhands/pen: the policy's action for agent 'left_hand' is NaN"):
        env.step(np.array([[0.0] * 26, [np.nan] * 26]))


def test_an_observation_is_the_own_hand_and_the_object() -> None:
    env = DexHandsEnv("bottle-cap")
    observations, _ = env.reset(seed=0)
    state = env.state()
    for i, agent in enumerate(AGENTS):
        own = state[i * HAND_SIZE : (i + 1) * HAND_SIZE]
        assert np.array_equal(observations[agent], np.concatenate([own, state[2 * HAND_SIZE :]]))
    assert np.abs(state).max() <= 5


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_equal_episodes_bit_by_bit(task: str) -> None:
    rng = np.random.default_rng(0)
    actions = [{agent: rng.uniform(-1, 1, 26).astype(np.float32) for agent in AGENTS} for _ in range(10)]
    env, runs = DexHandsEnv(task), []
    for seed in (7, 7, 8):
        env.reset(seed=seed)
        states = [env.state()]
        for action in actions:
            env.step(action)
            states.append(env.state())
        runs.append(np.stack(states))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert np.abs(runs[0][0] - runs[2][0])[: HAND["velocities"].start].max() < 0.05  # the start hardly varies


# -- starts and ends --------------------------------------------------------------------------------------------------


def test_starts_are_the_original_s() -> None:
    bottle = outcome(exact("bottle-cap"))
    assert (bottle.right, bottle.reward) == (pytest.approx(0.806, abs=0.01), pytest.approx(1.146, abs=0.01))
    assert bottle.progress == pytest.approx(0.0103, abs=1e-4)
    for direction, x, z in (("outward", (0.0344, 0.0315), 0.683), ("inward", (0.048, 0.048), 0.717)):
        env = exact(f"door-open-{direction}")
        expected = [(x[0], -0.0304, z), (x[1], 0.0365, z)]
        np.testing.assert_allclose(env.observer.object_points, expected, atol=0.003)
        doors = outcome(env)
        assert doors.progress == pytest.approx(0.067, abs=0.001)
        assert (doors.right, doors.left) == (pytest.approx(1.05, abs=0.12), pytest.approx(1.05, abs=0.12))
    pen = exact("pen")
    np.testing.assert_allclose(pen.observer.object_points, [(0, 0.1, 0.6), (0, -0.07, 0.6)], atol=0.001)
    assert (outcome(pen).right, outcome(pen).left) == (pytest.approx(1.2, abs=0.06), pytest.approx(1.34, abs=0.06))
    assert outcome(pen).progress == pytest.approx(0.17, abs=0.001)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("left", ["copy", "mirror"])
def test_nothing_fails_at_the_start(task: str, left: str) -> None:
    assert not outcome(exact(task, left_hand=left)).failed


@pytest.mark.parametrize("task", TASKS)
def test_failure_terminates_and_the_time_limit_truncates(task: str) -> None:
    env = DexHandsEnv(task, DexHandsConfig(episode_limit=3))
    env.reset(seed=0)
    for step in range(3):
        _, _, terminated, truncated, _ = env.step(NOTHING)
        assert (terminated["left_hand"], truncated["left_hand"]) == (False, step == 2)
    assert not env.agents
    env = DexHandsEnv(task)
    env.reset(seed=0)
    away = {agent: np.zeros(26, np.float32) for agent in AGENTS}
    away["right_hand"][2] = 1
    for _ in range(env.episode_limit):
        _, _, terminated, truncated, _ = env.step(away)
        if not env.agents:
            break
    assert terminated["right_hand"] and not truncated["right_hand"]


# -- tasks can be solved ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "least"), [("door-open-outward", 400), ("door-open-inward", 400), ("pen", 100)])
def test_scripted_hands_succeed_and_earn_more_than_idle_ones(task: str, least: float) -> None:
    env = DexHandsEnv(task)
    total, _, success = play(env, scripted(task))
    idle, _, idle_success = play(env, lambda step, obs: [NOTHING[agent] for agent in AGENTS])
    assert success and not idle_success
    assert total > least > idle + 100 * (task != "pen")


def test_the_scripted_hands_hold_the_bottle_and_lift_its_cap() -> None:
    env = DexHandsEnv("bottle-cap")
    total, steps, success = play(env, scripted("bottle-cap"))
    assert success and steps == 125 and total > 230
    held, steps, _ = play(env, scripted("bottle-cap", right=False))
    assert steps == 125
    still = np.zeros((2, 26), np.float32)
    still[:, 6:] = env.start_action
    dropped, early, _ = play(env, lambda step, obs: list(still))
    assert early < 60 and dropped < held < total


def test_the_cap_counts_when_lifted_not_when_turned() -> None:
    env = exact("bottle-cap")
    before = outcome(env)
    for lift, success in ((0.025, False), (0.03, True)):
        env.data.joint("cap_lift").qpos[0] = lift
        mujoco.mj_forward(env.model, env.data)
        env.observer.read(env.data, np.zeros((2, 26)))
        assert bool(outcome(env).succeeded) == success
    env.data.joint("cap_lift").qpos[0] = 0
    env.data.joint("cap_turn").qpos[0] = 2.0
    mujoco.mj_forward(env.model, env.data)
    env.observer.read(env.data, np.zeros((2, 26)))
    assert outcome(env) == before


def test_success_is_remembered_until_the_next_episode() -> None:
    env = DexHandsEnv("bottle-cap")
    env.reset(seed=0)
    env.data.joint("cap_lift").qpos[0] = 0.05
    assert env.step(NOTHING)[4]["right_hand"]["success"]
    env.data.joint("cap_lift").qpos[0] = 0.0
    assert env.step(NOTHING)[4]["right_hand"]["success"]
    assert not env.reset(seed=0)[1]["right_hand"]["success"]


# -- features ---------------------------------------------------------------------------------------------------------


def test_velocities_are_the_rates_of_positions() -> None:
    env, rng = DexHandsEnv("pen"), np.random.default_rng(0)
    env.reset(seed=0)
    actions = {agent: rng.uniform(-1, 1, 26).astype(np.float32) for agent in AGENTS}
    for _ in range(8):
        before = env.observer.read(env.data, np.zeros((2, 26)))
        env.step(actions)
    tips, old = (state[:HAND_SIZE][HAND["fingertips"]].reshape(5, 13) for state in (env.state(), before))
    np.testing.assert_allclose(tips[:, 7:10], (tips[:, :3] - old[:, :3]) * 60, atol=0.25)
    assert np.abs(tips[:, 7:10]).max() > 0.3


def test_euler_angles_turn_about_fixed_axes() -> None:
    quat = np.zeros(4)
    mujoco.mju_euler2Quat(quat, np.array([0.5, -0.3, 4.0]), "XYZ")
    assert euler_angles(quat) == pytest.approx((0.5, 2 * np.pi - 0.3, 4.0))


def test_quaternions_end_with_the_real_part_and_angular_velocity_is_scaled() -> None:
    env = exact("bottle-cap")
    env.data.joint("bottle").qvel[3:] = (0.0, 0.0, 2.0)  # about its own axis
    mujoco.mj_forward(env.model, env.data)
    thing = env.observer.read(env.data, np.zeros((2, 26)))[2 * HAND_SIZE :]
    half = -0.35
    np.testing.assert_allclose(thing[OBJECT["pose"]][3:], (0, np.sin(half), 0, np.cos(half)), atol=1e-5)
    np.testing.assert_allclose(thing[OBJECT["angular velocity"]], (0.4 * np.sin(-0.7), 0, 0.4 * np.cos(0.7)), atol=1e-5)
    assert thing[OBJECT_SIZE:].reshape(3, 3)[0] == pytest.approx(thing[:3])


# -- settings ---------------------------------------------------------------------------------------------------------


def test_noise_at_reset_moves_hands_and_object() -> None:
    def starts(**settings) -> np.ndarray:
        env = DexHandsEnv("pen", DexHandsConfig(reset_action=0.0, **settings))
        states = []
        for seed in range(4):
            env.reset(seed=seed)
            assert np.isfinite(env.state()).all()
            states.append(env.state())
        return np.stack(states)

    assert np.ptp(starts(), axis=0).max() == 0
    joints, thing = HAND["positions"], slice(2 * HAND_SIZE, 2 * HAND_SIZE + 7)
    assert np.ptp(starts(reset_joint_noise=0.1)[:, joints], axis=0).max() > 0.05
    moved = starts(reset_position_noise=0.02)
    assert 0.005 < np.ptp(moved[:, thing][:, :2], axis=0).max() < 0.041
    assert np.ptp(moved[:, HAND["palm"]], axis=0).max() > 0.005
    assert np.ptp(starts(reset_rotation_noise=0.3)[:, thing][:, 3:], axis=0).max() > 0.02


def test_settings_reach_the_simulation() -> None:
    env = DexHandsEnv("door-open-inward", DexHandsConfig(door_spring=5.0, friction=0.8, frame_skip=8, contact_time=4.0))
    assert env.model.joint("left_hinge").stiffness[0] == 5
    assert env.model.geom("left_front_bar").friction[0] == 0.8
    assert env.model.opt.timestep == pytest.approx(1 / 480)
    assert env.model.geom("left_front_bar").solref[0] == pytest.approx(4 / 480)
    before = env.reset(seed=0) and env.data.time
    env.step(NOTHING)
    assert env.data.time - before == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("pne", {}, "dexhands/pne: no such task: did you mean 'pen'?"),
        ("pen", {"door_spring": 5.0}, "door_spring = 5.0 applies to the doors only, not to dexhands/pen"),
        ("pen", {"left_hand": "right"}, "left_hand = 'right' "),
        ("pen", {"frame_skip": 2}, "frame_skip = 2 is out of range: expected at least 4"),
        ("pen", {"friction": 0.0}, "friction = 0.0 is out of range: expected at least 0.01"),
        ("pen", {"reset_joint_noise": -0.1}, "reset_joint_noise = -0.1 is out of range: expected at least 0"),
    ],
)
def test_bad_settings_are_one_clear_line(task: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_env(f"dexhands/{task}", suite_config("dexhands/pen")(**settings))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["bottle-cap", "door-open-inward"])
def test_a_snapshot_is_all_that_the_future_depends_on(task: str) -> None:
    env, rng = make_env(f"dexhands/{task}"), np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(5):
        env.step(rng.uniform(-1, 1, (2, 26)))
    snapshot, actions = env.snapshot(), rng.uniform(-1, 1, (5, 2, 26))

    def onwards() -> list[np.ndarray]:
        return [env.step(action)[0]["state"] for action in actions]

    first = onwards()
    env.reset(seed=1)
    env.restore(snapshot)
    assert np.array_equal(first, onwards())


@pytest.mark.parametrize("task", TASKS)
def test_contacts_and_limits_hold_under_bang_bang_actions(task: str) -> None:
    from benchmarks.studies.hands_contact import measure

    found = measure(DexHandsEnv(task, DexHandsConfig(episode_limit=10_000)), 1_000)
    assert found["contact_mm"]["deepest"] < 25
    slack = {"cap_lift": 0.002, "cap_slide": 0.002, "right_hinge": 0.04, "left_hinge": 0.04}
    assert all(beyond < slack[joint] for joint, beyond in found["object_joints_beyond_limits"].items())


def test_a_broken_simulation_is_told_and_not_hidden() -> None:
    env = make_env("dexhands/pen")
    env.reset(seed=3)
    env.parallel_env.data.qvel[:] = np.nan
    with pytest.raises(EnvError, match=r"dexhands/pen: step 1 of the episode with seed 3: .* nan"):
        env.step(np.zeros((2, 26)))


@pytest.mark.parametrize("task", TASKS)
def test_rounding_errors_of_the_simulator_are_no_features(task: str) -> None:
    env, rng, states = DexHandsEnv(task), np.random.default_rng(0), []
    for seed in range(12):
        env.reset(seed=seed)
        while env.agents:
            env.step({agent: rng.uniform(-1, 1, 26) for agent in AGENTS})
            states.append(env.state().astype(np.float64))
    spread = np.std(states, axis=0)
    assert ((spread == 0) | (spread > 1e-6)).all()
    assert (spread > 1e-2).mean() > 0.75
