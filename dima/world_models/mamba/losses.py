"""Losses of the world model, as pure functions (docs/reference/mamba.md, "Model loss"). B batch, T time, N agents."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(
    predicted: Tensor, obs: Tensor, valid: Tensor, real: Tensor, over_features: Literal["mean", "sum"] = "sum"
) -> Tensor:
    """Smooth L1 of observations, averaged over all rows and agents, real or not.

    Args:
        predicted: (B, T, N, O).
        obs: (B, T, N, O).
        valid: (N, O), 1 for real features.
        real: (B, T, N), 1 where an agent observes something; elsewhere there is no error.
        over_features: how the errors of an observation become one.
    """
    error = (F.smooth_l1_loss(predicted, obs, reduction="none") * valid).sum(-1) * real
    if over_features == "mean":
        error = error / valid.sum(-1)
    return error.mean()


def information_loss(predicted: Tensor, action: Tensor, valid: Tensor, known: Tensor, discrete: bool) -> Tensor:
    """Negative log-likelihood of the actions that led to latents, averaged over all rows and agents.

    Cross entropy of choices; of continuous actions that of a Gaussian of variance 1, up to a constant.

    Args:
        predicted: (B, T, N, A) logits or means.
        action: (B, T, N, A) one-hot or real.
        valid: (N, A) bool, real entries.
        known: (B, T, 1) or (B, T, N), 1 where an action led there.
        discrete: whether actions are choices.
    """
    if discrete:
        log_prob = predicted.masked_fill(~valid, torch.finfo(predicted.dtype).min).log_softmax(-1)
        error = -torch.where(action > 0, log_prob, 0.0).sum(-1)
    else:
        error = 0.5 * ((predicted - action).square() * valid).sum(-1)
    return (error * known).mean()


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values`` (B, T, N) over rows of ``weight`` (B, T) 1; 0 if there are none."""
    return (values * weight[..., None]).sum() / (weight.sum() * values.shape[-1]).clamp(min=1)
