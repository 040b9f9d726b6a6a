"""An episode is played step by step, by a policy or by given actions."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest

from dima.analysis.imagine.time_steps import given_actions, play_steps, policy_actions
from dima.data import EnvSpec
from dima.envs import make_env


def test_a_policy_plays_to_the_end(stride, policy) -> None:
    env = stride(limit=6)
    played = list(play_steps(env, 3, policy_actions(policy, "cpu")))
    assert len(played) == 7
    assert not played[0].action.any() and played[0].reward == 0
    for before, after in pairwise(played):
        x = before.joint["state"]
        assert after.action[:, 0].tolist() == pytest.approx(np.clip([x[0], -x[1]], -1, 1))
        assert after.joint["state"] == pytest.approx(x + 0.5 * after.action[:, 0])
        assert after.reward == pytest.approx(float(after.joint["state"].mean()))
    assert [m.truncated for m in played] == [False] * 6 + [True]
    assert not any(m.terminated for m in played)


def test_a_true_end_is_told(stride, policy) -> None:
    played = list(play_steps(stride(goal=2.0), 3, policy_actions(policy, "cpu")))
    assert played[-1].terminated and not played[-1].truncated
    assert np.abs(played[-1].joint["state"]).max() > 2


def test_given_actions_repeat_an_episode_and_then_stop(stride, policy) -> None:
    env = stride()
    played = list(islice(play_steps(env, 5, policy_actions(policy, "cpu")), 9))
    again = list(play_steps(env, 5, given_actions([m.action for m in played[1:]], env.spec)))
    assert len(again) == 9
    for one, other in zip(played, again, strict=True):
        assert np.array_equal(one.joint["state"], other.joint["state"])
        assert one.reward == other.reward


def test_given_actions_stop_where_the_environment_forbids_one() -> None:
    env = make_env("toy/switches")
    on, off = np.eye(3, dtype=np.float32)[[1, 1]], np.eye(3, dtype=np.float32)[[0, 2]]
    assert env.spec.masks_actions
    first = next(play_steps(env, 0, given_actions([], env.spec)))
    assert not first.joint["action_mask"][1, 2]  # the last switch is off at first: it cannot be switched off
    assert len(list(play_steps(env, 0, given_actions([off], env.spec)))) == 1
    wait = np.eye(3, dtype=np.float32)[[0, 0]]
    assert len(list(play_steps(env, 0, given_actions([wait, wait, off, on], env.spec)))) == 3


def test_a_policy_s_choice_is_made_of_what_is_seen() -> None:
    env, seen = make_env("toy/switches"), []
    spec: EnvSpec = env.spec

    def act(view):
        seen.append(view)
        return view.action_mask.float().cumsum(-1).eq(1).float() * view.action_mask, None

    played = list(islice(play_steps(env, 0, policy_actions(act, "cpu")), 3))
    assert len(seen) == 2
    assert seen[0].obs.shape == (1, spec.n_agents, spec.obs_dim)
    assert np.array_equal(seen[1].previous_action[0].numpy(), played[1].action)
    assert not seen[0].previous_action.any()
