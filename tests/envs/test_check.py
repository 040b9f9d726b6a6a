"""The report on an environment names its faults."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from gymnasium import spaces

from dima.envs.base import JointEnv
from dima.envs.check import check_environment, compare_rewards, random_action
from dima.envs.pettingzoo import PettingZooConfig
from dima.errors import ConfigError


@pytest.fixture
def report(monkeypatch):
    """The report on what a factory gives."""

    def check(factory, **options):
        module = ModuleType("yours")
        module.make = factory
        monkeypatch.setitem(sys.modules, "yours", module)
        return check_environment("yours:make", **options)

    return check


@pytest.mark.parametrize("task", ["toy/walk", "toy/switches", "toy/uneven", "mpe/simple_speaker_listener"])
def test_good_environments_pass(task):
    report = check_environment(task)
    assert report.ok, report.lines
    assert report.lines[-1] == f"{task} is fit for training"
    assert "PettingZoo's API test passes" in "\n".join(report.lines)


def wrong(report):
    assert not report.ok
    assert report.lines[-1] == "yours:make is not fit for training yet"
    return "\n".join(line for line in report.lines if line.startswith("wrong"))


def test_what_cannot_be_built(report, puppet):
    class Closed(puppet):
        def close(self):
            raise RuntimeError("closed already")

    assert "close() raised RuntimeError: closed already" in wrong(report(Closed))
    action = {a: spaces.MultiDiscrete([2, 2]) for a in ("left", "right")}
    assert "agent 'left' acts in MultiDiscrete" in wrong(report(lambda: puppet(action=action)))
    assert "expected a PettingZoo ParallelEnv" in wrong(report(lambda: 3))


def test_a_fault_in_the_middle(report, puppet):
    broken = report(lambda: puppet(rewards=lambda t, r: r | {"left": np.inf} if t == 2 else r))
    assert "step 2 of the episode with seed 1: rewards must be finite numbers" in wrong(broken)


def test_unseeded_randomness(report, puppet):
    def noisy(step, seen):
        return {a: np.random.normal(size=2).astype(np.float32) for a in seen}

    text = wrong(report(lambda: puppet(observations=noisy)))
    assert "two episodes with the same seed and actions differ at reset: let reset(seed) decide everything" in text
    assert "PettingZoo's seed test fails: AssertionError: Incorrect observations" in text


def test_state_that_survives_a_reset(report, puppet):
    def make():
        born = []

        def drift(step, state):
            born.append(step)
            return np.full(3, len(born) if step else 0, dtype=np.float32)

        return puppet(state=drift)

    assert "two episodes with the same seed and actions differ at step 1" in wrong(report(make))


@pytest.mark.parametrize("what", ["goal", "generator"])
def test_copies_that_share_what_they_are_made_of(report, puppet, what):
    """With masks, where PettingZoo's seed test does not run: a static goal, a global random generator."""

    class Shared(puppet):
        goal = 0.0

        def reset(self, seed=None, options=None):
            if what == "generator":
                np.random.seed(seed)
            Shared.goal = float(seed or 0)
            return super().reset(seed, options)

        def state(self):
            drawn = np.random.uniform() if what == "generator" else Shared.goal
            return np.array([self.steps, drawn], np.float32)

    def make():
        masks = {a: {"action_mask": np.ones(2, np.int8)} for a in ("left", "right")}
        return Shared(action={a: spaces.Discrete(2) for a in masks}, infos=lambda t, i: masks)

    assert "a copy disturbs another at step 1: give each a simulator and random generator of its own" in wrong(
        report(make)
    )


def test_a_time_limit_as_a_termination(report, puppet):
    def make():
        env = puppet(
            terminations=lambda t, e: dict.fromkeys(e, t >= 3), truncations=lambda t, e: dict.fromkeys(e, False)
        )
        env.episode_limit = 3
        return env

    assert "every episode terminates after 3 steps: if that is a time limit, set truncations" in wrong(report(make))


