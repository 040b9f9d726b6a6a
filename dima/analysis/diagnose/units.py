"""What features are called, how they are grouped, and how large a difference of each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dima.data import Episode
from dima.envs.base import JointEnv
from dima.nn.normalizer import Normalizer


@dataclass(frozen=True)
class Units:
    """The features of a task and their standard deviation in the data, 1 for those that never vary."""

    agents: tuple[str, ...]
    names: tuple[str, ...]  # of the S state features
    kinds: tuple[str, ...]  # of the S state features
    state_scale: Tensor  # (S,)
    obs_scale: Tensor  # (N, O)
    state_varies: Tensor  # (S,) bool
    obs_varies: Tensor  # (N, O) bool
    obs_valid: Tensor  # (N, O) bool, False for padding

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """The state features of each kind."""
        found: dict[str, list[int]] = {}
        for feature, kind in enumerate(self.kinds):
            found.setdefault(kind, []).append(feature)
        return found


def measure(env: JointEnv, episodes: Sequence[Episode]) -> Units:
    """The units in which a world model's errors on these episodes are told."""
    spec = env.spec
    state, obs = Normalizer((spec.state_dim,)), Normalizer((spec.n_agents, spec.obs_dim))
    for episode in episodes:
        state.update(episode.state)
        obs.update(episode.obs)
    return Units(
        agents=spec.agents,
        names=tuple(env.state_names()),
        kinds=tuple(env.state_kinds()),
        state_scale=state.scale,
        obs_scale=obs.scale,
        state_varies=state.scale != 1,  # what never varies has none
        obs_varies=obs.scale != 1,
        obs_valid=torch.from_numpy(spec.obs_valid),
    )
