"""Base of world models of the global state: their units, and a decoder from states to observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dima.data import EnvSpec, Episode, View, blank
from dima.experience.replay import Replay, Rows
from dima.nn.normalizer import Normalizer
from dima.nn.optim import FitConfig
from dima.world_models.base import Loss, Objective, WorldModel, replace_rows
from dima.world_models.observation_decoder import ObservationDecoder

L = TypeVar("L")
MIN_CHANGE_STD = 0.01  # of a step's change, in units of the state's: slower features are as good as constant


class StateModel(WorldModel[L]):
    """A model whose rollout is a sequence of states; a subclass builds ``decoder`` and lists its objective."""

    visit_counters: tuple[str, ...] = ("decoder",)
    decoder: ObservationDecoder
    action_valid: Tensor  # (N, A) bool

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.state_scale = Normalizer((spec.state_dim,))
        self.change_scale = Normalizer((spec.state_dim,))  # of the difference between successive states
        self.obs_scale = Normalizer((spec.n_agents, spec.obs_dim), samples=spec.obs_samples)
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        device = self.action_valid.device
        for episode in episodes:
            state = episode.state.to(device)
            self.state_scale.update(state)
            self.change_scale.update(state.diff(dim=0))
            obs = episode.obs.to(device)
            self.obs_scale.update(obs, self.spec.alive(state))
            if self.decoder.readout is not None:
                self.decoder.readout.update(state, obs)

    def decoder_objective(self, fit: FitConfig) -> Objective:
        """The decoder's, where it has something to learn."""
        return Objective(self.decoder_rows, self.decoder_loss, fit, needed=lambda: self.decoder.is_learnt)

    def decoder_rows(self, replay: Replay) -> Rows:
        """(B, 1) the least visited rows."""
        return replay.gather(replay.least_visited("decoder", self.objectives()["decoder"].fit.batch), 0, 0)

    def decoder_loss(self, rows: Rows) -> Loss:
        """L1 and commitment."""
        state, alive = rows.state[:, 0], self.spec.alive(rows.state[:, 0])
        obs = self.obs_scale.normalize(blank(rows.obs[:, 0], alive))
        return self.decoder.loss(self.state_scale.normalize(state), obs, alive)

    def decode(self, state: Tensor) -> Tensor:
        """Normalised states (..., S) -> every agent's observation (..., N, O) in the environment's units."""
        obs = self.obs_scale.denormalize(self.decoder(state)) * self.decoder.valid
        if self.decoder.readout is not None:
            obs = self.decoder.readout.read(self.state_scale.denormalize(state), obs)
        return obs

    def view(self, state: Tensor, action_mask: Tensor, previous_action: Tensor) -> View:
        """The team's view of states (B, S) in the environment's units."""
        return View(self.decode(self.state_scale.normalize(state)), state, action_mask, previous_action)

    def reset_rows(self, latent: L, fresh: L, rows: Tensor) -> L:
        """Replace the selected rows; for latents that are dataclasses of tensors (B, ...)."""
        return replace_rows(latent, fresh, rows)
