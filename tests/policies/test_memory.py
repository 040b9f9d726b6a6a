"""Policies with a memory: of each episode alone, in every environment, whoever plays besides."""

from __future__ import annotations

from copy import copy
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dima.analysis.imagine.time_steps import play_steps, policy_actions
from dima.data import View
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector
from dima.experience.episodes import play
from dima.policies.base import PerceivingPolicy, Perception, Policy

pytestmark = pytest.mark.usefixtures("one_thread")
MAKE = partial(make_env, "toy/switches", ToyConfig(n_agents=2, episode_limit=9))


class Age(Perception):
    """Shows how many views of an episode it has seen before, in place of the observations."""

    def forward(self, view: View, memory: Any, mode: bool) -> tuple[View, Any]:
        assert view.first is not None
        age = torch.zeros(len(view.first)) if memory is None else torch.where(view.first, 0, memory + 1)
        return View(age[:, None, None].expand(-1, 2, 1), view.state, view.action_mask, view.previous_action), age


class SwitchAt(Policy):
    """Flips every switch that may be flipped, from a step of the episode on; says the step as its probability."""

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        age = view.obs[..., 0]
        choice = torch.where(view.action_mask[..., 1] & (age >= 3), 1, 0)
        return torch.nn.functional.one_hot(choice, 3).float(), age


def team() -> PerceivingPolicy:
    return PerceivingPolicy(Age(), SwitchAt())


def first_switch(action: Tensor) -> int:
    return int(action[..., 1].any(-1).float().argmax())


def test_each_episode_is_remembered_alone() -> None:
    with VectorEnv(MAKE, 2) as envs:
        episodes = play(envs, team().act, range(7))
    assert len({len(episode) for episode in episodes}) > 1  # environments begin their episodes at different times
    assert [first_switch(episode.action) for episode in episodes] == [3] * 7


def test_rollouts_say_where_episodes_begin() -> None:
    with VectorEnv(MAKE, 3) as envs:
        collector, policy = Collector(envs, seed=1), team()
        parts = [collector.roll(policy.act, 10)[0] for _ in range(3)]
    age = torch.cat([part.log_prob[..., 0] for part in parts], dim=1)
    boundary = torch.cat([part.boundary for part in parts], dim=1)
    assert boundary.sum() > 3
    for ages, ends in zip(age.tolist(), boundary.tolist(), strict=True):
        expected = 0
        for shown, ended in zip(ages, ends, strict=True):
            assert shown == expected
            expected = 0 if ended else expected + 1


def test_an_episode_played_step_by_step_begins_once() -> None:
    env, policy = MAKE(), team()
    for _ in range(2):
        steps = list(islice(play_steps(env, 0, policy_actions(policy.act, "cpu")), 9))
        assert first_switch(torch.from_numpy(np.stack([one.action for one in steps[1:]]))) == 3


def test_a_shallow_copy_shares_weights_and_remembers_for_itself() -> None:
    policy = team()
    policy.weight = torch.nn.Parameter(torch.ones(1))  # type: ignore[assignment]
    other = copy(policy)

    def age(one: PerceivingPolicy, first: bool) -> float:
        mask = torch.ones(1, 2, 3, dtype=torch.bool)
        nothing = torch.zeros(1, 2, 3)
        return float(one.act(View(nothing, nothing[:, 0], mask, nothing, torch.tensor([first])))[1][0, 0])

    assert [age(policy, True), age(policy, False)] == [0, 1]
    assert [age(other, True), age(policy, False), age(other, False)] == [0, 2, 1]
    assert other.weight is policy.weight
