"""The maths of policy updates: pure functions of tensors and numbers. B batch, T time, N agents."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(
    reward: Tensor, continuation: Tensor, boundary: Tensor, next_value: Tensor, gamma: float, lam: float
) -> Tensor:
    """Blend of all n-step returns within each stretch, (B, T) (DIMA section 6).

        G_t = r_t + gamma c_t ((1 - lam) V(s'_t) + lam G_{t+1})      inside a stretch
        G_t = r_t + gamma c_t V(s'_t)                                at a boundary, and in the last column

    So a time limit bootstraps from the true final state (``boundary``, ``continuation`` 1) and a termination from
    nothing (``continuation`` 0). G - V is generalised advantage estimation.

    Args:
        reward: (B, T).
        continuation: (B, T) probability c that the task goes on.
        boundary: (B, T) bool, the next column belongs to another episode.
        next_value: (B, T) value V(s') of the true next state, in the reward's units.
        gamma: discount per step.
        lam: how far to trust the sampled return, from 0 (one step) to 1 (Monte Carlo).
    """
    discount = gamma * continuation
    go_on = lam * (~boundary).to(reward.dtype)
    base = (reward + discount * (1 - go_on) * next_value).unbind(1)
    factor = (discount * go_on).unbind(1)
    last = reward[:, -1] + discount[:, -1] * next_value[:, -1]
    returns = [last]
    for t in range(reward.shape[1] - 2, -1, -1):
        last = torch.addcmul(base[t], factor[t], last)
        returns.append(last)
    return torch.stack(returns[::-1], dim=1)


def standardize(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean 0 and population standard deviation 1 over all entries."""
    return (x - x.mean()) / (x.std(correction=0) + eps)


def ppo_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float, weight: Tensor | float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate, averaged over rows and agents (model-free section 5).

    Args:
        log_prob: (..., N) of each agent's whole action, under the policy that is learning.
        old_log_prob: (..., N) the same under the policy that acted.
        advantage: (...) of the team, shared by its agents.
        clip: how far a probability ratio may move from 1 and still be rewarded for it.
        weight: broadcast to (..., N), multiplies outside the clipping (HAPPO's factor).
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    advantage = advantage[..., None]
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    loss = -(weight * surrogate).mean()
    with torch.no_grad():
        metrics = {
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
        }
    return loss, metrics


def huber(error: Tensor, delta: float) -> Tensor:
    """``e^2 / 2`` up to ``|e| = delta``, then straight on with that slope."""
    size = error.abs()
    bounded = size.clamp(max=delta)
    return bounded * (size - 0.5 * bounded)


def clipped_value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float, delta: float) -> Tensor:
    """Huber loss whose reward for leaving the old value ends at ``clip``, averaged (model-free section 5).

    Args:
        value: (...) the critic now; all in its own, normalised units.
        old_value: (...) the critic before the update.
        target: (...) what it should say.
        clip: distance from ``old_value`` up to which moving towards the target pays.
        delta: where the Huber loss turns straight.
    """
    held = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(huber(target - value, delta), huber(target - held, delta)).mean()
