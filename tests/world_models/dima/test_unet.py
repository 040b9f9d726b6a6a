"""The U-Net against PyTorch's convolutions and group norms; its start at zero; what its output depends on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.world_models.dima.unet import GROUP, GroupNorm, ResidualBlock, TemporalUNet, TimeConv, group_norm

SHAPES = [((32,), 2), ((128,), 2), ((32, 64), 4), ((64, 32, 32), 4)]  # channels and time steps
shapes = pytest.mark.parametrize(("channels", "steps"), SHAPES)


def conv1d(conv: TimeConv, x: Tensor) -> Tensor:
    """PyTorch's convolution of (B, T, C) with the same weights."""
    weight = conv.weight.unflatten(1, (3, -1)).transpose(1, 2)
    return F.conv1d(x.transpose(1, 2), weight, conv.bias, conv.stride, padding=1).transpose(1, 2)


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_time_convolution_equals_conv1d(stride: int, steps: int) -> None:
    conv, x = TimeConv(5, 7, stride), torch.randn(3, steps, 5, requires_grad=True)
    outputs = conv(x), conv1d(conv, x)
    torch.testing.assert_close(*outputs)
    weights, inputs = torch.randn_like(outputs[0]), [x, *conv.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((o * weights).sum(), inputs) for o in outputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_convolution_can_start_at_zero() -> None:
    assert not any(parameter.any() for parameter in TimeConv(5, 7, zero=True).parameters())


def test_the_group_norm_is_pytorchs() -> None:
    norm, x = GroupNorm(64), 3 + torch.randn(2, 4, 64)
    reference = nn.GroupNorm(64 // GROUP, 64)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += torch.randn_like(parameter)
    reference.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), reference(x.transpose(1, 2)).transpose(1, 2))
    groups = group_norm(x).unflatten(-1, (-1, GROUP)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(groups.var(-1, correction=0), torch.ones(2, 2), atol=1e-3, rtol=0)


def test_a_residual_block_starts_as_the_identity() -> None:
    block, x = ResidualBlock(64, 64), torch.randn(2, 4, 64)
    assert torch.equal(block(x, iter(torch.randn(2, width) for width in block.widths)), x)


def reference_block(block: ResidualBlock, x: Tensor, modulation: Iterator[Tensor]) -> Tensor:
    """A residual block by PyTorch's convolution and group norm."""

    def activated(x: Tensor) -> Tensor:
        scale, shift = next(modulation)[:, None], next(modulation)[:, None]
        normed = F.group_norm(x.transpose(1, 2), x.shape[-1] // GROUP).transpose(1, 2)
        return F.silu(normed * (1 + scale) + shift)

    hidden = conv1d(block.conv1, activated(x))
    return block.skip(x) + conv1d(block.conv2, activated(hidden))


def reference_net(net: TemporalUNet, x: Tensor, condition: Tensor) -> Tensor:
    """The network by PyTorch's convolution and group norm."""
    modulation = iter(net.modulation(F.silu(condition)).split(net.widths, dim=-1))
    x = conv1d(net.lift, x)
    skips = []
    for shrink, level in zip(net.shrink, net.down, strict=True):
        x = conv1d(shrink, x) if isinstance(shrink, TimeConv) else x
        skips.append(x)
        for block in level:
            x = reference_block(block, x, modulation)
            skips.append(x)
    for block in net.middle:
        x = reference_block(block, x, modulation)
    for grow, level in zip(reversed(net.grow), reversed(net.up), strict=True):
        for block in level:
            x = reference_block(block, torch.cat([x, skips.pop()], dim=-1), modulation)
        if isinstance(grow, TimeConv):
            x = conv1d(grow, F.interpolate(x.transpose(1, 2), scale_factor=2.0).transpose(1, 2))
    assert not skips
    norm = net.out_norm
    x = F.group_norm(x.transpose(1, 2), x.shape[-1] // GROUP, norm.weight, norm.bias).transpose(1, 2)
    return conv1d(net.out, F.silu(x))[:, -1]


@shapes
def test_the_net_equals_pytorchs_layers(channels: tuple[int, ...], steps: int, alive) -> None:
    net = alive(TemporalUNet(steps, 5, 3, 8, channels, blocks=2))
    x, condition = torch.randn(4, steps, 5, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    outputs = net(x, condition), reference_net(net, x, condition)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    inputs = [x, condition, *net.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(o.square().sum(), inputs) for o in outputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@shapes
def test_the_output_starts_at_zero(channels: tuple[int, ...], steps: int, alive) -> None:
    net = TemporalUNet(steps, 5, 3, 8, channels, blocks=2)
    x, condition = torch.randn(2, steps, 5), torch.randn(2, 8)
    assert torch.equal(net(x, condition), torch.zeros(2, 3))
    assert alive(net)(x, condition).shape == (2, 3)


def test_every_weight_has_a_gradient(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32), blocks=2))
    net(torch.randn(2, 4, 5), torch.randn(2, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_newest_step_depends_on_all_steps_and_the_condition(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32, 32), blocks=2))
    x, condition = torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 8, requires_grad=True)
    of_x, of_condition = torch.autograd.grad(net(x, condition).sum(), (x, condition))
    assert (of_x.abs().sum(-1) > 1e-6).all()
    assert (of_condition.abs() > 1e-8).all()


def test_a_batch_equals_its_halves(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32), blocks=1))
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    halves = [net(a, b) for a, b in zip(x.split(3), condition.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(halves), net(x, condition))
