"""Action distributions of a team; padded action entries have no effect."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED_LOGIT = -1e10  # logit of a masked choice; finite, so that entropies are
BETA_MARGIN = 1e-6  # distance of Beta samples from the ends of the unit interval, where densities vanish


class ActionDistribution(ABC):
    """Independent action distributions of the agents of a team."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Sample actions (..., N, A), zero on padding, without gradient."""

    @abstractmethod
    def mode(self) -> Tensor:
        """Most probable actions (..., N, A), zero on padding."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density or log-probability of each agent's whole action, (..., N, A) -> (..., N)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy (..., N) in nats, summed over action features."""


@dataclass
class Gaussian(ActionDistribution):
    """Diagonal Gaussian, unbounded: the environment adapter clips actions to [-1, 1]."""

    mean: Tensor  # (..., N, A)
    std: Tensor  # broadcasts to (..., N, A)
    valid: Tensor  # (N, A) float, 1 on real entries

    @torch.no_grad()
    def sample(self) -> Tensor:
        return (self.mean + self.std * torch.randn_like(self.mean)) * self.valid

    def mode(self) -> Tensor:
        return self.mean.detach() * self.valid

    def log_prob(self, action: Tensor) -> Tensor:
        score = (action - self.mean) / self.std
        density = -0.5 * score.square() - (self.std.log() + 0.5 * math.log(2 * math.pi))
        return (density * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        per_entry = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return (per_entry * self.valid).sum(-1).expand(self.mean.shape[:-1])


@dataclass
class Beta(ActionDistribution):
    """Independent Beta distributions scaled to [-1, 1]; unimodal, as both parameters are above 1."""

    alpha: Tensor  # (..., N, A)
    beta: Tensor  # (..., N, A)
    valid: Tensor  # (N, A) float, 1 on real entries

    @torch.no_grad()
    def sample(self) -> Tensor:
        unit = torch.distributions.Beta(self.alpha, self.beta, validate_args=False).sample()
        return (2 * unit.clamp(BETA_MARGIN, 1 - BETA_MARGIN) - 1) * self.valid

    def mode(self) -> Tensor:
        alpha, beta = self.alpha.detach(), self.beta.detach()
        # softplus may underflow, and both are 1: the density is then uniform, and its middle serves as the mode
        unit = (alpha - 1 + BETA_MARGIN) / (alpha + beta - 2 + 2 * BETA_MARGIN)
        return (2 * unit.clamp(BETA_MARGIN, 1 - BETA_MARGIN) - 1) * self.valid

    def log_prob(self, action: Tensor) -> Tensor:
        unit = ((action + 1) / 2).clamp(BETA_MARGIN, 1 - BETA_MARGIN)
        density = (self.alpha - 1) * unit.log() + (self.beta - 1) * (-unit).log1p() - self._log_volume()
        return (density * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        alpha, beta = self.alpha, self.beta
        both = (alpha + beta - 2) * (alpha + beta).digamma()
        per_entry = self._log_volume() - (alpha - 1) * alpha.digamma() - (beta - 1) * beta.digamma() + both
        return (per_entry * self.valid).sum(-1)

    def _log_volume(self) -> Tensor:
        return self.alpha.lgamma() + self.beta.lgamma() - (self.alpha + self.beta).lgamma() + math.log(2)


class Categorical(ActionDistribution):
    """One-hot choice of each agent, with masking.

    Args:
        logits: (..., N, A).
        allowed: broadcasts to (..., N, A), bool; at least one choice per agent is allowed.
        valid: (N, A) float, 1 on real entries.
    """

    def __init__(self, logits: Tensor, allowed: Tensor, valid: Tensor) -> None:
        self.valid = valid
        self.log_probs = torch.where(allowed, logits, MASKED_LOGIT).log_softmax(-1)

    @torch.no_grad()
    def sample(self) -> Tensor:
        # Gumbel-max trick in its exponential form: argmax p / e with e ~ Exp(1); a masked choice has p = 0
        exponential = torch.empty_like(self.log_probs).exponential_().clamp_(min=1e-20)
        return self._one_hot((self.log_probs.exp() / exponential).argmax(-1, keepdim=True))

    def mode(self) -> Tensor:
        return self._one_hot(self.log_probs.argmax(-1, keepdim=True))

    def log_prob(self, action: Tensor) -> Tensor:
        return (self.log_probs * (action * self.valid)).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def _one_hot(self, choice: Tensor) -> Tensor:
        return torch.zeros_like(self.log_probs).scatter_(-1, choice, 1.0)


@dataclass
class PerAgent(ActionDistribution):
    """Concatenated distributions of agents with separate policies."""

    parts: list[ActionDistribution]  # of one agent each, in order, without padding
    sizes: tuple[int, ...]  # action entries of each agent

    def sample(self) -> Tensor:
        return self._joint([part.sample() for part in self.parts])

    def mode(self) -> Tensor:
        return self._joint([part.mode() for part in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        agents = zip(self.parts, action.split(1, dim=-2), self.sizes, strict=True)
        return torch.cat([part.log_prob(own[..., :size]) for part, own, size in agents], dim=-1)

    def entropy(self) -> Tensor:
        return torch.cat([part.entropy() for part in self.parts], dim=-1)

    def _joint(self, actions: list[Tensor]) -> Tensor:
        widest = max(self.sizes)
        return torch.cat([F.pad(action, (0, widest - action.shape[-1])) for action in actions], dim=-2)
