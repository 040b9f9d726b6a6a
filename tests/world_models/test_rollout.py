"""Rollouts and forecasts: rewards, boundaries, bootstrapping, given actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.objectives import lambda_returns
from dima.data import EnvSpec, View
from dima.experience.replay import Rows
from dima.world_models.base import Objective, Step, WorldModel
from dima.world_models.rollout import forecast, imagine

SPEC = EnvSpec(("a", "b"), 1, (1, 1), (1, 1), discrete=False)


@dataclass
class Count:
    """Latent of :class:`Counter`."""

    total: Tensor  # (B,)
    previous: Tensor  # (B, N, A)


class Counter(WorldModel[Count]):
    """The state is the sum of all actions; the reward ten times the state acted in plus the actions."""

    spec, context = SPEC, 1

    def __init__(self, ends_at: float = torch.inf) -> None:
        super().__init__()
        self.ends_at = ends_at
        self.weight = torch.nn.Parameter(torch.ones(()))

    def start(self, rows: Rows) -> Count:
        return Count(rows.state[:, -1, 0] * self.weight, torch.zeros(len(rows.state), 2, 1))

    def observe(self, latent: Count) -> View:
        state = latent.total[:, None]
        mask = torch.ones(len(state), 2, 1, dtype=torch.bool)
        return View(torch.stack([state, -state], dim=1), state, mask, latent.previous)

    def step(self, latent: Count, action: Tensor) -> Step[Count]:
        pushed = action.sum((1, 2))
        total = latent.total + pushed
        return Step(Count(total, action), 10 * latent.total + pushed, (total < self.ends_at).float())

    def update_statistics(self, episodes: Any) -> None: ...
    def objectives(self) -> dict[str, Objective]:
        return {}


def act(view: View) -> tuple[Tensor, Tensor]:
    """Agent a pushes by 1, agent b by 1 if the previous actions were 0, else by 2; log-probability: its observation."""
    second = torch.where(view.previous_action.sum((1, 2)) == 0, 1.0, 2.0)
    action = torch.stack([torch.ones_like(second), second], dim=1)[..., None]
    return action, view.obs[..., 0]


@pytest.fixture
def start() -> Rows:
    yes = torch.ones(3, 1, dtype=torch.bool)
    zeros = torch.zeros(3, 1, 2, 1)
    return Rows(
        state=torch.tensor([0.0, 5.0, 9.0])[:, None, None],
        obs=zeros,
        action_mask=zeros.bool(),
        action=zeros,
        reward=zeros[..., 0, 0],
        terminated=~yes,
        episode=yes.long(),
        valid=yes,
        acted=yes,
    )


def test_a_rollout_pairs_observations_actions_and_rewards(start: Rows) -> None:
    rollout = imagine(Counter(), act, start, 4)
    path = torch.tensor([0.0, 2, 5, 8, 11]) + torch.tensor([[0.0], [5.0], [9.0]])
    pushed = torch.tensor([2.0, 3, 3, 3])
    assert torch.equal(rollout.state[..., 0], path[:, :-1])
    assert torch.equal(rollout.next_state[..., 0], path[:, 1:])
    assert torch.equal(rollout.obs[..., 0, 0], path[:, :-1])
    assert torch.equal(rollout.obs[..., 1, 0], -path[:, :-1])
    assert torch.equal(rollout.action.sum((2, 3)), pushed.expand(3, -1))
    assert torch.equal(rollout.log_prob, rollout.obs[..., 0])
    assert torch.equal(rollout.previous_action[:, 1:], rollout.action[:, :-1])
    assert not rollout.previous_action[:, 0].any()
    assert torch.equal(rollout.reward, 10 * path[:, :-1] + pushed)
    assert rollout.action_mask.all()


def test_it_bootstraps_at_the_horizon_and_nowhere_else(start: Rows) -> None:
    assert imagine(Counter(), act, start, 4).boundary.tolist() == [[False, False, False, True]] * 3


def test_no_gradient_reaches_the_world_model(start: Rows) -> None:
    rollout = imagine(Counter(), act, start, 3)
    assert not any(getattr(rollout, name).requires_grad for name in vars(rollout))


def test_uncertain_steps_earn_less(start: Rows) -> None:
    class Doubtful(Counter):
        members = 2

        def uncertainty(self, latent: Count, action: Tensor) -> Tensor:
            return latent.total + action.sum((1, 2))

    plain, lowered = (imagine(Doubtful(), act, start, 3, uncertainty_penalty=p) for p in (0.0, 0.5))
    assert torch.equal(lowered.reward, plain.reward - 0.5 * lowered.next_state[..., 0])
    assert torch.equal(lowered.next_state, plain.next_state)
    assert torch.equal(lowered.continuation, plain.continuation)


def test_a_predicted_termination_cuts_the_return(start: Rows) -> None:
    rollout = imagine(Counter(ends_at=8.0), act, start, 4)
    assert rollout.continuation.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    for changed in (rollout.reward + 1000 * (torch.arange(4) > 2), rollout.reward):
        returns = lambda_returns(changed, rollout.continuation, rollout.boundary, torch.full((3, 4), 7.0), 0.5, 1.0)
        r = rollout.reward[0]
        torch.testing.assert_close(returns[0, 0], r[0] + 0.5 * r[1] + 0.25 * r[2])
        torch.testing.assert_close(returns[2, 0], rollout.reward[2, 0])


def test_the_last_step_bootstraps_from_the_state_it_led_to(start: Rows) -> None:
    rollout = imagine(Counter(), act, start, 2)
    value = 100 * rollout.next_state[..., 0]
    returns = lambda_returns(rollout.reward, rollout.continuation, rollout.boundary, value, 0.5, 1.0)
    torch.testing.assert_close(returns[:, 1], rollout.reward[:, 1] + 50 * rollout.next_state[:, 1, 0])


# -- given actions ----------------------------------------------------------------------------------------------------


def test_a_forecast_applies_the_given_actions(start: Rows) -> None:
    start.obs[:, -1, 0] = 77.0  # the real observation, not the decoded one
    action = torch.tensor([1.0, 2.0, -4.0]).expand(3, 2, 3).transpose(1, 2)[..., None]
    found = forecast(Counter(ends_at=6.0), start, action)
    path = torch.tensor([0.0, 2, 6, -2]) + torch.tensor([[0.0], [5.0], [9.0]])
    assert torch.equal(found.state[..., 0], path)
    assert torch.equal(found.obs[:, 0], start.obs[:, -1])
    assert torch.equal(found.obs[:, 1:, :, 0], torch.stack([path[:, 1:], -path[:, 1:]], dim=-1))
    assert torch.equal(found.reward, 10 * path[:, :-1] + torch.tensor([2.0, 4, -8]))
    assert found.continuation.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert not found.state.requires_grad
    assert found[1:].state.shape == (2, 4, 1)


def test_a_forecast_with_a_rollouts_actions_repeats_it(start: Rows) -> None:
    rollout = imagine(Counter(), act, start, 5)
    found = forecast(Counter(), start, rollout.action)
    assert torch.equal(found.state[:, 1:], rollout.next_state)
    assert torch.equal(found.obs[:, 1:-1], rollout.obs[:, 1:])
    assert torch.equal(found.reward, rollout.reward)
