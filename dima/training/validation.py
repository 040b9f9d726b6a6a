"""Held-out error of a world model: open-loop forecasts of held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.data import EnvSpec, Episode
from dima.errors import ConfigError
from dima.experience.replay import Replay
from dima.nn.normalizer import Normalizer
from dima.runtime.rng import drawn_from
from dima.world_models.base import WorldModel
from dima.world_models.rollout import forecast

_SEED = 0  # of segments and noise: the same for every model, for a fair comparison


class HeldOut:
    """Segments of held-out episodes, forecast from their first state and recorded actions.

    Args:
        episodes: held out from fitting.
        scale: (S,) standard deviation of each state feature, the unit of state errors.
        spec: of the environment.
        context: real rows that a rollout starts from.
        horizon: steps per segment, H; shorter episodes are left out.
        segments: number of segments; fewer if the episodes have no more.
        device: of the world models.

    Raises:
        ConfigError: no episode is as long as a segment.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        scale: Tensor,
        spec: EnvSpec,
        context: int,
        horizon: int,
        segments: int,
        device: torch.device | str,
    ) -> None:
        longest = max(map(len, episodes), default=0)
        if longest < horizon:
            raise ConfigError(
                f"evaluation_horizon = {horizon} is longer than any held-out episode: choose {longest} or less"
                if episodes
                else "no episode is held out, so nothing can be forecast"
            )
        replay, first_rows = Replay.of(episodes, spec, device), []
        row = 0
        for episode in episodes:
            first_rows.append(row + np.arange(max(0, len(episode) - horizon + 1)))
            row += len(episode) + 1
        every = np.concatenate(first_rows)
        chosen = np.random.default_rng(_SEED).choice(every, min(segments, len(every)), replace=False)
        rows = replay.gather(torch.from_numpy(np.sort(chosen)).to(device), context - 1, horizon)
        self.start, self.rows = rows[:, :context], rows[:, context - 1 :]  # (M, C, ...), (M, H + 1, ...)
        self.horizon, self.device, self.scale = horizon, device, scale.to(device)
        self._valid = torch.from_numpy(spec.obs_valid).to(device)

    def errors(self, world_model: WorldModel[Any]) -> dict[str, float]:
        """Mean errors of a world model in evaluation mode; deterministic.

        Returns:
            ``state_1`` and ``state_H``: mean absolute error after the first and the last step, in standard deviations;
            ``persistence_1`` and ``persistence_H``: those of repeating the first state; ``obs_1`` and ``obs_H``: in the
            observations' own units, averaged over agents; ``obs_sum_H``: summed over the steps; ``reward``: mean
            absolute error of a step; ``continuation``: Brier score of the predicted probability. Where the model
            predicts no state, the first four are left out, and ``obs_persistence_1`` and ``obs_persistence_H`` there.
        """
        rows, acted, last = self.rows, slice(0, -1), self.horizon
        with drawn_from(self.device, _SEED):
            forecasts = forecast(world_model, self.start, rows.action[:, acted])
        obs, still = self._obs_error(forecasts.obs), self._obs_error(rows.obs[:, :1])
        parts = {"obs_persistence_1": still[:, 0], f"obs_persistence_{last}": still[:, -1]}
        if forecasts.state is not None:
            state, still = self._state_error(forecasts.state), self._state_error(rows.state[:, :1])
            parts = {"state_1": state[:, 0], f"state_{last}": state[:, -1]}
            parts |= {"persistence_1": still[:, 0], f"persistence_{last}": still[:, -1]}
        continued = (~rows.terminated[:, acted]).to(forecasts.continuation.dtype)
        parts |= {
            "obs_1": obs[:, 0],
            f"obs_{last}": obs[:, -1],
            f"obs_sum_{last}": obs.sum(1),
            "reward": (forecasts.reward - rows.reward[:, acted]).abs(),
            "continuation": (forecasts.continuation - continued).square(),
        }
        means = torch.stack([part.double().mean() for part in parts.values()])
        return dict(zip(parts, means.tolist(), strict=True))

    def _state_error(self, state: Tensor) -> Tensor:
        """(M, H) mean absolute error in standard deviations."""
        return ((state - self.rows.state) / self.scale).abs().mean(-1)[:, 1:]

    def _obs_error(self, obs: Tensor) -> Tensor:
        """(M, H) mean absolute error over an agent's features, then over agents."""
        error = ((obs - self.rows.obs).abs() * self._valid).sum(-1) / self._valid.sum(-1)  # (M, H + 1, N)
        return error.mean(-1)[:, 1:]


def state_std(episodes: Sequence[Episode], spec: EnvSpec) -> Tensor:
    """Standard deviation (S,) of each state feature over episodes; of a constant its size, at least 1."""
    state = Normalizer((spec.state_dim,))
    for episode in episodes:
        state.update(episode.state)
    return state.scale
