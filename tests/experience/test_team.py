"""Acting in the environment's own spaces: one environment, many of them, memories, agents that leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dima.data import View
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.errors import EnvError
from dima.experience.team import Team
from dima.policies.base import Policy


class Linear(Policy):
    """Acts by what it observes, and counts its calls since each episode began, as a memory."""

    recurrent = True

    def __init__(self, env: JointEnv) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(env.spec.obs_dim, env.spec.action_dim))
        self.discrete = env.spec.discrete
        self.count: Tensor | None = None
        self.seen: View | None = None

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        assert view.first is not None
        before = torch.zeros(len(view.obs)) if self.count is None or len(self.count) != len(view.obs) else self.count
        self.count, self.seen = torch.where(view.first, 0.0, before) + 1, view
        score = torch.tanh(view.obs @ self.weight + view.previous_action.sum() * 0)
        if self.discrete:
            score = torch.nn.functional.one_hot(score.masked_fill(~view.action_mask, -9).argmax(-1), score.shape[-1])
        return score.detach().float(), torch.zeros(score.shape[:-1])


def team_for(task: str) -> tuple[Team, Any]:
    torch.manual_seed(0)
    env = make_env(task)
    team = Team(Linear(env), env, "cpu")
    return team, team._policy


def first_observations(task: str, count: int) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    world = make_env(task).parallel_env
    return [world.reset(seed=seed) for seed in range(count)]


def stacked(values: list[Any]) -> Any:
    """One nested dictionary with a leading axis, of one for each environment."""
    if isinstance(values[0], dict):
        return {name: stacked([value[name] for value in values]) for name in values[0]}
    return np.stack(values)


@pytest.mark.parametrize("task", ["toy/walk", "toy/uneven", "toy/switches", "mpe/simple_speaker_listener"])
def test_a_batch_acts_as_its_rows(task: str) -> None:
    team, _ = team_for(task)
    rows = first_observations(task, 4)
    alone = []
    for observations, infos in rows:
        team.reset()
        alone.append(team.act(observations, infos))
    listed = team.act([one for one, _ in rows], [info for _, info in rows])
    together = team.act(stacked([one for one, _ in rows]), stacked([info for _, info in rows]))
    for number, one in enumerate(alone):
        for agent, action in one.items():
            np.testing.assert_allclose(listed[number][agent], action, rtol=1e-6)
            np.testing.assert_allclose(together[agent][number], action, rtol=1e-6)
            assert together[agent].shape == (4, *np.shape(action))
            assert team.env.parallel_env.action_space(agent).contains(listed[number][agent])


def test_masks_hold_in_every_row() -> None:
    team, _ = team_for("toy/switches")
    observations, infos = first_observations("toy/switches", 1)[0]
    rows = []
    for allowed in range(2):
        masked = {}
        for agent, value in observations.items():
            mask = np.zeros_like(value["action_mask"])
            mask[allowed] = 1
            masked[agent] = value | {"action_mask": mask}
        rows.append(masked)
    acted = team.act(stacked(rows), infos and stacked([infos] * 2))
    assert all(actions.tolist() == [0, 1] for actions in acted.values())


def test_episodes_begin_where_they_are_said_to() -> None:
    team, policy = team_for("toy/walk")
    many = [one for one, _ in first_observations("toy/walk", 3)]
    for _ in range(2):
        team.act(many)
    assert policy.seen.first.tolist() == [False] * 3 and policy.seen.previous_action.abs().sum() > 0
    team.reset([True, False, True])
    team.act(many)
    assert policy.count.tolist() == [1, 3, 1]
    assert policy.seen.first.tolist() == [True, False, True]
    assert [bool(row.any()) for row in policy.seen.previous_action] == [False, True, False]
    team.act(many[:2])  # another number of environments begins anew
    assert policy.count.tolist() == [1, 1]
    team.act(many[:2])
    team.reset()
    team.act(many[:2])
    assert policy.count.tolist() == [1, 1]
    with pytest.raises(EnvError, match=r"reset\(\[True\]\) does not fit: the team acts in 2 environments"):
        team.reset([True])


def test_who_has_left_acts_in_no_row() -> None:
    team, policy = team_for("toy/crossfire")
    (observations, infos), _ = first_observations("toy/crossfire", 2)
    agents = list(observations)
    some = {agent: observations[agent] for agent in agents[1:]}
    listed = team.act([observations, some], [infos, infos])
    assert [list(actions) for actions in listed] == [agents, agents[1:]]
    team.act([observations, some], [infos, infos])
    assert not policy.seen.previous_action[1, 0].any() and policy.seen.previous_action[0, 0].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o: {a: v[:2] if a == "agent_1" else v for a, v in o.items()}, "a batch of 3 observations has an entry"),
        (lambda o: {a: v for a, v in o.items() if a != "agent_1"}, "agent 'agent_1' has no observation"),
        (lambda o: {a: v[..., :1] for a, v in o.items()}, "observed an array of shape"),
        (lambda o: {a: np.full_like(v, np.nan) for a, v in o.items()}, "expected a finite number"),
        (lambda o: 3, "observations are of type int: expected a dictionary by agent"),
        (lambda o: [], "observations are of type list"),
    ],
)
def test_batches_that_do_not_fit_are_refused(spoil: Any, message: str) -> None:
    team, _ = team_for("toy/walk")
    batch = stacked([one for one, _ in first_observations("toy/walk", 3)])
    with pytest.raises(EnvError, match=message):
        team.act(spoil(batch))


def test_infos_are_of_as_many_environments() -> None:
    team, _ = team_for("toy/walk")
    rows = [one for one, _ in first_observations("toy/walk", 3)]
    with pytest.raises(EnvError, match="there are infos of 1 environments and observations of 3"):
        team.act(rows, [{}])