@pytest.mark.parametrize("stated", [None, 55])
def test_episodes_without_an_end(report, puppet, monkeypatch, stated):
    monkeypatch.setattr("dima.envs.checked.ENDLESS", 80)

    def make(limit=10**9):
        env = puppet(limit=limit)
        env.episode_limit = stated
        return env

    found = report(make, max_steps=60)
    assert "step 80 of the episode with seed 2: the episode has no end: truncate it" in wrong(found)
    assert (found.endless, found.can_be_cut, found.lengths) == (True, True, ())
    cut = report(make, max_steps=60, config=PettingZooConfig(episode_limit=9))
    assert cut.ok and not cut.endless
    assert cut.lengths == (9, 9, 9)
    late = report(lambda: make(70), max_steps=60)
    assert late.ok and not late.endless
    assert late.lengths == (70,)


def test_episodes_without_an_end_in_an_environment_with_another_fault(report, puppet, monkeypatch):
    monkeypatch.setattr("dima.envs.checked.ENDLESS", 80)

    def noisy(step, seen):
        return {a: np.random.normal(size=2).astype(np.float32) for a in seen}

    assert not report(lambda: puppet(limit=10**9, observations=noisy), max_steps=60).endless


def test_masks_that_come_after_the_reset_are_no_fault_of_a_step(report, puppet):
    """PettingZoo's tests would play what they forbid."""

    class Strict(puppet):
        def step(self, actions):
            assert self.steps == 0 or 0 not in actions.values()
            return super().step(actions)

    def make():
        late = {a: {"action_mask": np.array([0, 1], np.int8)} for a in ("left", "right")}
        action = {a: spaces.Discrete(2) for a in ("left", "right")}
        return Strict(action=action, infos=lambda t, i: late if t else i)

    assert wrong(report(make)).count("wrong") == 1
    assert "agent 'left' has an action mask, but had none at reset" in wrong(report(make))


def with_rewards(puppet, kind):
    """An environment whose two agents' rewards are slow walks."""
    rng, walk = np.random.default_rng(0), np.zeros(2)
    unit = 1e-200 if kind == "tiny" else 1.0

    def rewards(step, value):
        nonlocal walk
        walk = walk + rng.normal(size=2)
        pairs = {"alike": (1, 0, 1, 0), "apart": (1, 0, 0, 1), "one": (1, 0, 0, 0), "rounded": (1, 0, 1 + 1e-9, 0)}
        pair = np.array(pairs.get(kind, (1, 0, -1, 0)), float).reshape(2, 2)
        return dict(zip(value, unit * (pair @ walk + 5), strict=True))

    return puppet(rewards=rewards)


@pytest.mark.parametrize(
    ("kind", "verdict", "said"),
    [
        ("alike", None, ""),
        ("rounded", None, ""),
        ("apart", "note", "rewards differ between agents: what is learnt is their mean"),
        ("one", "note", "rewards differ between agents"),
        ("opposed", "wrong", "rewards of 'left' and 'right' oppose each other (correlation -1.00 in random play)"),
        ("tiny", "wrong", "rewards of 'left' and 'right' oppose each other (correlation -1.00 in random play)"),
    ],
)
def test_rewards_of_agents_are_compared(puppet, kind, verdict, said):
    def compare(config):
        return compare_rewards(JointEnv(with_rewards(puppet, kind), name="p"), config)

    found = compare(PettingZooConfig())
    assert [finding.verdict for finding in found] == ([verdict] if verdict else [])
    assert all(said in finding.text and "--env.team-reward mean" in finding.text for finding in found)
    assert compare(PettingZooConfig(team_reward="mean")) == []
    assert all(f.verdict == "note" and "--env" not in f.text for f in compare(None))  # there is no such setting


