"""HASAC: soft actor-critic with sequential updates of the agents (Liu et al. 2023, arXiv 2306.10715).

Replay, critic step, actor step and loop: docs/reference/baselines.md, "HASAC".
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dima.algorithms.base import Algorithm, AlgorithmConfig, Metrics
from dima.algorithms.objectives import returns_so_far
from dima.config import Count, Fraction, NonNegative, Positive, Whole
from dima.data import EnvSpec, TransitionBatch, blank
from dima.experience.collector import Collector
from dima.experience.episodes import random_policy
from dima.experience.transitions import NStepBatch, Transitions
from dima.nn.normalizer import TINY, UNSCALED, Normalizer
from dima.nn.optim import Average, restore_optimizer
from dima.policies.base import Policy
from dima.policies.soft_actors import SoftActors, TwinCritic
from dima.runtime.progress import Progress


@dataclass(frozen=True)
class HasacConfig(AlgorithmConfig):
    """HASAC: twin critics, a policy and a temperature per agent, sequential updates."""

    hidden: tuple[Count, ...] = (256, 256)  # widths of every network
    capacity: Count = 1_000_000  # environment steps in the replay, rounded down to whole steps of all environments
    warmup: Whole = 10_000  # environment steps of uniformly random actions before the first update
    interval: Count = 50  # steps of each environment between two blocks of updates
    updates: Positive = 1.0  # gradient steps per step of the vector of environments
    batch: Count = 1_000  # n-step transitions per gradient step
    n_step: Count = 10  # rewards summed before bootstrapping
    gamma: Fraction = 0.99  # discount per step
    tau: Fraction = 0.005  # step of the Polyak average of the target critics
    lr: Positive = 1e-3  # the actors' learning rate
    critic_lr: Positive = 1e-3  # the critics' learning rate
    alpha: NonNegative | None = None  # fixed temperature; unset: learnt
    alpha_start: Positive = 1.0  # where learnt temperatures start; with normalised rewards much less
    alpha_lr: Positive = 3e-4  # learning rate of learnt temperatures
    choice_entropy: Fraction = 0.98  # target entropy of discrete actions, as a share of the maximum
    fixed_order: bool = False  # update agents in their own order; else in a new random order per gradient step
    normalize_obs: bool = False  # standardise observations and states by their running mean and deviation
    normalize_reward: bool = False  # divide rewards by the running deviation of discounted returns

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return {} if self.normalize_reward else {"--learner.normalize-reward": UNSCALED}

    def build(self, spec: EnvSpec, device: str) -> Hasac:
        return Hasac(self, spec, device)

    @property
    def first_steps(self) -> int:
        return self.warmup

    def for_acting(self) -> HasacConfig:
        return replace(self, capacity=1)


class Hasac(Algorithm):
    """Actors, twin critics, temperatures and replay."""

    config: HasacConfig
    replay: Transitions

    def __init__(self, config: HasacConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec, self.device = config, spec, device
        self.actors = SoftActors(config.hidden, spec, config.normalize_obs).to(device)
        self.critic = TwinCritic(config.hidden, spec).to(device)
        self.target = deepcopy(self.critic).requires_grad_(False)
        # one per agent, and the critic's last
        self.log_alpha = nn.ParameterList(
            nn.Parameter(torch.tensor(math.log(config.alpha_start), device=device)) for _ in range(spec.n_agents + 1)
        )
        self.target_entropies = [  # nats
            config.choice_entropy * math.log(size) if spec.discrete else -float(size) for size in spec.action_sizes
        ]
        self.actor_optimizer = torch.optim.Adam(self.actors.parameters(), lr=config.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, fused=True)
        self.alpha_optimizer = torch.optim.Adam(self.log_alpha.parameters(), lr=config.alpha_lr, fused=True)
        self.state_scale = Normalizer((spec.state_dim,)).to(device) if config.normalize_obs else None
        self.return_scale = Normalizer((), least=TINY).to(device) if config.normalize_reward else None
        self._returns: Tensor | None = None  # (B,) discounted, of the unfinished episodes
        self.replay = Transitions(config.capacity, spec, device)
        self._updates = 0  # gradient steps due in this iteration

    @property
    def policy(self) -> Policy:
        return self.actors

    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        config = self.config
        warmup = len(self.replay) == 0 and config.warmup > 0
        steps = max(1, config.warmup // collector.envs.n) if warmup else config.interval
        with progress.phase("collect"):
            transitions, returns = collector.transitions(random_policy(self.spec) if warmup else self.act, steps)
            self.replay.add(transitions)
            self.update_statistics(transitions)
        self._updates = 0 if warmup else round(config.updates * steps)
        return {"collect/return": float(np.mean(returns))} if returns else {}

    def update_policy(self, progress: Progress, done: float) -> Metrics:
        if not self._updates:
            return {}
        average = Average()
        with progress.phase("update", total=self._updates) as advance:
            for _ in range(self._updates):
                batch = self.sample()
                average.add(self.critic_step(batch) | self.actor_steps(batch))
                self.polyak_update()
                advance()
        return {f"policy/{key}": value for key, value in average.values().items()}

    def update_statistics(self, transitions: TransitionBatch) -> None:
        """Update running normalisers with the real transitions that follow the last ones, (B, T)."""
        self.actors.update_statistics(transitions.obs, self.spec.alive(transitions.state))
        if self.state_scale is not None:
            self.state_scale.update(transitions.state)
        if self.return_scale is not None:
            returns = returns_so_far(transitions.reward, transitions.boundary, self.config.gamma, self._returns)
            self.return_scale.update(returns)
            self._returns = returns[:, -1] * ~transitions.boundary[:, -1]

    # -- one gradient step ----------------------------------------------------------------------------------------

    def sample(self) -> NStepBatch:
        """Draw a batch, its returns in the critics' units."""
        batch = self.replay.sample(self.config.batch, self.config.n_step, self.config.gamma)
        if self.return_scale is not None:
            batch = replace(batch, returns=batch.returns / self.return_scale.scale)
        return batch

    def scale_state(self, state: Tensor) -> Tensor:
        """States (R, S) in the critics' units."""
        return state if self.state_scale is None else self.state_scale(state)

    @torch.no_grad()
    def target_value(self, batch: NStepBatch) -> Tensor:
        """Critics' target (R,): n-step return, then the smaller target value with the team's entropy bonus."""
        alive = self.spec.alive(batch.next_state)
        action, log_prob = self.actors.sample(blank(batch.next_obs, alive), batch.next_mask)
        if alive is not None:
            action, log_prob = blank(action, alive), torch.where(alive, log_prob, 0.0)
        value = self.target(self.scale_state(batch.next_state), action).amin(0) - self.alpha(-1) * log_prob.sum(-1)
        return batch.returns + batch.discount * value

    def critic_step(self, batch: NStepBatch) -> dict[str, Tensor]:
        """Make one gradient step of both critics."""
        target = self.target_value(batch)
        value = self.critic(self.scale_state(batch.state), blank(batch.action, self.spec.alive(batch.state)))
        loss = (value - target).square().mean(-1).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return {"value_loss": loss.detach(), "value": value.detach().mean()}

    def actor_steps(self, batch: NStepBatch) -> dict[str, Tensor]:
        """Make one gradient step of each agent in turn, given the updated policies of those before it.

        Actions are sampled once for all agents, as an agent's policy does not change before its own step; after it, its
        action is sampled anew for the agents that follow. An agent that has left acts zero, and its rows are left out.
        """
        agents, state, alive = self.spec.n_agents, self.scale_state(batch.state), self.spec.alive(batch.state)
        obs, mask, losses = blank(batch.obs, alive), batch.action_mask, []
        weight = None if alive is None else alive / alive.float().mean(0).clamp(min=TINY)  # (R, N), 1 on average
        samples = [self.actors.sample_agent(agent, obs, mask) for agent in range(agents)]
        joint = blank(torch.stack([action.detach() for action, _ in samples], dim=1), alive)
        order = list(range(agents)) if self.config.fixed_order else torch.randperm(agents).tolist()
        for agent in order:
            if alive is not None and not alive[:, agent].any():
                continue
            action, log_prob = samples[agent]
            joint_action = torch.cat([joint[:, :agent], action[:, None], joint[:, agent + 1 :]], dim=1)
            loss = self.alpha(agent) * log_prob - self.critic.min_value(state, blank(joint_action, alive))
            loss = loss.mean() if weight is None else (weight[:, agent] * loss).mean()
            self.actor_optimizer.zero_grad(set_to_none=True)  # Adam skips parameters without gradient
            loss.backward()
            self.actor_optimizer.step()
            if agent != order[-1]:
                with torch.no_grad():
                    joint[:, agent], _ = self.actors.sample_agent(agent, obs, mask)
                    joint = blank(joint, alive)
            losses.append(loss.detach())
        log_probs = torch.stack([log_prob.detach() for _, log_prob in samples])  # (N, R)
        if weight is not None:
            log_probs = log_probs * weight.T
        self.temperature_step(log_probs.mean(1), None if alive is None else alive.any(0))
        return {
            "policy_loss": torch.stack(losses).mean(),
            "entropy": -log_probs.mean(),
            "alpha": torch.stack([self.alpha(agent) for agent in range(agents)]).mean(),
        }

    def alpha(self, which: int) -> Tensor:
        """Temperature of an agent, or of the critic (-1), without gradient."""
        if self.config.alpha is not None:
            return torch.tensor(self.config.alpha, device=self.device)
        return self.log_alpha[which].detach().exp()

    def temperature_step(self, log_prob: Tensor, present: Tensor | None = None) -> None:
        """Move learnt temperatures towards their target entropies.

        Args:
            log_prob: (N,) mean log-probabilities.
            present: (N,) bool, agents that have any; None: all.
        """
        if self.config.alpha is not None:
            return
        excess = log_prob + torch.tensor(self.target_entropies, device=self.device)
        if present is not None:
            excess = excess * present
        loss = -(torch.stack([*self.log_alpha]) * torch.cat([excess, excess.sum(0, keepdim=True)])).sum()
        self.alpha_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.alpha_optimizer.step()

    @torch.no_grad()
    def polyak_update(self) -> None:
        """Move the target critics towards the critics by ``tau``."""
        for target, weight in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            target.lerp_(weight, self.config.tau)

    # -- saving ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        return {
            "networks": self.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "transitions": self.replay.checkpoint(),
            "returns": self._returns,
        }

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.load_state_dict(saved["networks"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
            restore_optimizer(optimizer, state)
        if chunks is not None:
            self.replay.restore(saved["transitions"], chunks)
        if self.return_scale is not None:
            self._returns = None if saved["returns"] is None else saved["returns"].to(self.device)

    @property
    def _optimizers(self) -> tuple[torch.optim.Adam, ...]:
        return self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer
