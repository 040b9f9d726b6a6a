"""Agents that leave before the others: who acts, what is seen, when the episode ends."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.utils.conversions import parallel_to_aec

from dima.envs import make_env
from dima.envs.base import AdapterConfig, JointEnv
from dima.envs.check import LEAVING, check_environment, foresee_leaving, random_action
from dima.envs.checked import AgentsLeave
from dima.envs.pettingzoo import PettingZooConfig
from dima.envs.toy import ToyConfig
from dima.errors import EnvError

KAZ = "pettingzoo/butterfly.knights_archers_zombies_v11"
LEAVE = AdapterConfig(agents_leave=True)
TEAM = ("left", "right", "top")
GARBAGE = np.array([[0.5], [np.nan], [-1.0]], dtype=np.float32)


def team(puppet, deaths=(9, 9, 9), limit=9, **hooks):
    """Three agents that leave for good after the given steps; only those who are there are told anything."""

    def there(step):
        return [a for a, death in zip(TEAM, deaths, strict=True) if step <= death]

    def of_those_there(step, values):
        return {a: values[a] for a in there(step)}

    kept = dict.fromkeys(("rewards", "truncations", "infos"), of_those_there)
    kept["observations"] = lambda t, o: {a: v for a, v in o.items() if a in there(t + 1) or t >= limit}
    kept["terminations"] = lambda t, e: {a: a not in there(t + 1) for a in there(t)}
    kept["agents"] = lambda t, agents: [a for a in agents if a in there(t + 1)]
    space = {a: spaces.Box(-9, 9, (2,), np.float32) for a in TEAM}
    return puppet(observation=space, limit=limit, **kept | hooks)


def play(env, steps, action=GARBAGE):
    return [env.step(action) for _ in range(steps)]


def test_the_dead_act_nothing_see_zeros_and_the_episode_goes_on(puppet):
    played = team(puppet, deaths=(9, 2, 4))
    env = JointEnv(played, name="p", config=LEAVE)
    assert env.spec.agents_leave and env.spec.state_dim == 3 + 3
    env.reset(seed=0)
    safe = np.zeros((3, 1), np.float32)
    joints = [env.step(safe)[0] for _ in range(2)] + [joint for joint, *_ in play(env, 3)]
    assert [env.spec.alive(joint["state"]).tolist() for joint in joints] == [
        [True, True, True],
        *[[True, False, True]] * 2,
        *[[True, False, False]] * 2,
    ]
    assert [sorted(actions) for actions in played.played] == [
        ["left", "right", "top"],
        ["left", "right", "top"],
        ["left", "top"],
        ["left", "top"],
        ["left"],
    ]
    assert played.played[2]["left"] == 0.5
    assert joints[3]["obs"].tolist() == [[4, 4], [0, 0], [0, 0]]
    assert joints[3]["state"].tolist() == [4, 4, 4, 1, 0, 0]
    assert joints[3]["action_mask"].all()
    assert env.state_names()[3:] == ["alive:left", "alive:right", "alive:top"]
    assert env.state_kinds()[3:] == ["alive"] * 3
    assert env.observation_space.contains(joints[3])


def test_the_team_earns_what_is_reported_over_the_number_of_all(puppet):
    env = JointEnv(team(puppet, deaths=(9, 2, 9)), name="p", config=LEAVE)  # rewards are 0, 1 and 2
    env.reset(seed=0)
    assert [reward for _, reward, *_ in play(env, 4, np.zeros((3, 1)))] == [1, 1, 2 / 3, 2 / 3]
    np.testing.assert_array_equal(env.agent_rewards, [0, np.nan, 2])
    generous = team(puppet, deaths=(9, 2, 9), rewards=lambda t, r: dict.fromkeys(TEAM, 5.0))
    env = JointEnv(generous, name="p", config=LEAVE)
    env.reset(seed=0)
    assert [reward for _, reward, *_ in play(env, 4, np.zeros((3, 1)))] == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("deaths", "limit", "terminated", "flags"),
    [((1, 2, 3), 9, True, [0, 0, 0]), ((1, 9, 2), 3, False, [0, 1, 0]), ((1, 3, 9), 3, False, [0, 0, 1])],
)
def test_the_last_to_leave_ends_the_episode(puppet, deaths, limit, terminated, flags):
    env = JointEnv(team(puppet, deaths, limit), name="p", config=LEAVE)
    env.reset(seed=0)
    *before, (joint, _, gone, cut, _) = play(env, 3, np.zeros((3, 1)))
    assert not any(one[2] or one[3] for one in before)
    assert (gone, cut) == (terminated, not terminated)
    assert joint["state"][-3:].tolist() == flags
    assert (joint["obs"].any(-1) == flags).all()
    with pytest.raises(EnvError, match="without a running episode"):
        env.step(np.zeros((3, 1)))
    assert env.reset(seed=0)[0]["state"][-3:].tolist() == [1, 1, 1]


def test_without_a_state_that_of_the_dead_is_zero(puppet):
    env = JointEnv(team(puppet, deaths=(9, 1, 9), with_state=False), name="p", config=LEAVE)
    env.reset(seed=0)
    (joint, *_), (later, *_) = play(env, 2, np.zeros((3, 1)))
    assert joint["state"].tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 1]
    assert later["state"].tolist() == [2, 2, 0, 0, 2, 2, 1, 0, 1]


@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        (
            {"agents": lambda t, a: list(TEAM) if t == 4 else [b for b in a if b != "right" or t < 2]},
            r"step 4 of the episode with seed 5: agents \['right'\] have left but are among its agents: agents that "
            "come back are not handled; keep them out",
        ),
        ({"agents": lambda t, a: list(TEAM)}, r"step 2 .* agents \['right'\] have left but are among its agents"),
        ({"agents": lambda t, a: ["top"] if t >= 2 else a}, r"step 2 .* its agents are \['top'\], expected"),
        ({"agents": lambda t, a: a[:2] if t == 0 else a}, "reset .* its agents are .*come and go"),
        ({"rewards": lambda t, r: {"left": 0.0}}, "step 1 .* agent 'right' has no usable reward"),
        ({"terminations": lambda t, e: {}}, "step 1 .* agent 'left' has no usable termination"),
        ({"observations": lambda t, o: {"left": o["left"]} if t == 3 else o}, "agent 'top' has no observation"),
    ],
)
def test_what_is_still_refused_is_one_line(puppet, hooks, expected):
    def run():
        env = JointEnv(team(puppet, deaths=(9, 2, 9), **hooks), name="p", config=LEAVE)
        env.reset(seed=5)
        play(env, 5, np.zeros((3, 1)))

    with pytest.raises(EnvError) as caught:
        run()
    assert re.search(expected, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_what_was_not_foreseen_names_the_setting(puppet):
    env = JointEnv(team(puppet, deaths=(9, 2, 9)), name="p")
    env.reset(seed=5)
    with pytest.raises(AgentsLeave, match=r"\['right'\] ended while others go on: allow that with --env.agents-leave"):
        play(env, 3, np.zeros((3, 1)))
    declared = team(puppet, deaths=(9, 2, 9))
    declared.agents_leave = True
    assert JointEnv(declared, name="p").spec.agents_leave


def test_acting_needs_no_observation_of_those_who_have_left(puppet):
    env = JointEnv(team(puppet), name="p", config=LEAVE)
    seen = {a: np.full(2, 3, np.float32) for a in ("left", "top")}
    joint = env.encode(seen)
    assert joint["obs"].tolist() == [[3, 3], [0, 0], [3, 3]]
    assert sorted(env.decode(GARBAGE.copy())) == ["left", "top"]
    assert env.encode_actions({"top": np.ones(1)}, ["top"]).tolist() == [[0], [0], [1]]


@pytest.fixture
def yours(monkeypatch):
    def name(factory):
        module = ModuleType("yours")
        module.make = factory
        monkeypatch.setitem(sys.modules, "yours", module)
        return "yours:make"

    return name


def test_check_says_in_a_line_that_agents_leave(puppet, yours):
    report = check_environment(yours(lambda: team(puppet, deaths=(9, 2, 4))))
    assert report.ok, report.lines
    assert report.lines[0].endswith("state 3")
    assert f"note   {LEAVING}" in report.lines
    stays = check_environment(yours(lambda: team(puppet)))
    assert stays.ok and not any(LEAVING in line for line in stays.lines)
    back = check_environment(
        yours(lambda: team(puppet, (9, 2, 9), agents=lambda t, a: list(TEAM) if t != 2 else ["left", "top"]))
    )
    assert any("agents that come back are not handled" in line for line in back.lines if line.startswith("wrong"))


def test_random_play_foresees_it(puppet, yours):
    config = PettingZooConfig(episode_limit=8)
    assert foresee_leaving(yours(lambda: team(puppet, deaths=(9, 2, 4))), config) == PettingZooConfig(
        episode_limit=8, agents_leave=True
    )
    assert foresee_leaving(yours(lambda: team(puppet)), config) is config
    assert foresee_leaving(yours(lambda: 3), config) is config  # said by whoever builds it next
    assert foresee_leaving("toy/cliff", ToyConfig()) == ToyConfig()


def test_agents_of_an_environment_by_turns_may_leave(puppet, yours):
    task = yours(lambda: parallel_to_aec(team(puppet, deaths=(9, 2, 4))))
    env = make_env(task, foresee_leaving(task, PettingZooConfig()))
    env.reset(seed=0)
    assert play(env, 5, np.zeros((3, 1)))[-1][0]["state"][-3:].tolist() == [1, 0, 0]


@pytest.mark.parametrize("task", ["toy/crossfire", "toy/cliff"])
def test_toys_whose_agents_leave(task):
    env, rng, early, ends = make_env(task, ToyConfig(n_agents=3)), np.random.default_rng(0), 0, set()
    for seed in range(30):
        joint, over, alive = env.reset(seed=seed)[0], False, np.ones(3, bool)
        while not over:
            joint, _, gone, cut, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
            over, now = gone or cut, env.spec.alive(joint["state"])
            assert not (now & ~alive).any()
            assert not joint["obs"][~now].any() and joint["action_mask"][~now].all()
            early, alive = early + (not over and not now.all()), now
        ends.add((gone, bool(alive.any())))
    assert early > 20
    assert (True, False) in ends


def test_knights_archers_zombies():
    """Its agents leave one by one, seen in random play; the same seed repeats an episode."""
    config = foresee_leaving(KAZ, PettingZooConfig())
    assert config == PettingZooConfig(agents_leave=True)
    env, left = make_env(KAZ, config), False
    assert (env.spec.n_agents, env.spec.state_dim) == (4, 26 * 4 + 4)
    for seed in range(8):
        rng, joint, over = np.random.default_rng(seed), env.reset(seed=seed)[0], False
        while not over:
            joint, _, gone, cut, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
            alive, over = env.spec.alive(joint["state"]), gone or cut
            left |= not over and not alive.all()
            assert not joint["obs"][~alive].any()
    assert left
    states = []
    for _ in range(2):
        rng, states = np.random.default_rng(3), [*states, []]
        joint, _ = env.reset(seed=3)
        for _ in range(60):
            joint = env.step(random_action(env.spec, joint["action_mask"], rng))[0]
            states[-1].append(joint["state"])
    np.testing.assert_array_equal(*states)
