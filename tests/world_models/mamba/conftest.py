"""World models small enough for hand-checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dima.data import EnvSpec, Episode
from dima.experience.replay import Replay
from dima.world_models.mamba.model import MambaModelConfig, MambaWorldModel

TINY: dict[str, Any] = {
    "hidden": 16,
    "deterministic": 8,
    "categoricals": 4,
    "classes": 3,
    "layers": 2,
    "heads": 2,
    "window": 6,
}


@pytest.fixture
def build(alive) -> Callable[..., MambaWorldModel]:
    """Builds a stirred model in evaluation mode, from a team and changes of its settings."""

    def make(spec: EnvSpec, **changes: Any) -> MambaWorldModel:
        model: MambaWorldModel = alive(MambaModelConfig(**(TINY | changes)).build(spec))
        return model

    return make


@pytest.fixture
def counting() -> Callable[..., Replay]:
    """A replay of one episode of 20 steps in which observation, action and reward of step t are t."""

    def fill(spec: EnvSpec) -> Replay:
        time = torch.arange(21.0)
        return Replay.of(
            [
                Episode(
                    obs=time[:, None, None].expand(21, spec.n_agents, spec.obs_dim).clone(),
                    state=time[:, None].expand(21, spec.state_dim).clone(),
                    action_mask=torch.ones(21, spec.n_agents, spec.action_dim, dtype=torch.bool),
                    action=time[:20, None, None].expand(20, spec.n_agents, spec.action_dim).clone() / 100,
                    reward=time[:20],
                    terminated=time[:20] == 19,
                    truncated=torch.zeros(20, dtype=torch.bool),
                )
            ],
            spec,
            "cpu",
        )

    return fill
