"""Floating-point operations of a learning iteration, counted without computing.

Networks and data live on PyTorch's ``meta`` device, where tensors have shapes and no values, so the counts are the same
on any machine. The reference's count over the library's is what the library saves in arithmetic; other savings only a
clock shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.cost import Counter
from benchmarks.speed.plain.model import PlainModel, plain_imagine
from benchmarks.speed.versus import OURS, PLAIN
from dima.algorithms.model_based import ModelBasedConfig
from dima.data import EnvSpec, View
from dima.envs import make_env
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.training.run_config import TrainConfig
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel
from dima.world_models.rollout import imagine

META = torch.device("meta")


class Shapes(Replay):
    """A replay of batches without values."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(ReplayConfig(capacity=1), spec, "cpu")

    def recent(self, batch: int) -> Tensor:
        return torch.empty(batch, dtype=torch.long, device=META)

    def least_visited(self, visitor: str, batch: int, length: int = 1) -> Tensor:
        return self.recent(batch)

    def gather(self, anchor: Tensor, before: int, after: int) -> Rows:
        return self.segments(anchor, before + 1 + after)

    def segments(self, start: Tensor, length: int) -> Rows:
        batch, (agents, actions) = len(start), self.spec.action_valid.shape

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(batch, length, *shape, dtype=dtype, device=META)

        return Rows(
            state=empty(self.spec.state_dim),
            obs=empty(agents, self.spec.obs_dim),
            action_mask=empty(agents, actions, dtype=torch.bool),
            action=empty(agents, actions),
            reward=empty(),
            terminated=empty(dtype=torch.bool),
            episode=empty(dtype=torch.long),
            valid=empty(dtype=torch.bool),
            acted=empty(dtype=torch.bool),
        )


def counts(config: TrainConfig, yardstick: TrainConfig) -> dict[str, Any]:
    """FLOPs of each part and of an iteration without policy updates, of library and reference."""
    spec = _spec(config)
    found = {OURS: _of(config, spec, plain=False), PLAIN: _of(yardstick, spec, plain=True)}
    whole = {side: sum(part["flops"] * part["often"] for part in parts.values()) for side, parts in found.items()}
    return {"yardstick": yardstick.preset, "parts": found, "iteration": whole | {"ratio": whole[PLAIN] / whole[OURS]}}


def _spec(config: TrainConfig) -> EnvSpec:
    env = make_env(config.task, config.env)
    env.close()
    return env.spec


def _of(config: TrainConfig, spec: EnvSpec, plain: bool) -> dict[str, dict[str, float]]:
    learner = config.learner
    assert isinstance(learner, ModelBasedConfig)
    sizes = learner.world_model
    assert isinstance(sizes, DimaModelConfig)
    library: DimaWorldModel = sizes.build(spec)
    model: Any = (PlainModel(library) if plain else library).to(META)
    replay, batch = Shapes(spec), learner.imagination_batch

    def act(view: View) -> tuple[Tensor, Tensor]:
        return torch.empty(batch, *spec.action_valid.shape, device=META), torch.empty(batch, spec.n_agents, device=META)

    found = {}
    for name, objective in model.objectives().items():
        model.train()
        with Counter() as update:
            objective.loss(objective.sample(replay))[0].backward()
        found[f"{name} update"] = {"flops": update.flops, "often": objective.fit.updates}
    model.eval()
    roll: Any = plain_imagine if plain else imagine
    with Counter() as rollout:
        roll(model, act, replay.gather(replay.recent(batch), model.context - 1, 0), learner.horizon)
    return found | {"imagination": {"flops": rollout.flops, "often": learner.imaginations}}
