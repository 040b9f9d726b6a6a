"""PPO of a team: shared actor, centralised critic, normalised values.

One update on a :class:`~dima.data.Rollout`, real or imagined: docs/reference/dima.md, "Policy update", and
docs/reference/baselines.md, "PPO losses" and "Iteration".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dima.algorithms.objectives import (
    clipped_value_loss,
    lambda_returns,
    ppo_policy_loss,
    standardize,
    survival,
)
from dima.config import Config, Count, Fraction, NonNegative, Positive, Range
from dima.data import EnvSpec, Record, Rollout, blank
from dima.nn.optim import Average, restore_optimizer
from dima.policies.actors import Actor, ActorConfig, TeamActor
from dima.policies.critics import Critic, CriticConfig, ValueNorm
from dima.runtime.fork import parallel_map

HUBER_DELTA = 10.0  # normalised value error beyond which the critic's loss is linear (DIMA, HARL)
ADAM_EPS = 1e-5  # Adam's epsilon of actor and critic (DIMA, HARL)
CPU_CHUNK_ROWS = 4096  # rows times agents whose activations stay in a CPU's cache until the backward pass


@dataclass(frozen=True)
class PPOConfig(Config):
    """PPO update of a team; the defaults are the published DIMA settings."""

    actor: ActorConfig = ActorConfig()
    critic: CriticConfig = CriticConfig()
    gamma: Fraction = 0.99  # discount per step
    lam: Fraction = 0.95  # lambda of the returns, from 0 (one step) to 1 (Monte Carlo)
    clip: Positive = 0.1  # probability ratios are clipped to 1 - clip ... 1 + clip
    value_clip: Positive | None = None  # normalised values are clipped this far around the old ones; unset: as clip
    epochs: Count = 5  # passes over a rollout
    minibatches: Count = 1  # gradient steps per pass
    entropy: NonNegative = 0.001  # weight of the entropy bonus; published with beta: 0.01
    max_grad_norm: NonNegative = 10.0  # gradient clipping by norm, actor and critic each; 0: none
    lr: Positive = 5e-4  # the actor's learning rate
    critic_lr: Positive = 5e-4  # the critic's learning rate
    linear_lr_decay: bool = False  # decay both learning rates linearly to 0 over the run
    survival_weights: bool = False  # weigh imagined steps by the probability that the episode has not ended before
    value_norm_beta: Annotated[float, Range(0, 0.999999999)] = 0.99999  # decay of the running moments of returns
    value_norm_floor: NonNegative = 0.01  # least variance of returns, in the reward's units; 0: rewards of any size

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest size of rewards that are learnt, by the flag that would learn any."""
        least = self.value_norm_floor**0.5 / 10  # a return is the sum of many
        return {"--learner.ppo.value-norm-floor 0": (least, math.inf)} if least else {}

    def build(self, spec: EnvSpec) -> PPO:
        return PPO(self, spec)


@dataclass
class ActorBatch(Record):
    """R rows of a rollout, for the actor's loss."""

    obs: Tensor  # (R, N, O)
    action_mask: Tensor  # (R, N, A) bool
    action: Tensor  # (R, N, A)
    log_prob: Tensor  # (R, N)
    advantage: Tensor  # (R,) standardised
    agent_weight: Tensor  # (R, N) in the loss, 1 on average; 0 for agents that have left


@dataclass
class CriticBatch(Record):
    """The same rows, for the critic's loss."""

    state: Tensor  # (R, S)
    previous_action: Tensor  # (R, N, A)
    value: Tensor  # (R,) of the critic before the update, normalised
    target: Tensor  # (R,) return, normalised
    weight: Tensor  # (R,) in the losses, 1 on average


@dataclass
class Batch(CriticBatch, ActorBatch):
    """R rows of a rollout with advantages and targets."""


