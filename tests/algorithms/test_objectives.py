"""Returns and losses against hand-computed and brute-force values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dima.algorithms.objectives import (
    clipped_value_loss,
    huber,
    lambda_returns,
    ppo_policy_loss,
    returns_so_far,
    standardize,
    survival,
)

REWARD = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
VALUE = torch.tensor([[0.5, 0.4, 0.3, 0.2]])
NEXT = torch.tensor([[0.4, 0.3, 0.2, 0.1]])


def brute_force(r: Tensor, c: Tensor, boundary: Tensor, v: Tensor, gamma: float, lam: float) -> Tensor:
    """The definition: a weighted mean of the n-step returns up to the end of the episode, entry by entry."""
    out = torch.zeros_like(r)
    batch, length = r.shape
    for b in range(batch):
        for t in range(length):
            end = next((e for e in range(t, length) if boundary[b, e]), length - 1)
            discount, total, n_step = 1.0, 0.0, []
            for k in range(t, end + 1):
                total += discount * float(r[b, k])
                discount *= gamma * float(c[b, k])
                n_step.append(total + discount * float(v[b, k]))
            count = len(n_step)
            weights = [(1 - lam) * lam**n for n in range(count - 1)] + [lam ** (count - 1)]
            out[b, t] = sum(w * g for w, g in zip(weights, n_step, strict=True))
    return out


def rollout(seed: int, batch: int = 3, length: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, batch, length, generator=generator, dtype=torch.float64)
    chance, end = torch.rand(2, batch, length, generator=generator, dtype=torch.float64)
    return reward, torch.where(chance < 0.2, 0.0, chance), (chance < 0.2) | (end < 0.2), value


@pytest.mark.parametrize(
    ("continuation", "boundary", "advantage"),
    [
        ([1.0, 1, 1, 1], [0, 0, 0, 1], [5.151327, 5.960176, 5.6808, 3.89]),
        ([1.0, 0, 1, 1], [0, 1, 0, 1], [2.012, 1.6, 5.6808, 3.89]),  # terminated after the second step
        ([1.0, 0, 1, 1], [0, 0, 0, 0], [2.012, 1.6, 5.6808, 3.89]),  # the same without boundaries
    ],
)
def test_returns_are_generalised_advantages_plus_values(
    continuation: list[float], boundary: list[int], advantage: list[float]
) -> None:
    returns = lambda_returns(REWARD, torch.tensor([continuation]), torch.tensor([boundary]).bool(), NEXT, 0.9, 0.8)
    torch.testing.assert_close(returns - VALUE, torch.tensor([advantage]))


def test_returns_so_far_begin_anew_after_a_boundary() -> None:
    cut = torch.tensor([[False, True, False, False]])
    returns = returns_so_far(REWARD, cut, 0.5)
    torch.testing.assert_close(returns, torch.tensor([[1.0, 2.5, 3.0, 5.5]]))
    rest = returns_so_far(REWARD[:, 1:], cut[:, 1:], 0.5, returns[:, 0])
    torch.testing.assert_close(rest, returns[:, 1:])


def test_truncation_bootstraps_from_the_true_final_state() -> None:
    cut = torch.tensor([[False, True, False, True]])
    after = torch.tensor([[0.4, 7.0, 0.2, 0.1]])  # the final state's value, not the next episode's
    returns = lambda_returns(REWARD, torch.ones(1, 4), cut, after, 0.9, 0.8)
    second = 2 + 0.9 * 7.0
    first = 1 + 0.9 * (0.2 * 0.4 + 0.8 * second)
    torch.testing.assert_close(returns[0, :2], torch.tensor([first, second]))
    torch.testing.assert_close(returns[0, 2:] - VALUE[0, 2:], torch.tensor([5.6808, 3.89]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_returns_equal_brute_force(seed: int, gamma: float, lam: float) -> None:
    data = rollout(seed)
    torch.testing.assert_close(lambda_returns(*data, gamma, lam), brute_force(*data, gamma, lam))


def test_lambda_zero_and_one() -> None:
    reward, continuation, boundary, value = rollout(1)
    one_step = reward + 0.9 * continuation * value
    torch.testing.assert_close(lambda_returns(reward, continuation, boundary, value, 0.9, 0.0), one_step)
    whole = torch.zeros_like(boundary)
    monte_carlo = sum(0.9**k * reward[:, k] for k in range(6)) + 0.9**6 * value[:, -1]
    found = lambda_returns(reward, torch.ones_like(reward), whole, value, 0.9, 1.0)[:, 0]
    torch.testing.assert_close(found, monte_carlo)


def test_returns_do_not_cross_a_termination() -> None:
    reward, continuation, boundary, value = rollout(2)
    continuation[:, 2], boundary[:, 2] = 0.0, True
    before = lambda_returns(reward, continuation, boundary, value, 0.9, 0.95)
    reward[:, 3:], value[:, 2:] = 99.0, 99.0
    assert torch.equal(lambda_returns(reward, continuation, boundary, value, 0.9, 0.95)[:, :3], before[:, :3])


def test_standardize() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    y = standardize(x, torch.ones_like(x))
    assert float(y.mean()) == pytest.approx(0, abs=1e-6)
    assert float(y.std(correction=0)) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(standardize(3 * x + 7, torch.ones_like(x)), y, atol=1e-4, rtol=1e-4)
    assert not standardize(torch.ones(3, 3), torch.ones(3, 3)).any()


def test_standardize_with_weights_equals_repeated_entries() -> None:
    x = torch.tensor([1.0, 4.0, -2.0])
    repeated = torch.tensor([1.0, 1.0, 1.0, 4.0, -2.0])
    weighted = standardize(x, torch.tensor([3.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, standardize(repeated, torch.ones(5))[2:])


def test_survival_is_the_product_of_the_continuations_before() -> None:
    continuation = torch.tensor([[0.5, 0.8, 0.0, 1.0], [1.0, 0.0, 0.9, 0.5]])
    boundary = torch.tensor([[False, False, False, True], [False, True, False, True]])
    expected = torch.tensor([[1.0, 0.5, 0.4, 0.0], [1.0, 1.0, 1.0, 0.9]])  # a boundary begins another episode
    torch.testing.assert_close(survival(continuation, boundary), expected)


def test_policy_loss_at_ratio_one_is_the_mean_advantage() -> None:
    log_prob, advantage = torch.randn(6, 2), torch.randn(6)
    loss, metrics = ppo_policy_loss(log_prob, log_prob, advantage, 0.2)
    torch.testing.assert_close(loss, -advantage.mean())
    assert metrics["approx_kl"] == 0 and metrics["clip_fraction"] == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "stopped"),
    [(1.3, 1.0, True), (0.7, -1.0, True), (1.3, -1.0, False), (0.7, 1.0, False), (1.1, 1.0, False), (0.9, -1.0, False)],
)
def test_the_gradient_is_zero_beyond_the_clip(ratio: float, advantage: float, stopped: bool) -> None:
    log_prob = torch.tensor([[ratio]]).log().requires_grad_()
    loss, _ = ppo_policy_loss(log_prob, torch.zeros(1, 1), torch.tensor([advantage]), 0.2)
    loss.backward()
    assert log_prob.grad is not None
    assert float(log_prob.grad) == pytest.approx(0 if stopped else -advantage * ratio)


def test_policy_loss_equals_the_hand_computed_one() -> None:
    log_prob = torch.tensor([[1.05, 1.5], [0.5, 1.0]]).log()
    loss, metrics = ppo_policy_loss(log_prob, torch.zeros(2, 2), torch.tensor([2.0, -1.0]), 0.2)
    assert float(loss) == pytest.approx(-(1.05 * 2 + 1.2 * 2 - 0.8 - 1.0) / 4)
    assert float(metrics["clip_fraction"]) == 0.5


def test_a_weight_multiplies_outside_the_clipping() -> None:
    log_prob, advantage = 0.5 * torch.randn(50, 2), torch.randn(50)
    old = torch.zeros(50, 2)
    plain, _ = ppo_policy_loss(log_prob, old, advantage, 0.2)
    tripled, _ = ppo_policy_loss(log_prob, old, advantage, 0.2, weight=torch.full((50, 1), 3.0))
    torch.testing.assert_close(tripled, 3 * plain)


def test_huber() -> None:
    error = torch.tensor([0.0, -4.0, 10.0, -30.0])
    torch.testing.assert_close(huber(error, 10.0), torch.tensor([0.0, 8.0, 50.0, 250.0]))


def test_clipped_value_loss() -> None:
    old, target = torch.randn(100), 3 * torch.randn(100)
    near, far = old + 0.09 * torch.randn(100).tanh(), old + torch.randn(100)
    torch.testing.assert_close(clipped_value_loss(near, old, target, 0.1, 10.0), huber(target - near, 10.0).mean())
    assert clipped_value_loss(far, old, target, 0.1, 10.0) > huber(target - far, 10.0).mean()
    # moved 0.5 towards the target, beyond the clip of 0.1: the loss is that of the clipped value, without gradient
    value = torch.tensor([0.5], requires_grad=True)
    loss = clipped_value_loss(value, torch.zeros(1), torch.ones(1), 0.1, 10.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.9**2 / 2) and value.grad is not None and not value.grad.any()
