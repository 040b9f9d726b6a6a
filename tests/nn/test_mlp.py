"""MLPs, their initial weights, and layer norm over padding."""

import pytest
import torch
from torch import nn

from dima.nn.mlp import MaskedLayerNorm, Tanh, mlp, orthogonal_


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_orthogonal_initialisation() -> None:
    wide = orthogonal_(nn.Linear(30, 20))
    torch.testing.assert_close(wide.weight @ wide.weight.T, 2 * torch.eye(20), atol=1e-5, rtol=0)
    assert not wide.bias.any()


def test_mlp_layers_and_gains() -> None:
    net = mlp((5, 8, 9, 2), nn.Tanh, norm=True, gain=3.0, head_gain=0.1)
    kinds = [type(layer) for layer in net]
    assert kinds == [nn.Linear, nn.Tanh, nn.LayerNorm] * 2 + [nn.Linear]
    assert net(torch.zeros(4, 6, 5)).shape == (4, 6, 2)
    first, last = net[0], net[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    torch.testing.assert_close(first.weight.T @ first.weight, 9 * torch.eye(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 0.01 * torch.eye(2), atol=1e-6, rtol=0)
    assert [type(layer) for layer in mlp((5, 2))] == [nn.Linear]


def test_masked_layer_norm_equals_layer_norm_of_each_agent_alone() -> None:
    sizes = (5, 3)
    valid = torch.arange(5) < torch.tensor(sizes)[:, None]
    norm = MaskedLayerNorm(valid)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(7, 2, 5) * valid
    y = norm(x)
    assert not y[:, 1, 3:].any()
    for agent, size in enumerate(sizes):
        alone = nn.functional.layer_norm(x[:, agent, :size], (size,), norm.weight[:size], norm.bias[:size])
        torch.testing.assert_close(y[:, agent, :size], alone)


def test_masked_layer_norm_without_padding_is_layer_norm() -> None:
    x = torch.randn(7, 2, 5)
    norm = MaskedLayerNorm(torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(norm(x), nn.LayerNorm(5)(x))


def test_tanh_as_a_scaled_sigmoid() -> None:
    x = torch.linspace(-30, 30, 10_001, requires_grad=True)
    torch.testing.assert_close(Tanh()(x), x.tanh(), atol=5e-7, rtol=0)
    (ours,), (real,) = (torch.autograd.grad(y.sum(), x) for y in (Tanh()(x), x.tanh()))
    torch.testing.assert_close(ours, real, atol=5e-7, rtol=0)
