"""PPO on features of a world model, with a value and an advantage for each agent.

docs/reference/mamba.md, "Policy update".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dima.algorithms.objectives import clipped_value_loss, lambda_returns, ppo_policy_loss, standardize, survival
from dima.algorithms.ppo import HUBER_DELTA, PPO, ActorBatch, Batch, CriticBatch, PPOConfig, RowIndex
from dima.config import NonNegative, Positive, Range, Whole
from dima.data import EnvSpec, Rollout
from dima.policies.actors import ActorConfig
from dima.policies.team_critic import TeamCritic, TeamCriticConfig

ADVANTAGE_EPS = 1e-4  # added to the deviation of advantages


@dataclass(frozen=True)
class FeaturePPOConfig(PPOConfig):
    """PPO on features; the defaults are MAMBA's for StarCraft."""

    actor: ActorConfig = ActorConfig(hidden=(256, 256), norm=False)
    critic: TeamCriticConfig = TeamCriticConfig()  # type: ignore[assignment]
    clip: Positive = 0.2  # probability ratios are clipped to 1 - clip ... 1 + clip
    max_grad_norm: NonNegative = 100.0  # gradient clipping by norm, actor and critic each; 0: none
    minibatch_rows: Whole = 2_000  # rows of a gradient step, the last of a pass takes the rest; 0: see minibatches
    entropy_decay: Annotated[float, Range(0, 1)] = 0.99998  # of the entropy bonus, per gradient step
    weight_decay: NonNegative = 1e-5  # added to the actor's gradient, times its weights
    critic_decay: bool = False  # and to the critic's
    epsilon: Positive = 1e-8  # Adam's epsilon
    normalize_values: bool = False  # learn normalised values by a clipped Huber loss; else returns by squared error

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest size of rewards that are learnt, by the flag that would learn any."""
        if self.normalize_values:
            return super().reward_limits
        return {"--learner.ppo.normalize-values --learner.ppo.value-norm-floor 0": (1e-3, 100.0)}

    def build(self, spec: EnvSpec) -> FeaturePPO:
        return FeaturePPO(self, spec)


class FeaturePPO(PPO):
    """Actor of an agent's own features, critic of all agents'; nothing of the world model is trained."""

    config: FeaturePPOConfig
    critic: TeamCritic  # type: ignore[assignment]

    def __init__(self, config: FeaturePPOConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)

    def build_critic(self) -> Any:
        return TeamCritic(self.config.critic, self.spec)

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        decay = self.config.weight_decay if module is self.actor or self.config.critic_decay else 0.0
        return torch.optim.Adam(module.parameters(), lr=lr, eps=self.config.epsilon, weight_decay=decay, fused=True)

    @property
    def entropy_weight(self) -> Tensor | float:
        steps: Any = next((state["step"] for state in self.actor_optimizer.state.values()), 0)
        return self.config.entropy * self.config.entropy_decay**steps

    def update_statistics(self, obs: Tensor, state: Tensor) -> None:
        """There are none: features are the world model's."""

    def minibatches(self, batch: Batch) -> Iterator[RowIndex]:
        """Rows of minibatches in a new random order per epoch; with ``minibatch_rows`` none is dropped."""
        if not self.config.minibatch_rows:
            yield from super().minibatches(batch)
            return
        rows, device = len(batch.advantage), batch.advantage.device
        for _ in range(self.config.epochs):
            yield from torch.randperm(rows, device=device).split(self.config.minibatch_rows)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, Tensor]]:
        """Compute returns, advantages and targets (R, N) of a rollout (B, T), as B * T rows."""
        config = self.config
        value, next_value = self.critic(rollout.state), self.critic(rollout.next_state)
        returns = lambda_returns(
            rollout.reward[..., None],
            rollout.continuation[..., None],
            rollout.boundary[..., None],
            self._returns_of(next_value),
            config.gamma,
            config.lam,
        )
        raw_value = self._returns_of(value)
        weight = torch.ones_like(rollout.reward)
        if config.survival_weights:
            weight = survival(rollout.continuation, rollout.boundary)
            weight = weight / weight.mean()
        unit: Tensor | float = 1.0
        target = returns
        if config.normalize_values:
            self.value_norm.update(returns)
            unit = 1.0 if config.value_norm_floor else self.value_norm.moments()[1]
            target = self.value_norm.normalize(returns)
        advantage = (returns - raw_value) / unit
        batch = Batch(
            obs=rollout.obs.flatten(0, 1),
            action_mask=rollout.action_mask.flatten(0, 1),
            action=rollout.action.flatten(0, 1),
            log_prob=rollout.log_prob.flatten(0, 1),
            advantage=standardize(advantage, weight[..., None].expand_as(advantage), ADVANTAGE_EPS).flatten(0, 1),
            state=rollout.state.flatten(0, 1),
            previous_action=rollout.previous_action.flatten(0, 1),
            value=value.flatten(0, 1),
            target=target.flatten(0, 1),
            weight=weight.flatten(),
            agent_weight=weight[..., None].expand_as(rollout.log_prob).flatten(0, 1),
        )
        unexplained = advantage.var(correction=0) / (returns / unit).var(correction=0).clamp(min=1e-8)
        return batch, {"return": returns.mean(), "value": raw_value.mean(), "explained_variance": 1 - unexplained}

    def _returns_of(self, value: Tensor) -> Tensor:
        return self.value_norm.denormalize(value) if self.config.normalize_values else value

    def actor_loss(self, batch: ActorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate loss of every agent's own advantage minus the entropy bonus, and metrics; scalars."""
        policy, weight = self.actor(batch.obs, batch.action_mask), batch.agent_weight
        ratio_of = policy.log_prob(batch.action)[..., None], batch.log_prob[..., None]  # each agent a team of one
        loss, metrics = ppo_policy_loss(*ratio_of, batch.advantage, self.config.clip, weight[..., None])
        entropy = (weight * policy.entropy()).mean()
        metrics |= {"policy_loss": loss.detach(), "entropy": entropy.detach()}
        return loss - self.entropy_weight * entropy, metrics

    def critic_loss(self, batch: CriticBatch) -> Tensor:
        """Half the squared error of returns, or the clipped Huber loss of normalised values; a scalar."""
        value, weight = self.critic(batch.state), batch.weight[:, None]
        if not self.config.normalize_values:
            return (weight * 0.5 * (batch.target - value).square()).mean()
        clip = self.config.clip if self.config.value_clip is None else self.config.value_clip
        return clipped_value_loss(value, batch.value, batch.target, clip, HUBER_DELTA, weight)
