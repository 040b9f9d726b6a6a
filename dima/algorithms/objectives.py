"""Returns and losses of policy updates, as pure functions. B batch, T time, N agents."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(
    reward: Tensor, continuation: Tensor, boundary: Tensor, next_value: Tensor, gamma: float, lam: float
) -> Tensor:
    """Lambda-returns (B, T) within each episode of a rollout (docs/reference/dima.md, "Returns").

        G_t = r_t + gamma c_t ((1 - lam) V(s'_t) + lam G_{t+1})      inside an episode
        G_t = r_t + gamma c_t V(s'_t)                                at a boundary, and in the last column

    So a truncation bootstraps from the true final state (``boundary``, ``continuation`` 1), a termination does not
    bootstrap (``continuation`` 0). G - V is generalised advantage estimation (arXiv 1506.02438).

    Args:
        reward: (B, T).
        continuation: (B, T) probability c that the task does not terminate with this step.
        boundary: (B, T) bool, last step of an episode, terminated or truncated.
        next_value: (B, T) value V(s') of the true next state, in the reward's units.
        gamma: discount per step.
        lam: lambda, from 0 (one-step returns) to 1 (Monte Carlo).
    """
    discount = gamma * continuation
    trace = lam * (~boundary).to(reward.dtype)
    base = (reward + discount * (1 - trace) * next_value).unbind(1)
    factor = (discount * trace).unbind(1)
    last = reward[:, -1] + discount[:, -1] * next_value[:, -1]
    returns = [last]
    for t in range(reward.shape[1] - 2, -1, -1):
        last = torch.addcmul(base[t], factor[t], last)
        returns.append(last)
    return torch.stack(returns[::-1], dim=1)


def returns_so_far(reward: Tensor, boundary: Tensor, gamma: float, before: Tensor | None = None) -> Tensor:
    """Discounted sums (B, T) of an episode's rewards up to each step, the newest undiscounted.

    Their deviation is the scale of rewards in Gymnasium's ``NormalizeReward``.

    Args:
        reward: (B, T).
        boundary: (B, T) bool, last step of an episode.
        gamma: discount per step.
        before: (B,) the sums of episodes that began earlier, 0 where one starts anew; None: all do.
    """
    total, returns = torch.zeros_like(reward[:, 0]) if before is None else before, []
    for now, ended in zip(reward.unbind(1), boundary.unbind(1), strict=True):
        total = gamma * total + now
        returns.append(total)
        total = total * ~ended
    return torch.stack(returns, dim=1)


def survival(continuation: Tensor, boundary: Tensor) -> Tensor:
    """(B, T) probability that a step's episode has not terminated before it, within its segment of a rollout.

    The product of the continuations before the step (DreamerV2's loss weights, arXiv 2010.02193, without the discount);
    1 after a boundary, and everywhere in real rollouts. Arguments as of :func:`lambda_returns`.
    """
    weight = [torch.ones_like(continuation[:, 0])]
    for t in range(continuation.shape[1] - 1):
        weight.append(torch.where(boundary[:, t], 1.0, weight[-1] * continuation[:, t]))
    return torch.stack(weight, dim=1)


def standardize(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardise to weighted mean 0 and population standard deviation 1 over all entries."""
    mean = (weight * x).sum() / weight.sum()
    variance = (weight * (x - mean).square()).sum() / weight.sum()
    return (x - mean) / (variance.sqrt() + eps)


def ppo_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float, weight: Tensor | float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate loss, averaged over rows and agents (arXiv 1707.06347).

    Args:
        log_prob: (..., N) of each agent's whole action, under the current policy.
        old_log_prob: (..., N) the same under the policy that collected.
        advantage: (...) of the team, shared by its agents.
        clip: the ratio is clipped to [1 - clip, 1 + clip].
        weight: broadcast to (..., N), multiplies outside the clipping (a row's weight, HAPPO's correction factor).
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
    """Huber loss: ``e^2 / 2`` up to ``|e| = delta``, linear beyond."""
    size = error.abs()
    bounded = size.clamp(max=delta)
    return bounded * (size - 0.5 * bounded)


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, clip: float, delta: float, weight: Tensor | float = 1.0
) -> Tensor:
    """Mean Huber loss of values clipped around the old ones (docs/reference/baselines.md, "PPO losses").

    Args:
        value: (...) of the current critic; all in normalised units.
        old_value: (...) of the critic before the update.
        target: (...) normalised returns.
        clip: distance from ``old_value`` beyond which moving towards the target has no gradient.
        delta: error beyond which the Huber loss is linear.
        weight: (...) of each value.
    """
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return (weight * torch.maximum(huber(target - value, delta), huber(target - clipped, delta))).mean()
