"""Roll a policy through a world model: the same loop for every policy and every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dima.data import Rollout, View
from dima.replay import Rows
from dima.world_models.base import WorldModel

Act = Callable[[View], tuple[Tensor, Tensor]]  # what a team sees -> (B, N, A) action, (B, N) log-probability


@torch.no_grad()
def imagine(world_model: WorldModel[Any], act: Act, start: Rows, horizon: int) -> Rollout:
    """``horizon`` imagined steps from each start.

    Args:
        world_model: in evaluation mode.
        act: chooses actions from decoded observations.
        start: (B, C, ...) real rows, the newest last, as many as the model's ``context``.
        horizon: number of steps H.

    Returns:
        A rollout of shape (B, H, ...), bootstrapped at H and nowhere else.
    """
    latent = world_model.start(start)
    view = world_model.observe(latent)
    views, steps = [], []
    for _ in range(horizon):
        action, log_prob = act(view)
        latent, reward, proceed = world_model.step(latent, action)
        views.append(view)
        steps.append((action, log_prob, reward, proceed))
        view = world_model.observe(latent)
    action, log_prob, reward, proceed = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    boundary = torch.zeros_like(reward, dtype=torch.bool)
    boundary[:, -1] = True
    states = torch.stack([*(v.state for v in views), view.state], dim=1)
    return Rollout(
        obs=torch.stack([v.obs for v in views], dim=1),
        state=states[:, :-1],
        action_mask=torch.stack([v.action_mask for v in views], dim=1),
        previous_action=torch.stack([v.previous_action for v in views], dim=1),
        action=action,
        log_prob=log_prob,
        reward=reward,
        proceed=proceed,
        boundary=boundary,
        next_state=states[:, 1:],
    )
