"""HAPPO: sequential policy updates with a policy per agent (Kuba et al. 2021, arXiv 2109.11251).

The surrogate of each agent is weighted by how the agents updated before it have changed the probability of the joint
action, so that every step improves the joint policy (docs/reference/baselines.md, "HAPPO").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dima.algorithms.objectives import ppo_policy_loss
from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import PPO, ActorBatch, Batch, CriticBatch, PPOConfig
from dima.data import EnvSpec
from dima.nn.normalizer import TINY
from dima.nn.optim import Average
from dima.policies.actors import SeparateActors
from dima.policies.distributions import ActionDistribution


@dataclass(frozen=True)
class HappoConfig(OnPolicyConfig):
    """HAPPO: PPO with a policy per agent, updated sequentially, and a centralised critic."""

    fixed_order: bool = False  # update agents in their own order; else in a new random order per iteration

    def build_ppo(self, spec: EnvSpec) -> SequentialPPO:
        return SequentialPPO(self.ppo, spec, self.fixed_order)


@dataclass
class AgentBatch(Batch):
    """A batch with HAPPO's correction factor, for the update of one agent."""

    factor: Tensor  # (R,) probability ratio, new over old policies, of the actions of the agents updated before


class SequentialPPO(PPO):
    """PPO of a team whose agents have separate networks and are updated one after another."""

    actor: SeparateActors

    def __init__(self, config: PPOConfig, spec: EnvSpec, fixed_order: bool = False) -> None:
        super().__init__(config, spec)
        self.fixed_order = fixed_order

    def build_actor(self) -> SeparateActors:
        return SeparateActors(self.config.actor, self.spec)

    def run_epochs(self, batch: Batch, workers: int = 1, replayed: CriticBatch | None = None) -> dict[str, Tensor]:
        assert replayed is None  # HAPPO learns from real experience only
        agents, factor = self.spec.n_agents, torch.ones_like(batch.advantage)
        steps, critic_steps = Average(), Average()
        if self.spec.agents_leave:  # 1 on average in the loss of each agent
            mean = batch.agent_weight.mean(0).clamp(min=TINY)
            batch = replace(batch, agent_weight=batch.agent_weight / mean)
        for agent in range(agents) if self.fixed_order else torch.randperm(agents).tolist():
            if self.spec.agents_leave and not batch.agent_weight[:, agent].any():
                continue  # it was never there: momentum alone must not move it
            agent_batch = AgentBatch(**vars(batch), factor=factor)
            for rows in self.minibatches(batch):
                steps.add(self.agent_step(agent, agent_batch[rows]))
            # each agent is updated once per iteration, so the old policy is the one that collected
            with torch.no_grad():
                log_prob = self.log_prob(agent, batch, self._policy(agent, batch))[:, 0]
            factor = factor * (log_prob - batch.log_prob[:, agent]).exp()
        critic_batch = batch.part(CriticBatch)
        for rows in self.minibatches(batch):
            critic_steps.add(self.critic_step(critic_batch[rows]))
        return steps.values() | critic_steps.values() | {"factor_deviation": (factor - 1).abs().mean()}

    def agent_step(self, agent: int, batch: AgentBatch) -> dict[str, Tensor]:
        """Make one gradient step of one agent; the factor multiplies outside the clipping."""
        policy, weight = self._policy(agent, batch), batch.agent_weight[:, agent]
        loss, metrics = ppo_policy_loss(
            self.log_prob(agent, batch, policy),
            batch.log_prob[:, agent : agent + 1],
            batch.advantage,
            self.config.clip,
            (weight * batch.factor)[:, None],
        )
        entropy = (weight[:, None] * policy.entropy()).mean()
        metrics |= {"policy_loss": loss.detach(), "entropy": entropy.detach()}
        network = self.actor.members[agent]
        norm = self.gradient_step(network, self.actor_optimizer, loss - self.config.entropy * entropy)
        return metrics | {"actor_grad_norm": norm}

    def log_prob(self, agent: int, batch: ActorBatch, policy: ActionDistribution) -> Tensor:
        """Log-probability (R, 1) of one agent's actions; once it has left that of before, for a ratio of 1."""
        log_prob = policy.log_prob(batch.action[:, agent : agent + 1, : self.spec.action_sizes[agent]])
        if not self.spec.agents_leave:
            return log_prob
        own = slice(agent, agent + 1)
        return torch.where(batch.agent_weight[:, own] > 0, log_prob, batch.log_prob[:, own])

    def _policy(self, agent: int, batch: ActorBatch) -> ActionDistribution:
        return self.actor.forward_agent(agent, batch.obs, batch.action_mask)
