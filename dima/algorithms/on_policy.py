"""On-policy learning in the environment: roll out, update, discard."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from dima.algorithms.base import Algorithm, AlgorithmConfig, Metrics
from dima.algorithms.ppo import PPO, PPOConfig
from dima.config import Count
from dima.data import EnvSpec, Rollout
from dima.experience.collector import Collector
from dima.policies.base import Policy
from dima.policies.critics import CriticConfig
from dima.runtime.progress import Progress


@dataclass(frozen=True)
class OnPolicyConfig(AlgorithmConfig):
    """Settings shared by on-policy algorithms."""

    ppo: PPOConfig = PPOConfig(critic=CriticConfig(hidden=(128, 128, 128), previous_action=False))
    rollout: Count = 200  # steps of each environment per rollout

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return self.ppo.reward_limits

    def build(self, spec: EnvSpec, device: str) -> OnPolicy:
        return OnPolicy(self, spec, device)

    @abstractmethod
    def build_ppo(self, spec: EnvSpec) -> PPO:
        """Policy, critic and their update."""


class OnPolicy(Algorithm):
    """Rollouts of the current policy, each followed by a PPO update."""

    config: OnPolicyConfig
    _rollout: Rollout | None = None  # collected and not learnt from yet

    def __init__(self, config: OnPolicyConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec, self.device = config, spec, device
        self.ppo = config.build_ppo(spec).to(device)

    @property
    def policy(self) -> Policy:
        return self.ppo.actor

    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        with progress.phase("collect"):
            self._rollout, returns = collector.roll(self.act, self.config.rollout)
        return {"collect/return": float(np.mean(returns))} if returns else {}

    def update_policy(self, progress: Progress, done: float) -> Metrics:
        rollout, self._rollout = self._rollout, None
        assert rollout is not None, "collect comes first"
        with progress.phase("update", total=1) as advance:
            metrics = self.ppo.update(rollout, done)
            self.ppo.update_statistics(rollout.obs, rollout.state)
            advance()
        return {f"policy/{key}": value for key, value in metrics.items()}

    def checkpoint(self) -> dict[str, Any]:
        return {"ppo": self.ppo.checkpoint()}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.ppo.restore(saved["ppo"])
