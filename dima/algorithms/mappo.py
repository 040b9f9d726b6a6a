"""MAPPO in the real environment: the update that DIMA makes in imagination, fed with real steps (model-free sheet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.algorithms.ppo import PPO, PPOConfig
from dima.collect import Collector
from dima.config import Count
from dima.data import EnvSpec, View
from dima.policies import CriticConfig
from dima.progress import Progress


@dataclass(frozen=True)
class MappoConfig(AlgorithmConfig):
    """PPO with one policy shared by the team and a central critic."""

    ppo: PPOConfig = PPOConfig(critic=CriticConfig(hidden=(128, 128, 128), previous_action=False))
    rollout: Count = 200  # steps of every environment between two updates

    def build(self, spec: EnvSpec, device: str) -> Mappo:
        return Mappo(self, spec, device)


class Mappo(Algorithm):
    """Roll out, update, forget."""

    def __init__(self, config: MappoConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec, self.device = config, spec, device
        self.ppo = PPO(config.ppo, spec).to(device)

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        return self.ppo.act(view.obs, view.action_mask, mode)

    def round(self, collector: Collector, progress: Progress, done: float) -> dict[str, Tensor | float]:
        with progress.phase("collect"):
            rollout, returns = collector.roll(self.act, self.config.rollout)
        with progress.phase("improve", total=1) as advance:
            updated = self.ppo.update(rollout, done)
            metrics: dict[str, Tensor | float] = {f"policy/{key}": value for key, value in updated.items()}
            self.ppo.observe(rollout.obs, rollout.state)
            advance()
        if returns:
            metrics["collect/return"] = float(np.mean(returns))
        return metrics

    def checkpoint(self) -> dict[str, Any]:
        return {"ppo": self.ppo.checkpoint()}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.ppo.restore(saved["ppo"])
