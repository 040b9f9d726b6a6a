"""Multi-agent MuJoCo: sizes, observations, actuators, rewards, endings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pettingzoo.test.parallel_test import parallel_api_test
from pettingzoo.test.seed_test import parallel_seed_test

import dima
from dima.envs import make_env
from dima.envs.mujoco.env import MamujocoConfig, MamujocoEnv, tasks
from dima.envs.mujoco.partitions import quiet
from dima.errors import ConfigError, EnvError

with quiet():
    from gymnasium_robotics import mamujoco_v1

WORKING = [info.name.removeprefix("mamujoco/") for info in tasks() if "coupled" not in info.name]


def make(task, **options):
    return make_env(f"mamujoco/{task}", MamujocoConfig(**options))


@pytest.mark.parametrize("task", WORKING)
def test_every_scenario_and_partition_steps(task):
    env = make(task)
    rng = np.random.default_rng(0)
    joint, _ = env.reset(seed=0)
    for _ in range(3):
        joint, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape))
    n, size = env.spec.n_agents, env.spec.state_dim
    assert np.isfinite(reward)
    assert env.spec.obs_sizes == (size + n,) * n
    assert env.spec.obs_has_id
    assert np.array_equal(joint["obs"][:, :size], np.tile(joint["state"], (n, 1)))
    assert np.array_equal(joint["obs"][:, size:], np.eye(n))
    assert sum(env.spec.action_sizes) == env.parallel_env.simulator.model.nu
    assert n == next(info.n_agents for info in tasks() if info.name == env.name)
    assert len(env.state_names()) == size


def test_a_pair_the_installed_versions_break_says_why():
    with pytest.raises(EnvError, match=r"coupledhalfcheetah-1p1 does not work with .*mujoco .*Jacobian.*IndexError"):
        make("coupledhalfcheetah-1p1")


@pytest.mark.parametrize(
    ("task", "state", "agents", "actions"),
    [
        ("ant-2x4", 27, 2, 4),
        ("ant-4x2", 27, 4, 2),
        ("halfcheetah-2x3", 17, 2, 3),
        ("halfcheetah-3x2", 17, 3, 2),
        ("halfcheetah-6x1", 17, 6, 1),
        ("walker2d-2x3", 17, 2, 3),
        ("walker2d-3x2", 17, 3, 2),
    ],
)
def test_sizes_of_the_published_tasks(task, state, agents, actions):
    spec = make(task).spec
    assert (spec.state_dim, spec.n_agents, spec.action_sizes) == (state, agents, (actions,) * agents)
    assert spec.obs_dim == state + agents
    assert spec.episode_limit == 1000
    assert not spec.discrete


@pytest.mark.parametrize(
    ("task", "distance", "sizes"),
    [
        ("ant-2x4", 0, (61, 61)),
        ("ant-2x4", 1, (63, 63)),
        ("ant-4x2", 2, (45,) * 4),
        ("halfcheetah-2x3", 2, (13, 13)),
        ("halfcheetah-3x2", 0, (9, 9, 9)),
        ("halfcheetah-6x1", 1, (9, 9, 8, 9, 9, 8)),
        ("walker2d-2x3", 1, (12, 12)),
    ],
)
def test_sizes_of_local_observations(task, distance, sizes):
    spec = make(task, observation=f"local-{distance}", contact_forces=task.startswith("ant")).spec
    assert spec.obs_sizes == sizes
    assert not spec.obs_has_id


@pytest.mark.parametrize(
    ("task", "label", "distance"),
    [
        ("ant-4x2", "Ant", 1),
        ("ant-2x4d", "Ant", 0),
        ("halfcheetah-6x1", "HalfCheetah", 2),
        ("walker2d-2x3", "Walker2d", 1),
        ("hopper-3x1", "Hopper", 1),
        ("swimmer-2x1", "Swimmer", 1),
        ("reacher-2x1", "Reacher", 1),
        ("humanoid-9|8", "Humanoid", 1),
        ("humanoidstandup-9|8", "HumanoidStandup", 0),
        ("pusher-3p", "Pusher", 1),
        ("manysegmentswimmer-3x2", "ManySegmentSwimmer", 1),
        ("manysegmentant-2x2", "ManySegmentAnt", 0),
    ],
)
def test_equals_the_package(task, label, distance):
    """Same seed, same actions: observations, state, reward and endings of ``mamujoco_v1``."""
    contacts = "ant" in label.lower() and "human" not in label.lower()
    ours = MamujocoEnv(task, MamujocoConfig(observation=f"local-{distance}", contact_forces=contacts))
    with quiet():
        options = {"include_cfrc_ext_in_observation": True} if contacts else {}
        theirs = mamujoco_v1.parallel_env(label, task.split("-")[1], distance, **options)
    # joints that share a label come in no fixed order in the package: compare what is seen, not where
    order = np.sort if label in ("Pusher", "ManySegmentAnt") else np.asarray
    mine, _ = ours.reset(seed=3)
    other, _ = theirs.reset(seed=3)
    rng = np.random.default_rng(1)
    for _ in range(12):
        for agent in theirs.possible_agents:
            assert np.allclose(order(mine[agent]), order(other[agent]), atol=1e-12)
        assert np.allclose(ours.state(), theirs.state())
        actions = {a: rng.uniform(ours.action_space(a).low, ours.action_space(a).high) for a in ours.possible_agents}
        mine, reward, gone, cut, _ = ours.step(actions)
        other, their_reward, their_gone, their_cut, _ = theirs.step(actions)
        assert np.isclose(reward["agent_0"], their_reward["agent_0"])
        assert (gone, cut) == (their_gone, their_cut)
        if not ours.agents:
            break
    assert [ours.action_space(a) for a in ours.possible_agents] == [
        theirs.action_space(a) for a in theirs.possible_agents
    ]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ant-2x4", [[2, 3, 4, 5], [6, 7, 0, 1]]),
        ("ant-2x4d", [[2, 3, 0, 1], [4, 5, 6, 7]]),
        ("ant-4x2", [[2, 3], [4, 5], [6, 7], [0, 1]]),
        ("halfcheetah-3x2", [[0, 1], [2, 3], [4, 5]]),
        ("walker2d-2x3", [[2, 1, 0], [5, 4, 3]]),
        ("walker2d-3x2", [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_actions_reach_the_actuators_they_should(task, expected):
    env = make(task)
    env.reset(seed=0)
    action = np.linspace(-0.9, 0.9, env.action_space.shape[0] * env.action_space.shape[1], dtype=np.float32)
    action = action.reshape(env.action_space.shape)
    env.step(action)
    control = env.parallel_env.simulator.data.ctrl
    assert np.allclose(control[np.array(expected)], action)


def test_actions_are_scaled_to_the_actuators():
    env = make("humanoid-9|8")
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 7.0))
    assert np.allclose(env.parallel_env.simulator.data.ctrl, 0.4)


@pytest.mark.parametrize("task", ["halfcheetah-2x3", "ant-4x2", "walker2d-3x2"])
def test_reward_is_progress_and_health_less_effort(task):
    env = make(task)
    env.reset(seed=0)
    simulator = env.parallel_env.simulator
    effort = {"halfcheetah-2x3": 0.1, "ant-4x2": 0.5, "walker2d-3x2": 1e-3}[task]
    body = simulator.data.body(1).xpos if task == "ant-4x2" else simulator.data.qpos
    action = np.full(env.action_space.shape, 0.3, dtype=np.float32)
    healthy, touched = 0.0 if task == "halfcheetah-2x3" else 1.0, 0.0
    for _ in range(30):
        before = float(body[0])
        _, reward, terminated, _, _ = env.step(action)
        progress = (float(body[0]) - before) / simulator.dt
        alive = 0.0 if terminated else healthy
        assert np.isclose(reward, progress + alive - effort * np.square(action).sum(), atol=1e-5)
        touched = max(touched, float(np.abs(simulator.data.cfrc_ext).max()))
        if terminated:
            break
    assert touched > 1  # contact forces cost nothing unless they are asked for


def test_the_time_limit_truncates():
    env = make("halfcheetah-2x3")
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape)
    ends = [env.step(still)[2:4] for _ in range(1000)]
    assert ends[:-1] == [(False, False)] * 999
    assert ends[-1] == (False, True)


def test_a_fall_terminates_and_the_limit_can_be_chosen():
    env = make("walker2d-2x3")
    env.reset(seed=0)
    ends = (False, False)
    while not any(ends):
        ends = env.step(np.ones(env.action_space.shape))[2:4]
    assert ends == (True, False)
    assert make("reacher-2x1").spec.episode_limit == 50
    short = make("ant-4x2", episode_limit=2)
    short.reset(seed=0)
    still = np.zeros(short.action_space.shape)
    assert [short.step(still)[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_standardised_vectors_have_mean_zero_and_spread_one():
    env, raw = make("ant-4x2", standardize=True), make("ant-4x2")
    joint, _ = env.reset(seed=0)
    plain, _ = raw.reset(seed=0)
    for rows in (joint["obs"], joint["state"][None]):
        assert np.allclose(rows.mean(-1), 0, atol=1e-6)
        assert np.allclose(rows.std(-1), 1, atol=1e-5)
    row = plain["obs"][2].astype(np.float64)
    assert np.allclose(joint["obs"][2], (row - row.mean()) / row.std(), atol=1e-5)


def test_contact_forces_are_an_option_of_ants():
    with_contacts, without = make("ant-2x4", contact_forces=True), make("ant-2x4")
    assert (with_contacts.spec.state_dim, without.spec.state_dim) == (105, 27)
    assert with_contacts.state_names()[27] == "cfrc_ext:torso.0"
    assert len(with_contacts.state_names()) == 105
    with pytest.raises(ConfigError, match="contact_forces = True applies to ant and manysegmentant only"):
        make("walker2d-2x3", contact_forces=True)


def test_names_of_the_state():
    names = make("halfcheetah-2x3").state_names()
    assert names[:3] == ["qpos:rootz", "qpos:rooty", "qpos:bthigh"]
    assert names[8:] == [
        *("qvel:rootx", "qvel:rootz", "qvel:rooty", "qvel:bthigh", "qvel:bshin", "qvel:bfoot"),
        *("qvel:fthigh", "qvel:fshin", "qvel:ffoot"),
    ]
    assert make("reacher-2x1").state_names()[0] == "state:0"
    humanoid = make("humanoid-9|8").state_names()
    assert "cinert:torso.0" in humanoid
    assert "qfrc_actuator:abdomen_z" in humanoid


def test_kinds_of_state_features():
    kinds = make("halfcheetah-2x3").state_kinds()
    assert kinds[:3] == ["root position", "root orientation", "joint positions"]
    assert kinds[8:12] == ["root velocity", "root velocity", "root rotation", "joint velocities"]
    ant = Counter(make("ant-4x2", contact_forces=True).state_kinds())
    assert ant == {
        "root position": 1,
        "root orientation": 4,
        "joint positions": 8,
        "root velocity": 3,
        "root rotation": 3,
        "joint velocities": 8,
        "contact forces": 78,
    }
    assert set(make("humanoid-9|8").state_kinds()) >= {"body inertias", "body velocities", "actuator forces"}
    assert set(make("reacher-2x1").state_kinds()) == {"state"}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("halfcheeta-2x3", "no scenario 'halfcheeta': did you mean 'halfcheetah'?"),
        ("halfcheetah-2x4", "halfcheetah has no partition '2x4': did you mean '2x3'?"),
        ("manysegmentant-2", "the partition must be NxM"),
        ("manysegmentant-0x4", "the partition must be NxM"),
        ("manysegmentswimmer-1x1", "with 2 to 100 segments in all"),
        ("manysegmentswimmer-99x99", "with 2 to 100 segments in all"),
    ],
)
def test_unknown_names(task, expected):
    with pytest.raises(ConfigError) as caught:
        make(task)
    assert expected in str(caught.value)


@pytest.mark.parametrize("wrong", ["full", "local", "local--1", "local-x", ""])
def test_unknown_observations(wrong):
    with pytest.raises(ConfigError, match="expected full\\+id, local-0"):
        MamujocoConfig(observation=wrong)


def test_options_that_exclude_each_other():
    with pytest.raises(ConfigError, match="standardize = True works with observation = 'full\\+id' only"):
        MamujocoConfig(observation="local-1", standardize=True)
    with pytest.raises(ConfigError, match="no graph of joints"):
        make("invertedpendulum-1x1", observation="local-1")


@pytest.mark.parametrize("task", ["halfcheetah-3x2", "ant-2x4", "manysegmentswimmer-2x2"])
def test_pettingzoo_accepts_it(task):
    parallel_api_test(MamujocoEnv(task), num_cycles=30)
    parallel_seed_test(lambda: MamujocoEnv(task), num_cycles=10)


def test_it_leaves_no_files_and_prints_nothing(tmp_path, monkeypatch, capfd):
    package = Path(mamujoco_v1.__file__).parent / "assets"
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir(package))
    make("manysegmentant-2x1"), make("halfcheetah-2x3")
    assert set(os.listdir(package)) == before
    assert not os.listdir(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_importing_prints_nothing(tmp_path):
    code = "from dima.envs import make_env; make_env('mamujoco/halfcheetah-2x3', None)"
    here = Path(dima.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert not os.listdir(tmp_path)


def test_other_warnings_of_the_simulator_still_show(capfd):
    import mujoco

    with quiet():
        mujoco.get_mju_user_warning()("the sky falls") if mujoco.get_mju_user_warning() else None
    assert "the sky falls" in capfd.readouterr().err


def test_a_set_state_pays_as_the_environment_does():
    """Ants are paid for the distance between places that lag one simulator step: those of the step before."""
    env, other, rng = make("ant-4x2"), make("ant-4x2"), np.random.default_rng(0)
    env.reset(seed=0)
    previous = None
    alone, paid, expected = [], [], []
    for _ in range(20):
        state, action = env.parallel_env.state(), rng.uniform(-1, 1, env.action_space.shape)
        for before, rewards in ((None, alone), (previous, paid)):
            other.set_state(state, before)
            rewards.append(other.step(action)[1])
        expected.append(env.step(action)[1])
        previous = state, action
    np.testing.assert_allclose(paid, expected, atol=1e-9)
    assert np.abs(np.subtract(alone, expected)).max() > 1e-3


def test_states_that_leave_out_a_distance_cannot_be_set():
    env = make("halfcheetah-2x3")
    env.parallel_env.layout = replace(env.parallel_env.layout, several_roots=True)
    with pytest.raises(EnvError, match=r"^mamujoco/halfcheetah-2x3: its states leave out the distance"):
        env.set_state(env.reset(seed=0)[0]["state"])


def test_a_set_state_starts_an_episode_and_its_time_limit():
    env = make("halfcheetah-2x3", episode_limit=2)
    state, action = env.reset(seed=0)[0]["state"], np.zeros(env.action_space.shape)
    for _ in range(2):
        env.set_state(state)
        assert [env.step(action)[3] for _ in range(2)] == [False, True]
        env.set_state(state)
        snapshot = env.snapshot()
        env.step(action)
        env.restore(snapshot)
        assert [env.step(action)[3] for _ in range(2)] == [False, True]
