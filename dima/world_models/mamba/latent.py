"""Latent states of agents: categorical variables, and the loss that keeps prior and posterior together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PROBABILITY_EPS = 1e-7  # added to probabilities inside logarithms


@dataclass
class Latent:
    """What the model knows of each agent at a time step, and what the team's view of it needs besides."""

    stochastic: Tensor  # (B, N, C * K) one-hot choices of C categorical variables, side by side
    deterministic: Tensor  # (B, N, D)
    action_mask: Tensor  # (B, N, A) bool, allowed now
    previous_action: Tensor  # (B, N, A) joint action that led here


def features(stochastic: Tensor, deterministic: Tensor) -> Tensor:
    """What networks see of a latent, (..., C * K + D)."""
    return torch.cat([stochastic, deterministic], dim=-1)


def sample(logits: Tensor) -> Tensor:
    """Draw one-hot choices (..., C, K), with the gradient of the probabilities (straight-through)."""
    probability = logits.float().softmax(-1)
    # by the inverse of the distribution function: one random number for a choice, not one for each class
    reached = probability.detach().cumsum(-1)
    drawn = torch.rand_like(reached[..., :1]) * reached[..., -1:]
    choice = (reached < drawn).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return _one_hot(choice, probability) + (probability - probability.detach())


def mode(logits: Tensor) -> Tensor:
    """The most probable choices, one-hot (..., C, K)."""
    return _one_hot(logits.argmax(-1, keepdim=True), logits.float())


def _one_hot(choice: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(-1, choice, 1.0)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(p || q) of categorical variables, (..., C, K) twice -> (..., C)."""
    p, q = logits.float().softmax(-1), other.float().softmax(-1)
    return (p * ((p + PROBABILITY_EPS).log() - (q + PROBABILITY_EPS).log())).sum(-1)


def balanced_kl(
    posterior: Tensor, prior: Tensor, balance: float, over_variables: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """KL(posterior || prior) whose gradient moves the prior more than the posterior (arXiv 2010.02193, section 2.2).

    Args:
        posterior: (..., C, K) logits.
        prior: (..., C, K) logits.
        balance: share of the gradient that goes to the prior.
        over_variables: how the C divergences become one.

    Returns:
        (...).
    """
    divergence = (1 - balance) * kl_divergence(posterior, prior.detach())
    divergence = divergence + balance * kl_divergence(posterior.detach(), prior)
    return divergence.mean(-1) if over_variables == "mean" else divergence.sum(-1)
