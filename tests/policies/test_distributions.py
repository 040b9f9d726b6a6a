"""Action distributions against PyTorch's, at their ends and under masks."""

import math

import pytest
import torch

from dima.policies.distributions import Beta, Categorical, Gaussian

ONES = torch.ones(1, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_gaussian_agrees_with_torch() -> None:
    mean, std, action = torch.randn(4, 2, 3), torch.rand(3) + 0.1, torch.randn(4, 2, 3)
    ours, theirs = Gaussian(mean, std, torch.ones(2, 3)), torch.distributions.Normal(mean, std)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    assert torch.equal(ours.mode(), mean)
    draws = Gaussian(mean.expand(20000, -1, -1, -1), std, torch.ones(2, 3)).sample()
    torch.testing.assert_close(draws.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), std.expand(4, 2, 3), atol=0.05, rtol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0001, 1.0001), (1.7, 1.7), (3.0, 1.2), (40.0, 25.0)])
def test_beta_density_integrates_to_one(alpha: float, beta: float) -> None:
    action = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 100_000 - 1
    density = Beta(alpha * ONES, beta * ONES, ONES).log_prob(action[:, None, None]).exp()
    assert float(density.mean() * 2) == pytest.approx(1, abs=1e-4)


def test_beta_agrees_with_torch() -> None:
    alpha, beta = 1 + torch.rand(4, 2, 3) * 5, 1 + torch.rand(4, 2, 3) * 5
    ours, theirs = Beta(alpha, beta, torch.ones(2, 3)), torch.distributions.Beta(alpha, beta)
    action = ours.sample()
    assert action.abs().max() < 1 and not action.requires_grad
    expected = (theirs.log_prob((action + 1) / 2) - math.log(2)).sum(-1)
    torch.testing.assert_close(ours.log_prob(action), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.entropy(), (theirs.entropy() + math.log(2)).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.mode(), 2 * theirs.mode - 1, atol=1e-4, rtol=1e-4)
    assert (ours.log_prob(ours.mode()) >= ours.log_prob(action)).all()
    draws = Beta(alpha.expand(20000, -1, -1, -1), beta, torch.ones(2, 3)).sample()
    torch.testing.assert_close(draws.mean(0), 2 * theirs.mean - 1, atol=0.02, rtol=0)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_beta_stays_finite_at_the_ends(action: float) -> None:
    policy = Beta(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 1.0]]), torch.ones(1, 2))
    assert policy.log_prob(torch.full((1, 2), action)).isfinite().all()
    assert policy.mode().isfinite().all() and policy.mode().abs().max() < 1


def test_categorical_never_samples_a_masked_choice() -> None:
    allowed = torch.tensor([[True, False, True, False], [False, False, False, True]])
    policy = Categorical(torch.tensor([0.0, 9.0, 1.0, 99.0]).expand(5000, 2, 4), allowed, torch.ones(2, 4))
    draws = policy.sample()
    assert torch.equal(draws.sum(-1), torch.ones(5000, 2)) and not draws[:, ~allowed].any()
    assert float(draws[:, 0, 2].mean()) == pytest.approx(math.e / (1 + math.e), abs=0.03)
    assert torch.equal(policy.mode()[0], torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]]))
    probability = policy.log_prob(draws).exp()
    torch.testing.assert_close(probability[:, 1], torch.ones(5000))
    expected = torch.distributions.Categorical(logits=torch.tensor([0.0, 1.0])).entropy()
    torch.testing.assert_close(policy.entropy()[0], torch.stack([expected, torch.zeros(())]))


def test_categorical_gradient_is_finite_with_masked_choices() -> None:
    logits = torch.randn(6, 2, 4, requires_grad=True)
    allowed = torch.tensor([True, False, True, False])
    policy = Categorical(logits, allowed, torch.ones(2, 4))
    (policy.log_prob(policy.sample()).sum() + policy.entropy().sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[..., ~allowed].any()
