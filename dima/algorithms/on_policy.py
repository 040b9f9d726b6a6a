"""On-policy learning in the environment: roll out, update, discard."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.algorithms.ppo import PPO
from dima.config import Count
from dima.data import EnvSpec, View
from dima.experience.collector import Collector
from dima.runtime.progress import Progress


@dataclass(frozen=True)
class OnPolicyConfig(AlgorithmConfig):
    """Settings shared by on-policy algorithms."""

    rollout: Count = 200  # steps of each environment per rollout

    def build(self, spec: EnvSpec, device: str) -> OnPolicy:
        return OnPolicy(self, spec, device)

    @abstractmethod
    def build_ppo(self, spec: EnvSpec) -> PPO:
        """Policy, critic and their update."""


class OnPolicy(Algorithm):
    """Alternates between rollouts of the current policy and PPO updates."""

    config: OnPolicyConfig

    def __init__(self, config: OnPolicyConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec, self.device = config, spec, device
        self.ppo = config.build_ppo(spec).to(device)

    @property
    def team(self) -> nn.Module:
        return self.ppo.actor

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        return self.ppo.act(view.obs, view.action_mask, mode)

    def iteration(self, collector: Collector, progress: Progress, done: float) -> dict[str, Tensor | float]:
        with progress.phase("collect"):
            rollout, returns = collector.roll(self.act, self.config.rollout)
        with progress.phase("update", total=1) as advance:
            update = self.ppo.update(rollout, done)
            metrics: dict[str, Tensor | float] = {f"policy/{key}": value for key, value in update.items()}
            self.ppo.update_statistics(rollout.obs, rollout.state)
            advance()
        if returns:
            metrics["collect/return"] = float(np.mean(returns))
        return metrics

    def checkpoint(self) -> dict[str, Any]:
        return {"ppo": self.ppo.checkpoint()}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.ppo.restore(saved["ppo"])
