"""Observation features that are copies of state features: found in real data, read either way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.runtime.device import autocast

_ROWS = 64  # compared at a time


class FeatureCopies(nn.Module):
    """Which observation features are copies of which state features; a subclass reads one from the other."""

    copies: Tensor  # (N O, S) bool: equal in all data so far

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        valid = torch.from_numpy(spec.obs_valid).flatten()[:, None]
        self.register_buffer("copies", valid.repeat(1, spec.state_dim))

    @torch.no_grad()
    def update(self, state: Tensor, obs: Tensor) -> None:
        """Compare real states (T, S) with their observations (T, N, O)."""
        feature, index = self.copies.nonzero(as_tuple=True)
        for states, rows in zip(state.split(_ROWS), obs.flatten(1).split(_ROWS), strict=True):
            first = rows[0, feature] == states[0, index]  # leaves few
            feature, index = feature[first], index[first]
            same = (rows[:, feature] == states[:, index]).all(0)
            feature, index = feature[same], index[same]
        self.copies.zero_()
        self.copies[feature, index] = True


class StateReadout(FeatureCopies):
    """Reads the global state from observations.

    So models of observations alone predict the state of tasks where every state feature is in some observation: where
    the state is the concatenation of observations, or every agent sees all of it. A feature is the average of its
    copies; unless each has one, the whole state is NaN.
    """

    weight: Tensor  # (N O, S) of the average
    missing: Tensor  # () bool: some feature has no copy, or there are no data yet

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.register_buffer("weight", torch.zeros(self.copies.shape))
        self.register_buffer("missing", torch.tensor(True))

    @torch.no_grad()
    def update(self, state: Tensor, obs: Tensor) -> None:
        super().update(state, obs)
        self.missing.copy_(~self.copies.any(0).all())
        self.weight.copy_(self.copies / self.copies.sum(0).clamp(min=1))

    def read(self, obs: Tensor) -> Tensor:
        """States (..., S) of observations (..., N, O)."""
        with autocast(obs.device, "float32"):
            state = obs.flatten(-2) @ self.weight
        return torch.where(self.missing, torch.nan, state)


class ObservationReadout(FeatureCopies):
    """Reads the observation features that the global state holds; of several copies, the first."""

    index: Tensor  # (N O,) the state feature to read
    known: Tensor  # (N, O) bool: there is one

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.register_buffer("index", torch.zeros(len(self.copies), dtype=torch.long))
        self.register_buffer("known", torch.zeros(spec.n_agents, spec.obs_dim, dtype=torch.bool))

    @torch.no_grad()
    def update(self, state: Tensor, obs: Tensor) -> None:
        super().update(state, obs)
        self.index.copy_(self.copies.int().argmax(1))
        self.known.copy_(self.copies.any(1).view_as(self.known))

    def read(self, state: Tensor, otherwise: Tensor) -> Tensor:
        """Observations (..., N, O) of states (..., S), with the features of ``otherwise`` where there is no copy."""
        return torch.where(self.known, state[..., self.index].view_as(otherwise), otherwise)
