"""Categorical latents: balanced divergence, straight-through gradients, samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dima.world_models.mamba.latent import balanced_kl, kl_divergence, mode, sample


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def test_the_divergence_of_a_known_case() -> None:
    posterior, prior = logits_of(0.75, 0.25), logits_of(0.5, 0.5)
    for balance in (0.0, 0.2, 0.8, 1.0):
        assert float(balanced_kl(posterior, prior, balance)) == pytest.approx(0.130812, abs=1e-6)
    assert float(kl_divergence(posterior, prior)) == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6
    )


@pytest.mark.parametrize("balance", [0.2, 0.8])
def test_the_balance_shares_the_gradient(balance: float) -> None:
    posterior, prior = (one.requires_grad_() for one in (logits_of(0.75, 0.25), logits_of(0.5, 0.5)))
    full = torch.autograd.grad(kl_divergence(posterior, prior).sum(), (posterior, prior))
    shared = torch.autograd.grad(balanced_kl(posterior, prior, balance).sum(), (posterior, prior))
    torch.testing.assert_close(shared[0], (1 - balance) * full[0])
    torch.testing.assert_close(shared[1], balance * full[1])
    assert full[0].abs().max() > 0.1 and full[1].abs().max() > 0.1


def test_divergences_are_averaged_over_the_variables_or_summed() -> None:
    posterior, prior = logits_of(0.75, 0.25).expand(32, -1), logits_of(0.5, 0.5).expand(32, -1)
    assert float(balanced_kl(posterior, prior, 0.8)) == pytest.approx(0.1308, abs=1e-4)
    assert float(balanced_kl(posterior, prior, 0.8, "sum")) == pytest.approx(4.186, abs=1e-3)


def test_a_sample_is_one_hot_and_has_the_gradient_of_the_probabilities() -> None:
    logits = torch.randn(5, 32, 4, requires_grad=True)
    drawn, weight = sample(logits), torch.randn(5, 32, 4)
    assert torch.equal(drawn.sum(-1), torch.ones(5, 32))
    assert set(drawn.detach().unique().tolist()) == {0.0, 1.0}
    (through,) = torch.autograd.grad((drawn * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(through, expected)


def test_samples_are_as_frequent_as_they_are_probable() -> None:
    torch.manual_seed(0)
    probability = torch.tensor([0.5, 0.0, 0.2, 0.3])
    drawn = sample(probability.log().clamp(min=-1e4).expand(20_000, 1, 4))
    torch.testing.assert_close(drawn.mean(0)[0], probability, atol=0.015, rtol=0)
    assert drawn[:, 0, 1].sum() == 0


def test_the_mode_is_the_most_probable_class() -> None:
    assert mode(torch.tensor([[0.1, 3.0, -1.0], [2.0, 1.0, 0.0]])).tolist() == [[0, 1, 0], [1, 0, 0]]
