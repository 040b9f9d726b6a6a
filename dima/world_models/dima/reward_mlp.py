"""MLP of a transition: reward, continuation, next action masks of (state, joint action, next state)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.nn.mlp import mlp
from dima.world_models.dima.reward_termination import (
    Memory,
    Prediction,
    RewardTermination,
    RewardTerminationConfig,
    Segments,
)


class RewardMLP(RewardTermination):
    """Predictions that depend on the transition alone, without memory."""

    def __init__(self, config: RewardTerminationConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        inputs = 2 * spec.state_dim + spec.n_agents * spec.action_dim
        self.trunk = nn.Sequential(mlp((inputs, *config.hidden), nn.SiLU), nn.SiLU())
        self.build_heads(config.hidden[-1])

    def features(self, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor) -> Tensor:
        features: Tensor = self.trunk(torch.cat([state, action.flatten(-2), next_state], dim=-1))
        return features

    def loss(self, batch: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(batch)
        if self.config.input_lasso:  # the weights of an input that says nothing go to zero, all of them together
            first = next(self.trunk.parameters())  # (hidden, inputs)
            loss = loss + self.config.input_lasso * first.norm(dim=0).sum()
        return loss, parts

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        now, reached = state[:, :-1], state[:, 1:]
        prediction = self(now, action, now, reached)
        return prediction.reward, prediction.continuation

    def step(self, memory: Memory, state: Tensor, action: Tensor, next_state: Tensor) -> tuple[Prediction, Memory]:
        return self(state, action, state, next_state), memory
