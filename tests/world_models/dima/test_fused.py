"""The fused U-Net equals the plain one: parameters, initial weights, outputs, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dima.data import EnvSpec
from dima.world_models.dima.fused import FusedUNet, taps
from dima.world_models.dima.model import DimaModelConfig
from dima.world_models.dima.unet import TemporalUNet
from tests.world_models.dima.test_unet import shapes


def pair(channels: tuple[int, ...], steps: int, blocks: int = 2) -> tuple[TemporalUNet, FusedUNet]:
    """The plain and the fused network from the same random state."""
    torch.manual_seed(3)
    plain = TemporalUNet(steps, 5, 3, 8, channels, blocks)
    torch.manual_seed(3)
    return plain, FusedUNet(steps, 5, 3, 8, channels, blocks)


@shapes
def test_parameters_and_initial_weights_are_those_of_the_plain_net(channels: tuple[int, ...], steps: int) -> None:
    plain, fused = (dict(net.state_dict()) for net in pair(channels, steps))
    assert list(plain) == list(fused)  # also no further buffers, so checkpoints fit both
    assert all(torch.equal(plain[name], weight) for name, weight in fused.items())


@pytest.mark.parametrize("blocks", [1, 2])
@shapes
def test_outputs_and_gradients_equal_the_plain_net(channels: tuple[int, ...], steps: int, blocks: int, alive) -> None:
    plain, fused = pair(channels, steps, blocks)
    fused.load_state_dict(alive(plain).state_dict())
    x, condition = torch.randn(4, steps, 5, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    outputs, gradients = [], []
    for net in (plain, fused):
        outputs.append(net(x, condition))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [x, condition, *net.parameters()]))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_prepared_net_serves_many_calls(alive) -> None:
    fused = alive(FusedUNet(4, 5, 3, 8, (32, 32), blocks=1))
    prepared = fused.prepare()
    for batch in (2, 5):
        x, condition = torch.randn(batch, 4, 5), torch.randn(batch, 8)
        assert torch.equal(prepared(x, condition), fused(x, condition))


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
@pytest.mark.parametrize(("stride", "repeat"), [(1, 1), (2, 1), (1, 2)])
def test_taps_join_input_and_output_steps_as_conv1d_does(stride: int, repeat: int, steps: int) -> None:
    weight, x = torch.randn(7, 5, 3), torch.randn(2, 5, steps)
    expected = F.conv1d(x.repeat_interleave(repeat, dim=-1), weight, stride=stride, padding=1)
    joined = taps(steps, stride, repeat)
    assert joined.shape == (expected.shape[-1], steps, 3)
    torch.testing.assert_close(torch.einsum("otk,dck,bct->bdo", joined, weight, x), expected)


def test_the_world_model_is_built_with_the_fused_net(spec: EnvSpec) -> None:
    assert isinstance(DimaModelConfig().build(spec).denoiser.net, FusedUNet)
