"""Dropout: its probability, its scale, its gradient."""

from __future__ import annotations

import pytest
import torch

from dima.nn.dropout import Dropout, dropout, keep_mask


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_elements_are_dropped_with_the_probability(probability: float) -> None:
    kept = keep_mask(torch.Size((1001, 999)), probability)
    deviation = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(float((~kept).double().mean()) - probability) < 4 * deviation


def test_draws_are_independent_of_their_neighbours() -> None:
    kept = keep_mask(torch.Size((2**18,)), 0.5).double() - 0.5
    for apart in (1, 2, 3, 4, 8):  # four draws share a random number
        assert abs(float((kept[apart:] * kept[:-apart]).mean())) < 4 * 0.25 / len(kept) ** 0.5


def test_nothing_is_dropped_without_a_probability() -> None:
    assert keep_mask(torch.Size((10**5,)), 0.0).all()


def test_the_kept_are_scaled_and_so_is_their_gradient() -> None:
    x = torch.randn(64, 64, requires_grad=True)
    out = dropout(x, 0.25)
    out.sum().backward()
    assert ((out == 0) | torch.isclose(out, x / 0.75)).all()
    torch.testing.assert_close(x.grad, (out != 0) / 0.75)


def test_it_acts_in_training_only() -> None:
    layer, x = Dropout(0.5), torch.randn(8, 8)
    assert not torch.equal(layer(x), x)
    assert torch.equal(layer.eval()(x), x)
