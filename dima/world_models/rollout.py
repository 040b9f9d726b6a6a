"""Roll a policy, or given actions, through any world model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dima.data import Act, Record, Rollout, View, choose
from dima.experience.replay import Rows
from dima.world_models.base import BatchedRewards, Step, Uncertain, WorldModel, cheapest_step, observe


@dataclass
class Forecast(Record):
    """A sampled future under given actions; row 0 of ``state`` and ``obs`` is the real start."""

    state: Tensor | None  # (B, H + 1, S) environment units; None where the model predicts observations alone
    obs: Tensor  # (B, H + 1, N, O)
    reward: Tensor  # (B, H)
    continuation: Tensor  # (B, H) probability that the step does not terminate the episode


@torch.no_grad()
def imagine(
    world_model: WorldModel[Any],
    act: Act,
    start: Rows,
    horizon: int,
    every: bool = False,
    uncertainty_penalty: float = 0.0,
) -> Rollout:
    """Roll out a policy for ``horizon`` imagined steps from each start.

    Args:
        world_model: in evaluation mode.
        act: chooses actions from the model's ``policy_view``.
        start: (B, C, ...) real rows, the newest last, as many as the model's ``context``.
        horizon: number of steps H.
        every: roll out from all of the model's ``starts`` in these rows; else from the newest of each window.
        uncertainty_penalty: rewards are lowered by so much per unit of the model's uncertainty, if it is not 0.

    Returns:
        A rollout of shape (B, H, ...) as the policy saw it, bootstrapped at H and nowhere else. It terminates when
        nobody is there any more.
    """
    spec = world_model.policy_spec
    batched = world_model if isinstance(world_model, BatchedRewards) and world_model.batched_rewards else None
    step = cheapest_step(world_model)
    latent = world_model.starts(start) if every else world_model.start(start)
    views, actions, predictions, uncertainty = [_policy_view(world_model, latent)], [], [], []
    for _ in range(horizon):
        action, log_prob = choose(act, views[-1], spec)
        if uncertainty_penalty:
            assert isinstance(world_model, Uncertain)
            uncertainty.append(world_model.uncertainty(latent, action))
        if batched is not None:
            latent = batched.advance(latent, action)
        else:
            latent, *prediction = step(latent, action)
            predictions.append(prediction)
        actions.append((action, log_prob))
        views.append(_policy_view(world_model, latent, views[-1]))
    action, log_prob = (torch.stack(column, dim=1) for column in zip(*actions, strict=True))
    states = torch.stack([view.state for view in views], dim=1)
    if batched is not None:
        reward, continuation = batched.predict_rewards(states, action)
    else:
        reward, continuation = (torch.stack(column, dim=1) for column in zip(*predictions, strict=True))
    if uncertainty_penalty:
        reward = reward - uncertainty_penalty * torch.stack(uncertainty, dim=1)
    if (alive := spec.alive(states[:, 1:])) is not None:
        continuation = continuation * alive.any(-1)
    views.pop()
    boundary = torch.zeros_like(reward, dtype=torch.bool)
    boundary[:, -1] = True
    return Rollout(
        obs=torch.stack([v.obs for v in views], dim=1),
        state=states[:, :-1],
        action_mask=torch.stack([v.action_mask for v in views], dim=1),
        previous_action=torch.stack([v.previous_action for v in views], dim=1),
        action=action,
        log_prob=log_prob,
        reward=reward,
        continuation=continuation,
        boundary=boundary,
        next_state=states[:, 1:],
    )


def _policy_view(world_model: WorldModel[Any], latent: Any, before: View | None = None) -> View:
    """What a policy sees, in which agents stay away who had left in the view before."""
    spec = world_model.policy_spec
    if not spec.agents_leave:
        return world_model.policy_view(latent)
    return observe(world_model, latent, None if before is None else spec.alive(before.state))


@torch.no_grad()
def forecast(
    world_model: WorldModel[Any], start: Rows, action: Tensor, step: Callable[[Any, Tensor], Step[Any]] | None = None
) -> Forecast:
    """Sample one future for each row of actions.

    Args:
        world_model: in evaluation mode.
        start: (B, C, ...) real rows, the newest last, as many as the model's ``context``.
        action: (B, H, N, A) the team's actions from there on.
        step: replaces ``world_model.step``.
    """
    given = iter(action.unbind(1))
    return _forecast(world_model, start, lambda latent, view: next(given), action.shape[1], step)[0]


@torch.no_grad()
def forecast_policy(world_model: WorldModel[Any], start: Rows, act: Act, horizon: int) -> tuple[Forecast, Tensor]:
    """Sample one future of a policy that acts on what the model imagines; and its actions (B, H, N, A).

    Arguments as for :func:`forecast` and :func:`imagine`.
    """
    spec = world_model.policy_spec

    def chosen(latent: Any, view: View) -> Tensor:
        return choose(act, view if spec.agents_leave else world_model.policy_view(latent), spec)[0]

    return _forecast(world_model, start, chosen, horizon)


def _forecast(
    world_model: WorldModel[Any],
    start: Rows,
    action_at: Callable[[Any, View], Tensor],
    horizon: int,
    step: Callable[[Any, Tensor], Step[Any]] | None = None,
) -> tuple[Forecast, Tensor]:
    """Step with the actions chosen at each latent and its view."""
    step, spec = step or cheapest_step(world_model), world_model.spec
    latent = world_model.start(start)
    view = observe(world_model, latent)
    state, obs = [start.state[:, -1]], [start.obs[:, -1]]
    actions, predictions = [], []
    for _ in range(horizon):
        actions.append(action_at(latent, view))
        latent, reward, continuation = step(latent, actions[-1])
        view = observe(world_model, latent, spec.alive(state[-1]))
        state.append(view.state)
        obs.append(view.obs)
        predictions.append((reward, continuation))
    reward, continuation = (torch.stack(column, dim=1) for column in zip(*predictions, strict=True))
    states = torch.stack(state, dim=1) if world_model.predicts_state else None
    found = Forecast(states, torch.stack(obs, dim=1), reward, continuation)
    return found, torch.stack(actions, dim=1)
