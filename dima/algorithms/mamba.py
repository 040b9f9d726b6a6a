"""MAMBA: PPO on the features of a recurrent world model with communication (docs/reference/mamba.md, "Iteration")."""

from __future__ import annotations

from dataclasses import dataclass

from dima.algorithms.feature_ppo import FeaturePPOConfig
from dima.algorithms.model_based import ModelBasedConfig
from dima.algorithms.ppo import PPO
from dima.config import Count, Whole
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.experience.replay import ReplayConfig
from dima.nn.one_hot import OneHotLinear, begin_one_hot
from dima.policies.actors import Actor
from dima.world_models.mamba.model import MambaModelConfig


@dataclass(frozen=True)
class MambaConfig(ModelBasedConfig):
    """MAMBA: a recurrent world model whose agents communicate (arXiv 2205.15023); defaults are those for StarCraft."""

    world_model: MambaModelConfig = MambaModelConfig()
    ppo: FeaturePPOConfig = FeaturePPOConfig()
    replay: ReplayConfig = ReplayConfig(recent_share=0.25)  # uniform
    iteration_steps: Count = 1  # environment steps collected per iteration, rounded up to whole episodes
    learn_after: Count = 500  # environment steps before the first iteration learns
    policy_after: Whole = 0  # iterations that fit the world model only
    imaginations: Whole = 4  # imagined batches per iteration, each followed by a policy update
    imagination_batch: Count = 40  # windows of real rows in a batch; an imagined episode starts from nearly every row
    horizon: Count = 14  # imagined steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_value:
            raise ConfigError(
                f"replay_value = {self.replay_value} is not for mamba, whose critic sees features: choose 0"
            )
        if self.ppo.actor.normalize_obs:
            raise ConfigError(
                "ppo.actor.normalize_obs is not for mamba, whose actor sees features: set world_model.normalize_obs"
            )

    def build_ppo(self, spec: EnvSpec) -> PPO:
        ppo, choices = self.ppo.build(spec), (self.world_model.categoricals, self.world_model.classes)
        ppo.critic.embed = OneHotLinear(ppo.critic.embed, *choices)
        if isinstance(ppo.actor, Actor) and ppo.actor.input_norm is None:
            begin_one_hot(ppo.actor.net, *choices)
        return ppo
