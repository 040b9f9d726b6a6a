from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dima.nn.one_hot import MIN_ROWS, OneHotLinear

C, K, R, O = 5, 7, 4, 6  # noqa: E741


def inputs(rows, steps=3):
    torch.manual_seed(0)
    choices = F.one_hot(torch.randint(K, (rows, steps, C)), K).float().flatten(-2)
    return torch.cat([choices, torch.randn(rows, steps, R)], dim=-1)


def results(layer, x, gradient):
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(gradient)
    return out.detach(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("rows", [MIN_ROWS, 2], ids=["many", "few"])
def test_equals_the_linear_layer_and_its_gradients(rows):
    linear = nn.Linear(C * K + R, O)
    one_hot = OneHotLinear(deepcopy(linear), C, K)
    x = inputs(rows)
    gradient = torch.randn(rows, 3, O)
    for ours, theirs in zip(results(one_hot, x, gradient), results(linear, x, gradient), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_shares_the_parameters_and_draws_no_random_numbers():
    linear = nn.Linear(C * K + R, O)
    state = torch.get_rng_state()
    one_hot = OneHotLinear(linear, C, K)
    assert torch.equal(torch.get_rng_state(), state)
    assert one_hot.weight is linear.weight and one_hot.bias is linear.bias
    assert one_hot.state_dict().keys() == linear.state_dict().keys()


def test_multiplies_no_zeros():
    """Nothing but the choice is read: the value of a chosen class may be anything close to 1."""
    one_hot, x = OneHotLinear(nn.Linear(C * K + R, O), C, K), inputs(MIN_ROWS)
    scaled = x.clone()
    scaled[..., : C * K] *= 1 + 1e-3
    torch.testing.assert_close(one_hot(scaled), one_hot(x), rtol=0, atol=0)
