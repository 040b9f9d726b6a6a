"""HAPPO: a policy for each agent, improved one after another (arXiv 2109.11251; model-free section 6).

An agent that learns later weighs its advantages by how much the agents before it have changed what the team does, so
that every step improves the joint policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dima.algorithms.objectives import ppo_policy_loss
from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import PPO, ActorBatch, Batch, CriticBatch, PPOConfig
from dima.data import EnvSpec
from dima.nn.optim import Average
from dima.policies.actors import SeparateActors
from dima.policies.critics import CriticConfig


@dataclass(frozen=True)
class HappoConfig(OnPolicyConfig):
    """PPO with a policy for each agent, updated in turn, and a central critic."""

    ppo: PPOConfig = PPOConfig(critic=CriticConfig(hidden=(128, 128, 128), previous_action=False))
    fixed_order: bool = False  # agents learn in their own order instead of a new random one every time

    def learner(self, spec: EnvSpec) -> SequentialPPO:
        return SequentialPPO(self.ppo, spec, self.fixed_order)


@dataclass
class Turn(Batch):
    """The rows that one agent learns from, and how far those before it have moved."""

    factor: Tensor  # (R,) probability of what they did, now by then, multiplied over them


class SequentialPPO(PPO):
    """A team whose agents have networks of their own and learn in turn."""

    actor: SeparateActors

    def __init__(self, config: PPOConfig, spec: EnvSpec, fixed_order: bool = False) -> None:
        super().__init__(config, spec)
        self.fixed_order = fixed_order

    def build_actor(self) -> SeparateActors:
        return SeparateActors(self.config.actor, self.spec)

    def run_epochs(self, batch: Batch, workers: int = 1) -> dict[str, Tensor]:
        agents, factor = self.spec.n_agents, torch.ones_like(batch.advantage)
        steps, critic_steps = Average(), Average()
        for agent in range(agents) if self.fixed_order else torch.randperm(agents).tolist():
            turn = Turn(**vars(batch), factor=factor)
            for picked in self.minibatches(batch):
                steps.add(self.agent_step(agent, turn[picked]))
            # it acted as it was until now: nobody has two turns
            factor = factor * (self.log_prob(agent, batch) - batch.log_prob[:, agent]).exp()
        values = batch.part(CriticBatch)
        for picked in self.minibatches(batch):
            critic_steps.add(self.critic_step(values[picked]))
        return steps.values() | critic_steps.values() | {"factor_deviation": (factor - 1).abs().mean()}

    def agent_step(self, agent: int, turn: Turn) -> dict[str, Tensor]:
        """One gradient step of one agent; the factor multiplies outside the clipping."""
        policy = self.actor.one(agent, turn.obs, turn.action_mask)
        loss, metrics = ppo_policy_loss(
            policy.log_prob(self._own(agent, turn)),
            turn.log_prob[:, agent : agent + 1],
            turn.advantage,
            self.config.clip,
            turn.factor[:, None],
        )
        entropy = policy.entropy().mean()
        metrics |= {"policy_loss": loss.detach(), "entropy": entropy.detach()}
        network = self.actor.members[agent]
        norm = self.step(network, self.actor_optimizer, loss - self.config.entropy * entropy)
        return metrics | {"actor_grad_norm": norm}

    @torch.no_grad()
    def log_prob(self, agent: int, batch: ActorBatch) -> Tensor:
        """(R,) of what an agent did, under its present policy."""
        return self.actor.one(agent, batch.obs, batch.action_mask).log_prob(self._own(agent, batch))[:, 0]

    def _own(self, agent: int, batch: ActorBatch) -> Tensor:
        """(R, 1, A) what an agent did, at its own size."""
        return batch.action[:, agent : agent + 1, : self.spec.action_sizes[agent]]
