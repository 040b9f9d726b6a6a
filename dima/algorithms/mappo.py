"""MAPPO in the real environment: the update that DIMA makes in imagination, fed with real steps (model-free sheet)."""

from __future__ import annotations

from dataclasses import dataclass

from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import PPO, PPOConfig
from dima.data import EnvSpec
from dima.policies.critics import CriticConfig


@dataclass(frozen=True)
class MappoConfig(OnPolicyConfig):
    """PPO with one policy shared by the team and a central critic."""

    ppo: PPOConfig = PPOConfig(critic=CriticConfig(hidden=(128, 128, 128), previous_action=False))

    def learner(self, spec: EnvSpec) -> PPO:
        return PPO(self.ppo, spec)
