"""PPO for a team: shared actor, central critic, scaled values (DIMA section 6, model-free sections 3 to 6).

One update on a :class:`~dima.data.Rollout`, real or imagined; where the rollout comes from is the caller's concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dima.algorithms.objectives import clipped_value_loss, lambda_returns, ppo_policy_loss, standardize
from dima.config import Config, Count, Fraction, NonNegative, Positive, Range
from dima.data import EnvSpec, Record, Rollout
from dima.nn.optim import Average
from dima.policies.actors import Actor, ActorConfig, TeamActor
from dima.policies.critics import Critic, CriticConfig, ValueNorm
from dima.runtime.fork import parallel_map

CPU_CHUNK_ROWS = 4096  # agents' rows whose activations a CPU's cache holds until the way back


@dataclass(frozen=True)
class PPOConfig(Config):
    """How a team learns from a rollout; the defaults are the published DIMA settings."""

    actor: ActorConfig = ActorConfig()
    critic: CriticConfig = CriticConfig()
    gamma: Fraction = 0.99  # discount per step
    lam: Fraction = 0.95  # trust in sampled returns, from 0 (one step) to 1 (Monte Carlo)
    clip: Positive = 0.1  # how far a policy ratio may move from 1
    value_clip: Positive | None = None  # how far a normalised value may move; unset: as clip
    epochs: Count = 5  # passes over the rollout
    minibatches: Count = 1  # gradient steps per pass
    entropy: NonNegative = 0.001  # weight of the entropy bonus; 0.01 suits beta
    huber_delta: Positive = 10.0  # normalised value error beyond which the loss is straight
    max_grad_norm: NonNegative = 10.0  # gradients are scaled down to this norm; 0 leaves them
    lr: Positive = 5e-4  # the actor's learning rate
    critic_lr: Positive = 5e-4  # the critic's learning rate
    adam_eps: Positive = 1e-5  # Adam's epsilon, both networks
    linear_lr_decay: bool = False  # let both learning rates fall to 0 over the run
    value_norm_beta: Annotated[float, Range(0, 0.999999999)] = 0.99999  # return scale kept per update; less: faster

    def build(self, spec: EnvSpec) -> PPO:
        return PPO(self, spec)


@dataclass
class ActorBatch(Record):
    """Independent rows of a rollout, R of them, as the actor learns from them."""

    obs: Tensor  # (R, N, O)
    action_mask: Tensor  # (R, N, A) bool
    action: Tensor  # (R, N, A)
    log_prob: Tensor  # (R, N)
    advantage: Tensor  # (R,) standardised


@dataclass
class CriticBatch(Record):
    """The same rows as the critic learns from them."""

    state: Tensor  # (R, S)
    previous_action: Tensor  # (R, N, A)
    value: Tensor  # (R,) the critic before the update, normalised units
    target: Tensor  # (R,) return, normalised units


@dataclass
class Batch(CriticBatch, ActorBatch):
    """Rows of a rollout with their targets."""


Picked = Tensor | slice  # rows of a minibatch
Learner = tuple[nn.Module, torch.optim.Adam, Callable[[Picked], dict[str, Tensor]]]  # who learns by what steps


class PPO(nn.Module):
    """A team that acts and learns: actor, critic, value scale and their optimisers."""

    def __init__(self, config: PPOConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.actor: TeamActor = self.build_actor()
        self.critic = Critic(config.critic, spec)
        self.value_norm = ValueNorm(config.value_norm_beta)
        self.actor_optimizer = self._adam(self.actor, config.lr)
        self.critic_optimizer = self._adam(self.critic, config.critic_lr)

    def build_actor(self) -> TeamActor:
        """The networks that choose actions."""
        return Actor(self.config.actor, self.spec)

    @torch.no_grad()
    def act(self, obs: Tensor, action_mask: Tensor, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Choose a joint action.

        Args:
            obs: (..., N, O).
            action_mask: (..., N, A) bool.
            mode: take the most probable action instead of drawing one.

        Returns:
            Actions (..., N, A), Gaussian ones unbounded, and their log-probabilities (..., N).
        """
        policy = self.actor(obs, action_mask)
        action = policy.mode() if mode else policy.sample()
        return action, policy.log_prob(action)

    def update_statistics(self, obs: Tensor, state: Tensor) -> None:
        """Let running normalisers see new real data. Not between acting and updating on what was done.

        Args:
            obs: (..., N, O).
            state: (..., S).
        """
        self.actor.update_statistics(obs)
        self.critic.state_scale.update(state)

    def update(self, rollout: Rollout, progress: float = 0.0, workers: int = 1) -> dict[str, Tensor]:
        """Learn from a rollout.

        Args:
            rollout: what the team did, with ``log_prob`` of the present actor.
            progress: share of the run that is over, for the decay of learning rates.
            workers: processes that may be at work; without effect on the results.

        Returns:
            Metrics, scalars still on the device; losses are averages over the gradient steps.
        """
        config = self.config
        decay = 1 - progress if config.linear_lr_decay else 1.0
        for optimizer, rate in ((self.actor_optimizer, config.lr), (self.critic_optimizer, config.critic_lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * decay
        batch, metrics = self.prepare(rollout)
        return metrics | self.run_epochs(batch, workers)

    def run_epochs(self, batch: Batch, workers: int = 1) -> dict[str, Tensor]:
        """Every gradient step on a prepared batch; metrics are averages over the steps.

        Actor and critic have nothing in common but the order of the rows, so each goes its own way.
        """
        order = list(self.minibatches(batch))
        acted, valued = batch.part(ActorBatch), batch.part(CriticBatch)
        learners: list[Learner] = [
            (self.actor, self.actor_optimizer, lambda picked: self.actor_step(acted[picked])),
            (self.critic, self.critic_optimizer, lambda picked: self.critic_step(valued[picked])),
        ]

        def learn(learner: Learner, copy: bool) -> tuple[dict[str, Tensor], tuple[Any, Any] | None]:
            (network, optimizer, step), steps = learner, Average()
            for picked in order:
                steps.add(step(picked))
            return steps.values(), (network.state_dict(), optimizer.state_dict()) if copy else None

        metrics: dict[str, Tensor] = {}
        answers = parallel_map([partial(learn, learner) for learner in learners], workers)
        for (network, optimizer, _), (told, changed) in zip(learners, answers, strict=True):
            metrics |= told
            if changed is not None:
                network.load_state_dict(changed[0])
                optimizer.load_state_dict(changed[1])
        return metrics

    def actor_step(self, batch: ActorBatch) -> dict[str, Tensor]:
        """One gradient step of the actor; on a CPU its gradient is summed over pieces of the batch."""
        rows = len(batch.advantage)
        piece = max(1, CPU_CHUNK_ROWS // self.spec.n_agents) if batch.advantage.device.type == "cpu" else rows
        parts = Average()
        self.actor_optimizer.zero_grad(set_to_none=True)
        for first in range(0, rows, piece):
            some = batch[first : first + piece]
            loss, told = self.actor_loss(some)
            share = len(some.advantage) / rows
            (share * loss).backward()
            parts.add(told, share)
        return parts.values() | {"actor_grad_norm": self.apply_gradient(self.actor, self.actor_optimizer)}

    def critic_step(self, batch: CriticBatch) -> dict[str, Tensor]:
        """One gradient step of the critic."""
        loss = self.critic_loss(batch)
        norm = self.step(self.critic, self.critic_optimizer, loss)
        return {"critic_grad_norm": norm, "value_loss": loss.detach()}

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, Tensor]]:
        """Returns, advantages and targets of a rollout (B, T), as B * T rows; moves the value scale once.

        The critic's clipping starts from what the network says now, in whatever units: were old values translated
        to the new scale, a scale that moved further than the clip would stop the critic from learning.
        """
        config = self.config
        value, next_value = self.critic(
            torch.stack([rollout.state, rollout.next_state]), torch.stack([rollout.previous_action, rollout.action])
        )
        real_value, real_next = self.value_norm.denormalize(value), self.value_norm.denormalize(next_value)
        returns = lambda_returns(
            rollout.reward, rollout.continuation, rollout.boundary, real_next, config.gamma, config.lam
        )
        advantage = returns - real_value
        self.value_norm.update(returns)
        batch = Batch(
            obs=rollout.obs.flatten(0, 1),
            action_mask=rollout.action_mask.flatten(0, 1),
            action=rollout.action.flatten(0, 1),
            log_prob=rollout.log_prob.flatten(0, 1),
            advantage=standardize(advantage).flatten(),
            state=rollout.state.flatten(0, 1),
            previous_action=rollout.previous_action.flatten(0, 1),
            value=value.flatten(),
            target=self.value_norm.normalize(returns).flatten(),
        )
        unexplained = advantage.var(correction=0) / returns.var(correction=0).clamp(min=1e-8)
        return batch, {"return": returns.mean(), "value": real_value.mean(), "explained_variance": 1 - unexplained}

    def actor_loss(self, batch: ActorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate less the entropy bonus, a scalar."""
        policy = self.actor(batch.obs, batch.action_mask)
        loss, metrics = ppo_policy_loss(
            policy.log_prob(batch.action), batch.log_prob, batch.advantage, self.config.clip
        )
        entropy = policy.entropy().mean()
        metrics |= {"policy_loss": loss.detach(), "entropy": entropy.detach()}
        return loss - self.config.entropy * entropy, metrics

    def critic_loss(self, batch: CriticBatch) -> Tensor:
        """Clipped Huber loss of the normalised values, a scalar."""
        clip = self.config.clip if self.config.value_clip is None else self.config.value_clip
        value = self.critic(batch.state, batch.previous_action)
        return clipped_value_loss(value, batch.value, batch.target, clip, self.config.huber_delta)

    def checkpoint(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs; its tensors are the live ones."""
        return {
            "networks": self.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on exactly where :meth:`checkpoint` was taken."""
        self.load_state_dict(saved["networks"])
        # copies: an optimiser would go on working in the tensors it is given
        self.actor_optimizer.load_state_dict(deepcopy(saved["actor_optimizer"]))
        self.critic_optimizer.load_state_dict(deepcopy(saved["critic_optimizer"]))

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=lr, eps=self.config.adam_eps, fused=True)

    def minibatches(self, batch: Batch) -> Iterator[Picked]:
        """Each epoch's rows in random order, in equal parts; the rows that are left over wait for another epoch."""
        rows = len(batch.advantage)
        parts = min(self.config.minibatches, rows)
        for _ in range(self.config.epochs):
            if parts == 1:
                yield slice(None)
                continue
            order = torch.randperm(rows, device=batch.advantage.device)
            yield from order[: rows // parts * parts].view(parts, -1)

    def step(self, module: nn.Module, optimizer: torch.optim.Adam, loss: Tensor) -> Tensor:
        """One gradient step; returns the gradient's norm before clipping."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return self.apply_gradient(module, optimizer)

    def apply_gradient(self, module: nn.Module, optimizer: torch.optim.Adam) -> Tensor:
        """Go along the gradient that is there; returns its norm before clipping."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm or torch.inf)
        optimizer.step()
        return norm
