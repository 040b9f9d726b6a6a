"""MARIE: PPO on reconstructed observations, in a Transformer over tokens (docs/reference/marie.md, "Iteration")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dima.algorithms.feature_ppo import FeaturePPO, FeaturePPOConfig
from dima.algorithms.model_based import ModelBasedConfig
from dima.config import Count, NonNegative, Positive, Whole
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.experience.replay import ReplayConfig
from dima.policies.actors import ActorConfig
from dima.policies.attention_critic import AttentionCritic, AttentionCriticConfig
from dima.policies.team_critic import TeamCritic
from dima.world_models.marie.model import MarieModelConfig


@dataclass(frozen=True)
class MariePPOConfig(FeaturePPOConfig):
    """PPO on reconstructed observations; the defaults are MARIE's for MAMuJoCo."""

    actor: ActorConfig = ActorConfig()
    critic: AttentionCriticConfig = AttentionCriticConfig()
    clip: Positive = 0.1  # probability ratios are clipped to 1 - clip ... 1 + clip
    max_grad_norm: NonNegative = 10.0  # gradient clipping by norm, actor and critic each; 0: none
    minibatch_rows: Whole = 0  # rows of a gradient step, the last of a pass takes the rest; 0: see minibatches
    entropy_decay: Positive = 1.0  # of the entropy bonus, per gradient step
    weight_decay: NonNegative = 0.0  # added to the actor's gradient, times its weights
    epsilon: Positive = 1e-5  # Adam's epsilon
    normalize_values: bool = True  # learn normalised values by a clipped Huber loss; else returns by squared error

    def build(self, spec: EnvSpec) -> MariePPO:
        return MariePPO(self, spec)


class MariePPO(FeaturePPO):
    """Actor of an agent's own observation, critic of all agents'."""

    config: MariePPOConfig

    def build_critic(self) -> AttentionCritic | TeamCritic:
        critic = self.config.critic
        return (AttentionCritic if critic.norm else TeamCritic)(critic, self.spec)

    def update_statistics(self, obs: Tensor, state: Tensor) -> None:
        self.actor.update_statistics(obs)
        if isinstance(self.critic, AttentionCritic):
            self.critic.update_statistics(obs)


@dataclass(frozen=True)
class MarieConfig(ModelBasedConfig):
    """MARIE: Transformers over discrete tokens, one for each agent, joined by a Perceiver (arXiv 2406.15836)."""

    world_model: MarieModelConfig = MarieModelConfig()
    ppo: MariePPOConfig = MariePPOConfig()
    replay: ReplayConfig = ReplayConfig(recent_share=0.25)  # uniform
    learn_after: Count = 500  # environment steps before the first iteration learns
    policy_after: Whole = 19  # iterations that fit the world model only
    horizon: Count = 14  # imagined steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_value:
            raise ConfigError(
                f"replay_value = {self.replay_value} is not for marie, whose critic sees reconstructions: choose 0"
            )
