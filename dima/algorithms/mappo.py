"""MAPPO in the real environment (Yu et al. 2021, arXiv 2103.01955).

The update is the one that DIMA makes in imagination, with DIMA's defaults, but for a critic that sees the state alone.
HARL's settings are the preset ``published``. Remaining differences from HARL: docs/reference/baselines.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import PPO
from dima.data import EnvSpec


@dataclass(frozen=True)
class MappoConfig(OnPolicyConfig):
    """MAPPO: PPO with one policy shared by all agents and a centralised critic."""

    def build_ppo(self, spec: EnvSpec) -> PPO:
        return PPO(self.ppo, spec)