def test_rewards_that_always_cancel(puppet):
    env = JointEnv(puppet(rewards=lambda t, r: {"left": 1.0, "right": -1.0}), name="p")
    (found,) = compare_rewards(env, PettingZooConfig())
    assert found.verdict == "wrong"
    assert "rewards cancel each other in random play: their mean is always 0" in found.text


def test_games_that_are_decided_at_their_end(puppet):
    def decided(step, value):
        return {"left": float(step == 450), "right": -float(step == 450)}

    (found,) = compare_rewards(JointEnv(puppet(limit=450, rewards=decided), name="p"), PettingZooConfig())
    assert found.verdict == "wrong"


@pytest.mark.parametrize(
    ("sizes", "said"), [((8, 9), "keep its size"), ((8, 8), None), ((), "render() raised RuntimeError: no display")]
)
def test_pictures_that_cannot_be_filmed(report, puppet, sizes, said):
    class Drawn(puppet):
        def __init__(self, render_mode=None):
            super().__init__()
            self.metadata, self.render_mode = {"render_modes": ["rgb_array"]}, render_mode

        def render(self):
            if not sizes:
                raise RuntimeError("no display")
            return np.zeros((sizes[self.steps > 1], 8, 3), np.uint8)

    found = report(Drawn)
    assert found.ok  # training does not need them
    notes = [line for line in found.lines if "no film can be made" in line]
    assert len(notes) == (said is not None)
    assert all(said in note for note in notes)


def test_opposed_rewards_are_wrong(report, puppet):
    opposed = report(lambda: puppet(rewards=lambda t, r: {"left": float(t), "right": float(-t)}))
    assert "wrong  rewards of 'left' and 'right' oppose each other" in wrong(opposed)


def test_wider_observations_are_converted_with_a_note(report, puppet):
    def wide(step, seen):
        return {a: value.astype(np.float64) for a, value in seen.items()}

    found = report(lambda: puppet(observations=wide))
    assert found.ok
    assert "note   agent 'left' observes float64 where its space says float32: it is converted" in found.lines
    assert not any("float64" in line for line in report(puppet).lines)
    double = {a: spaces.Box(-9, 9, (2,), np.float64) for a in ("left", "right")}
    declared = report(lambda: puppet(observation=double))
    assert declared.ok
    assert "note   observations are of float64: they are converted to float32" in declared.lines
    whole = {a: spaces.Box(0, 9, (2,), np.int32) for a in ("left", "right")}
    odd = report(lambda: puppet(observation=whole, observations=wide))
    assert "observed an array of dtype float64: its space says int32; convert the array" in wrong(odd)


def test_advice(report, puppet):
    assert any("seeds 1 and 2 start alike" in line for line in report(puppet).lines)
    high = report(lambda: puppet(limit=12))  # its Box ends at 9
    assert high.ok
    assert any("observations leave the bounds of their space" in line for line in high.lines)


def test_pettingzoos_own_test_is_run(report, puppet):
    class Forgetful(puppet):
        def observation_space(self, agent):
            return spaces.Box(-9, 9, (2,), np.float32)  # a new object at each call

    text = wrong(report(Forgetful))
    assert "PettingZoo's API test fails: AssertionError: observation_space should return the exact same" in text


def test_names_that_do_not_exist():
    with pytest.raises(ConfigError):
        check_environment("toy/wlk")


def test_random_actions_are_allowed_and_even():
    class Spec:
        discrete = True

    rng, mask = np.random.default_rng(0), np.array([[True, False, True], [False, True, False]])
    drawn = np.stack([random_action(Spec, mask, rng) for _ in range(4000)])
    assert (drawn.sum(-1) == 1).all()
    assert not drawn[:, ~mask].any()
    assert abs(drawn[:, 0, 0].mean() - 0.5) < 0.05
    Spec.discrete = False
    drawn = np.stack([random_action(Spec, mask, rng) for _ in range(4000)])
    assert not drawn[:, ~mask].any()
    assert abs(drawn[:, mask].mean()) < 0.05
    assert np.abs(drawn).max() <= 1