@dataclass
class RealSteps(Record):
    """B windows of T real steps from which a critic learns."""

    state: Tensor  # (B, T, S)
    previous_action: Tensor  # (B, T, N, A)
    action: Tensor  # (B, T, N, A)
    reward: Tensor  # (B, T)
    continuation: Tensor  # (B, T) 1 - terminated
    boundary: Tensor  # (B, T) bool: the last step of its episode or of the window
    next_state: Tensor  # (B, T, S)
    weight: Tensor  # (B, T) in the critic's loss, 0 behind an episode's end


RowIndex = Tensor | slice  # rows of a minibatch
Learner = tuple[nn.Module, torch.optim.Adam, Callable[[RowIndex], dict[str, Tensor]]]  # network, optimiser, step


class PPO(nn.Module):
    """Actor, critic, value normalisation and optimisers of a team."""

    def __init__(self, config: PPOConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.actor: TeamActor = self.build_actor()
        self.critic: Critic = self.build_critic()
        self.value_norm = ValueNorm(config.value_norm_beta, config.value_norm_floor)
        self.actor_optimizer = self._adam(self.actor, config.lr)
        self.critic_optimizer = self._adam(self.critic, config.critic_lr)

    def build_actor(self) -> TeamActor:
        """Build the policy network; subclasses may choose another."""
        return Actor(self.config.actor, self.spec)

    def build_critic(self) -> Any:
        """Build the value network; subclasses may choose another."""
        return Critic(self.config.critic, self.spec)

    @property
    def entropy_weight(self) -> Tensor | float:
        """Present weight of the entropy bonus."""
        return self.config.entropy

    def update_statistics(self, obs: Tensor, state: Tensor) -> None:
        """Update running normalisers with real data.

        Never between collecting a rollout and updating on it: its log-probabilities would be of another policy.

        Args:
            obs: (..., N, O).
            state: (..., S).
        """
        self.actor.update_statistics(obs, self.spec.alive(state))
        self.critic.update_statistics(state)

    def update(
        self, rollout: Rollout, progress: float = 0.0, workers: int = 1, replayed: RealSteps | None = None
    ) -> dict[str, Tensor]:
        """Update actor and critic on a rollout.

        Args:
            rollout: collected by the current actor, as its ``log_prob`` says.
            progress: share of the run that is over, for the decay of learning rates.
            workers: processes that may be used; without effect on the results.
            replayed: as many real steps, which the critic learns from besides (DreamerV3's replay value loss, arXiv
                2301.04104): states before a fall get the value that they had, whether a model foresees it or not.

        Returns:
            Metrics, scalars still on the device; losses are averages over the gradient steps.
        """
        config = self.config
        decay = 1 - progress if config.linear_lr_decay else 1.0
        for optimizer, rate in ((self.actor_optimizer, config.lr), (self.critic_optimizer, config.critic_lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * decay
        batch, metrics = self.prepare(rollout)
        return metrics | self.run_epochs(batch, workers, None if replayed is None else self.value_batch(replayed))

    def run_epochs(self, batch: Batch, workers: int = 1, replayed: CriticBatch | None = None) -> dict[str, Tensor]:
        """Make every gradient step on a prepared batch; metrics are averages over the steps.

        Actor and critic share nothing but the order of the rows, so they may run in parallel.
        """
        order = list(self.minibatches(batch))
        actor_batch, critic_batch = batch.part(ActorBatch), batch.part(CriticBatch)

        def critic_step(rows: RowIndex) -> dict[str, Tensor]:
            if replayed is None:
                return self.critic_step(critic_batch[rows])
            return self.critic_step(critic_batch[rows], replayed[rows])

        learners: list[Learner] = [
            (self.actor, self.actor_optimizer, lambda rows: self.actor_step(actor_batch[rows])),
            (self.critic, self.critic_optimizer, critic_step),
        ]

        def train(learner: Learner, copy: bool) -> tuple[dict[str, Tensor], tuple[Any, Any] | None]:
            (network, optimizer, step), steps = learner, Average()
            for rows in order:
                steps.add(step(rows))
            return steps.values(), (network.state_dict(), optimizer.state_dict()) if copy else None

        metrics: dict[str, Tensor] = {}
        results = parallel_map([partial(train, learner) for learner in learners], workers)
        for (network, optimizer, _), (averages, states) in zip(learners, results, strict=True):
            metrics |= averages
            if states is not None:  # trained in a copy of this process
                network.load_state_dict(states[0])
                optimizer.load_state_dict(states[1])
        return metrics

    def actor_step(self, batch: ActorBatch) -> dict[str, Tensor]:
        """Make one gradient step of the actor; on a CPU gradients are accumulated over chunks of the batch."""
        rows = len(batch.advantage)
        chunk_rows = max(1, CPU_CHUNK_ROWS // self.spec.n_agents) if batch.advantage.device.type == "cpu" else rows
        average = Average()
        self.actor_optimizer.zero_grad(set_to_none=True)
        for first in range(0, rows, chunk_rows):
            chunk = batch[first : first + chunk_rows]
            loss, metrics = self.actor_loss(chunk)
            share = len(chunk.advantage) / rows
            (share * loss).backward()
            average.add(metrics, share)
        return average.values() | {"actor_grad_norm": self.apply_gradient(self.actor, self.actor_optimizer)}

    def critic_step(self, batch: CriticBatch, replayed: CriticBatch | None = None) -> dict[str, Tensor]:
        """Make one gradient step of the critic."""
        loss = self.critic_loss(batch)
        if replayed is not None:
            loss = loss + self.critic_loss(replayed)
        norm = self.gradient_step(self.critic, self.critic_optimizer, loss)
        return {"critic_grad_norm": norm, "value_loss": loss.detach()}

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, Tensor]]:
        """Compute returns, advantages and targets of a rollout (B, T), as B * T rows; updates ValueNorm once.

        The old values that the critic's loss clips around are the network's raw outputs. Converted to the updated
        ValueNorm, they would stop the critic from learning whenever the scale moves further than the clip.
        """
        config, action = self.config, blank(rollout.action, self.spec.alive(rollout.state))
        value, next_value = self.critic(
            torch.stack([rollout.state, rollout.next_state]), torch.stack([rollout.previous_action, action])
        )
        raw_value, raw_next = self.value_norm.denormalize(value), self.value_norm.denormalize(next_value)
        returns = lambda_returns(
            rollout.reward, rollout.continuation, rollout.boundary, raw_next, config.gamma, config.lam
        )
        weight, alive = torch.ones_like(returns), self.spec.alive(rollout.state)
        if config.survival_weights:
            weight = survival(rollout.continuation, rollout.boundary)
            weight = weight / weight.mean()
        agent_weight, row_weight = weight[..., None].expand_as(rollout.log_prob), weight
        if alive is not None:  # a row counts once for each agent that acts in it
            agent_weight = weight[..., None] * alive
            agent_weight = agent_weight / agent_weight.mean()
            row_weight, weight = agent_weight.mean(-1), weight * alive.any(-1)
            weight = weight / weight.mean()
        self.value_norm.update(returns)
        # published epsilons are in the reward's units; without a floor, they are in the critic's
        unit = 1.0 if config.value_norm_floor else self.value_norm.moments()[1]
        advantage = (returns - raw_value) / unit
        batch = Batch(
            obs=blank(rollout.obs, alive).flatten(0, 1),
            action_mask=rollout.action_mask.flatten(0, 1),
            action=action.flatten(0, 1),
            log_prob=blank(rollout.log_prob[..., None], alive)[..., 0].flatten(0, 1),
            advantage=standardize(advantage, row_weight).flatten(),
            agent_weight=agent_weight.flatten(0, 1),
            state=rollout.state.flatten(0, 1),
            previous_action=rollout.previous_action.flatten(0, 1),
            value=value.flatten(),
            target=self.value_norm.normalize(returns).flatten(),
            weight=weight.flatten(),
        )
        unexplained = advantage.var(correction=0) / (returns / unit).var(correction=0).clamp(min=1e-8)
        return batch, {"return": returns.mean(), "value": raw_value.mean(), "explained_variance": 1 - unexplained}

    @torch.no_grad()
    def value_batch(self, replayed: RealSteps) -> CriticBatch:
        """Targets of the critic at real steps (B, T), as B * T rows; ValueNorm stays as it is."""
        config = self.config
        value, next_value = self.critic(
            torch.stack([replayed.state, replayed.next_state]), torch.stack([replayed.previous_action, replayed.action])
        )
        returns = lambda_returns(
            replayed.reward,
            replayed.continuation,
            replayed.boundary,
            self.value_norm.denormalize(next_value),
            config.gamma,
            config.lam,
        )
        return CriticBatch(
            state=replayed.state.flatten(0, 1),
            previous_action=replayed.previous_action.flatten(0, 1),
            value=value.flatten(),
            target=self.value_norm.normalize(returns).flatten(),
            weight=replayed.weight.flatten(),
        )

    def actor_loss(self, batch: ActorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate loss minus the entropy bonus, and metrics; scalars."""
        policy = self.actor(batch.obs, batch.action_mask)
        log_prob = policy.log_prob(batch.action)
        if self.spec.agents_leave:  # the ratio of those who have left is 1
            log_prob = torch.where(batch.agent_weight > 0, log_prob, batch.log_prob)
        loss, metrics = ppo_policy_loss(log_prob, batch.log_prob, batch.advantage, self.config.clip, batch.agent_weight)
        entropy = (batch.agent_weight * policy.entropy()).mean()
        metrics |= {"policy_loss": loss.detach(), "entropy": entropy.detach()}
        return loss - self.entropy_weight * entropy, metrics

    def critic_loss(self, batch: CriticBatch) -> Tensor:
        """Clipped Huber loss of normalised values, a scalar."""
        clip = self.config.clip if self.config.value_clip is None else self.config.value_clip
        value = self.critic(batch.state, batch.previous_action)
        return clipped_value_loss(value, batch.value, batch.target, clip, HUBER_DELTA, batch.weight)

    def checkpoint(self) -> dict[str, Any]:
        """State for :meth:`restore`; its tensors are shared, not copied."""
        return {
            "networks": self.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }

    def restore(self, saved: dict[str, Any], learning: bool = True) -> None:
        """Continue exactly from a :meth:`checkpoint`; without ``learning``, the networks alone."""
        self.load_state_dict(saved["networks"])
        if learning:
            restore_optimizer(self.actor_optimizer, saved["actor_optimizer"])
            restore_optimizer(self.critic_optimizer, saved["critic_optimizer"])

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=lr, eps=ADAM_EPS, fused=True)

    def minibatches(self, batch: Batch) -> Iterator[RowIndex]:
        """Rows of equal minibatches in a new random order per epoch; left-over rows are dropped for the epoch."""
        rows = len(batch.advantage)
        parts = min(self.config.minibatches, rows)
        for _ in range(self.config.epochs):
            if parts == 1:
                yield slice(None)
                continue
            order = torch.randperm(rows, device=batch.advantage.device)
            yield from order[: rows // parts * parts].view(parts, -1)

    def gradient_step(self, module: nn.Module, optimizer: torch.optim.Adam, loss: Tensor) -> Tensor:
        """Make one gradient step on a loss; returns the gradient's norm before clipping."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return self.apply_gradient(module, optimizer)

    def apply_gradient(self, module: nn.Module, optimizer: torch.optim.Adam) -> Tensor:
        """Make one optimiser step along the accumulated gradient; returns its norm before clipping."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm or torch.inf)
        optimizer.step()
        return norm
