"""What the policy sees of real observations: features of the filtered latent, whose memory is the episode's."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dima.data import EnvSpec, View, blank
from dima.nn.normalizer import Normalizer
from dima.policies.base import Perception
from dima.world_models.base import clip_action, select_rows
from dima.world_models.mamba.config import NetworkConfig
from dima.world_models.mamba.latent import features, mode, sample
from dima.world_models.mamba.networks import Filter


class Memory(NamedTuple):
    """The latent of the time step before."""

    stochastic: Tensor  # (B, N, C * K)
    deterministic: Tensor  # (B, N, D)


def feature_view(stochastic: Tensor, deterministic: Tensor, action_mask: Tensor, previous_action: Tensor) -> View:
    """A view whose observations are each agent's features, and whose state is those of all agents."""
    seen = features(stochastic, deterministic)
    return View(seen, seen.flatten(-2), action_mask, previous_action)


def feature_spec(config: NetworkConfig, spec: EnvSpec) -> EnvSpec:
    """Sizes of such views."""
    agents, width = spec.n_agents, config.features
    return replace(spec, obs_sizes=(width,) * agents, state_dim=agents * width, obs_has_id=True, agents_leave=False)


def encoder_input(obs: Tensor, scale: Normalizer | None, spec: EnvSpec) -> Tensor:
    """Observations (..., N, O) as the encoder sees them; zeros stay zeros where agents leave, who then observe them."""
    seen = obs if scale is None else scale.normalize(obs)
    return blank(seen, (obs != 0).any(-1)) if spec.agents_leave else seen


class LatentPerception(Perception):
    """Filters an episode as it is played; it shares its networks with the world model.

    Args:
        filter: the networks.
        obs_scale: units of the observations; None: as they are.
        spec: sizes of the task.
    """

    recurrent = True

    def __init__(self, filter: Filter, obs_scale: Normalizer | None, spec: EnvSpec) -> None:
        super().__init__()
        self.filter, self.obs_scale, self.spec = filter, obs_scale, spec

    def initial_memory(self, rows: int) -> Memory:
        weight, agents = self.filter.transition.memory.weight_hh, self.spec.n_agents
        widths = self.filter.shape[0] * self.filter.shape[1], self.filter.transition.memory.hidden_size
        return Memory(*(weight.new_zeros(rows, agents, width) for width in widths))

    def forward(self, view: View, memory: Memory | None, most_probable: bool) -> tuple[View, Memory]:
        obs = encoder_input(view.obs, self.obs_scale, self.spec)
        before = self._before(view, memory)
        action = clip_action(view.previous_action, self.spec)
        deterministic = self.filter.transition(action, *before)
        logits = self.filter.posterior_logits(deterministic, self.filter.encoder(obs))
        stochastic = (mode(logits) if most_probable else sample(logits)).flatten(-2)
        now = Memory(stochastic, deterministic)
        return feature_view(*now, view.action_mask, view.previous_action), now

    def _before(self, view: View, memory: Memory | None) -> Memory:
        """The latents before, zero where an episode begins."""
        rows = view.obs.shape[0]  # not its len(), which a trace would take for a constant
        zero = self.initial_memory(rows)
        if memory is None or memory.stochastic.shape[0] != rows:  # another number of environments plays
            return zero
        first = torch.ones(rows, dtype=torch.bool, device=view.obs.device) if view.first is None else view.first
        return Memory(*(select_rows(first, new, old) for new, old in zip(zero, memory, strict=True)))
