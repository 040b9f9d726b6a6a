"""HASAC: off-policy, with entropy, agents improved one after another (arXiv 2306.10715; model-free section 7)."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dima.algorithms.base import Algorithm, AlgorithmConfig
from dima.config import Count, Fraction, NonNegative, Positive, Whole
from dima.data import EnvSpec, View
from dima.experience.collector import Collector, random_policy
from dima.experience.transitions import NStepBatch, Transitions
from dima.nn.optim import Average
from dima.policies.soft_actors import SoftActors, TwinCritic
from dima.runtime.progress import Progress


@dataclass(frozen=True)
class HasacConfig(AlgorithmConfig):
    """Soft actor-critic for a team: twin critics, a policy and a temperature for each agent, updates in turn."""

    hidden: tuple[Count, ...] = (256, 256)  # widths of every network
    capacity: Count = 1_000_000  # environment steps kept, whole moments of all environments; the oldest go first
    warmup: Whole = 10_000  # environment steps of random play before the first update
    interval: Count = 50  # steps of every environment between updates
    updates: Positive = 1.0  # gradient steps for each step that all environments make together
    batch: Count = 1_000  # stretches in a gradient step
    n_step: Count = 10  # rewards summed before the critic's own estimate
    gamma: Fraction = 0.99  # discount per step
    tau: Fraction = 0.005  # share of the critic that its target takes over per update
    lr: Positive = 1e-3  # the actors' learning rate
    critic_lr: Positive = 1e-3  # the critics' learning rate
    alpha: NonNegative | None = None  # temperature of everyone; unset: learnt, starting at 1
    alpha_lr: Positive = 3e-4  # learning rate of learnt temperatures
    choice_entropy: Fraction = 0.98  # share of the highest entropy that learnt temperatures keep for discrete actions
    fixed_order: bool = False  # agents learn in their own order instead of a new random one every time

    def build(self, spec: EnvSpec, device: str) -> Hasac:
        return Hasac(self, spec, device)

    def for_acting(self) -> HasacConfig:
        return replace(self, capacity=1)


class Hasac(Algorithm):
    """Actors, critics, temperatures, and everything lived through so far."""

    config: HasacConfig
    replay: Transitions

    def __init__(self, config: HasacConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec, self.device = config, spec, device
        self.actors = SoftActors(config.hidden, spec).to(device)
        self.critic = TwinCritic(config.hidden, spec).to(device)
        self.target = deepcopy(self.critic).requires_grad_(False)
        # one for each agent, and the last for the critic
        self.log_alpha = nn.ParameterList(
            nn.Parameter(torch.zeros((), device=device)) for _ in range(spec.n_agents + 1)
        )
        self.goals = [  # entropies to keep, nats
            config.choice_entropy * math.log(size) if spec.discrete else -float(size) for size in spec.action_sizes
        ]
        self.actor_optimizer = torch.optim.Adam(self.actors.parameters(), lr=config.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, fused=True)
        self.alpha_optimizer = torch.optim.Adam(self.log_alpha.parameters(), lr=config.alpha_lr, fused=True)
        self.replay = Transitions(config.capacity, spec, device)

    @property
    def team(self) -> nn.Module:
        return self.actors

    @torch.no_grad()
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        if mode:
            action = self.actors.mode_all(view.obs, view.action_mask)
            return action, torch.zeros(action.shape[:-1], device=action.device)
        return self.actors.draw_all(view.obs, view.action_mask)

    def iteration(self, collector: Collector, progress: Progress, done: float) -> dict[str, Tensor | float]:
        config, envs = self.config, collector.envs.n
        random = len(self.replay) == 0 and config.warmup > 0
        steps = max(1, config.warmup // envs) if random else config.interval
        with progress.phase("collect"):
            lived, returns = collector.live(random_policy(self.spec) if random else self.act, steps)
            self.replay.add(lived)
        metrics: dict[str, Tensor | float] = {}
        if not random:
            metrics |= self.update(round(config.updates * steps), progress)
        if returns:
            metrics["collect/return"] = float(np.mean(returns))
        return metrics

    def update(self, updates: int, progress: Progress) -> dict[str, Tensor]:
        """So many gradient steps of everything; metrics are averages."""
        config, steps = self.config, Average()
        with progress.phase("update", total=updates) as advance:
            for _ in range(updates):
                stretch = self.replay.sample(config.batch, config.n_step, config.gamma)
                steps.add(self.critic_step(stretch) | self.actor_steps(stretch))
                self._follow()
                advance()
        return {f"policy/{key}": value for key, value in steps.values().items()}

    # -- one gradient step ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def backup(self, stretch: NStepBatch) -> Tensor:
        """(R,) what the critics should say: rewards, then the lower target less the team's entropy cost."""
        action, log_prob = self.actors.draw_all(stretch.next_obs, stretch.next_mask)
        value = self.target(stretch.next_state, action).amin(0) - self.alpha(-1) * log_prob.sum(-1)
        return stretch.ret + stretch.discount * value

    def critic_step(self, stretch: NStepBatch) -> dict[str, Tensor]:
        """One step of both critics."""
        target = self.backup(stretch)
        value = self.critic(stretch.state, stretch.action)
        loss = (value - target).square().mean(-1).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return {"value_loss": loss.detach(), "value": value.detach().mean()}

    def actor_steps(self, stretch: NStepBatch) -> dict[str, Tensor]:
        """One step of every agent, each of which sees what those before it have become.

        An agent learns from the sample that those before it saw: its policy is still the same.
        """
        agents = self.spec.n_agents
        drawn = [self.actors.draw(agent, stretch.obs, stretch.action_mask) for agent in range(agents)]
        joint = torch.stack([action.detach() for action, _ in drawn], dim=1)
        losses = []
        order = list(range(agents)) if self.config.fixed_order else torch.randperm(agents).tolist()
        for agent in order:
            action, log_prob = drawn[agent]
            team = torch.cat([joint[:, :agent], action[:, None], joint[:, agent + 1 :]], dim=1)
            loss = (self.alpha(agent) * log_prob - self.critic.lower(stretch.state, team)).mean()
            self.actor_optimizer.zero_grad(set_to_none=True)  # Adam leaves alone what has no gradient
            loss.backward()
            self.actor_optimizer.step()
            if agent != order[-1]:  # nobody comes after the last
                with torch.no_grad():
                    joint[:, agent], _ = self.actors.draw(agent, stretch.obs, stretch.action_mask)
            losses.append(loss.detach())
        log_probs = torch.stack([log_prob.detach() for _, log_prob in drawn])  # (N, R)
        self._tune(log_probs.mean(1))
        return {
            "policy_loss": torch.stack(losses).mean(),
            "entropy": -log_probs.mean(),
            "alpha": torch.stack([self.alpha(agent) for agent in range(agents)]).mean(),
        }

    def alpha(self, which: int) -> Tensor:
        """The temperature of an agent, or of the critic (-1), without gradient."""
        if self.config.alpha is not None:
            return torch.tensor(self.config.alpha, device=self.device)
        return self.log_alpha[which].detach().exp()

    def _tune(self, log_prob: Tensor) -> None:
        """Raise a temperature where the entropy is below its goal, lower it where it is above; (N,) mean log-probs."""
        if self.config.alpha is not None:
            return
        excess = log_prob + torch.tensor(self.goals, device=self.device)
        loss = -(torch.stack([*self.log_alpha]) * torch.cat([excess, excess.sum(0, keepdim=True)])).sum()
        self.alpha_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.alpha_optimizer.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """The targets move a little towards the critics."""
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.tau)

    # -- saving ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        return {
            "networks": self.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "transitions": self.replay.checkpoint(),
        }

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.load_state_dict(saved["networks"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(deepcopy(state))  # it would go on working in the tensors it is given
        if chunks is not None:
            self.replay.restore(saved["transitions"], chunks)

    @property
    def _optimizers(self) -> tuple[torch.optim.Adam, ...]:
        return self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer
