"""Change of a forecast with the order of the agents, of any world model.

Models that reveal agents one after another are given other orders; the others see the same team with its members in
other places. Every order has its own mean over draws: what differs between these means beyond ``noise`` is the order's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dima.analysis.diagnose.reveal import choose_orders
from dima.experience.replay import Rows
from dima.world_models.base import SequentialReveal, WorldModel
from dima.world_models.ensemble import EnsembleWorldModel
from dima.world_models.rollout import forecast

ORDERS, DRAWS = 6, 16


def order_change(model: WorldModel[Any], start: Rows, action: Tensor, state_std: Tensor) -> dict[str, Any] | None:
    """Standard deviation over orders, and what draws alone would make of it, at each of H steps.

    Both are root mean squares over segments and features, in standard deviations of the data.

    Args:
        model: fitted; of an ensemble's network every input has a place of its own: there is nothing to reorder.
        start: (B, C, ...) real rows.
        action: (B, H, N, A) real actions.
        state_std: (S,) unit of the differences.
    """
    if isinstance(model, EnsembleWorldModel) or model.spec.n_agents == 1:
        return None
    means, variances = [], []
    for order in choose_orders(model.spec.n_agents, ORDERS, seed=0):
        torch.manual_seed(0)  # the same noise for every order
        draws = torch.stack([_states(model, start, action, order) for _ in range(DRAWS)]) / state_std
        means.append(draws.mean(0))
        variances.append(draws.var(0))
    change = torch.stack(means).var(0).mean((0, 2)).sqrt()
    noise = (torch.stack(variances).mean(0) / DRAWS).mean((0, 2)).sqrt()
    return {"order": change.tolist(), "noise": noise.tolist()}


def _states(model: WorldModel[Any], start: Rows, action: Tensor, order: Sequence[int]) -> Tensor:
    """Predicted states (B, H, S)."""
    if isinstance(model, SequentialReveal):
        return forecast(model, start, action, partial(model.step_in_order, order=order)).state[:, 1:]
    places = torch.tensor(order, device=action.device)
    moved = {name: getattr(start, name)[:, :, places] for name in ("obs", "action", "action_mask")}
    return forecast(model, replace(start, **moved), action[:, :, places]).state[:, 1:]
