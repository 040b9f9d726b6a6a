"""Shapes, the start at zero, and the convolution against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dima.world_models.dima.unet import AdaptiveGroupNorm, TemporalUNet, TimeConv


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_time_convolution_equals_conv1d(stride: int, steps: int) -> None:
    conv, x = TimeConv(3, 5, stride), torch.randn(2, steps, 3)
    reference = nn.Conv1d(3, 5, 3, stride=stride, padding=1)
    with torch.no_grad():
        reference.weight.copy_(conv.linear.weight.unflatten(1, (3, 3)).transpose(1, 2))
        reference.bias.copy_(conv.linear.bias)
    torch.testing.assert_close(conv(x), reference(x.transpose(1, 2)).transpose(1, 2))


def test_group_norm_groups_32_channels_and_is_modulated() -> None:
    norm, x = AdaptiveGroupNorm(64), torch.randn(2, 4, 64)
    scale, shift = torch.randn(2, 64), torch.randn(2, 64)
    groups = x.unflatten(-1, (2, 32))
    centred = groups - groups.mean((1, 3), keepdim=True)
    plain = (centred / (groups.var((1, 3), correction=0, keepdim=True) + 1e-5).sqrt()).flatten(-2)
    expected = plain * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(norm(x, torch.cat([scale, shift], dim=-1)), expected)


@pytest.mark.parametrize(("channels", "steps"), [((32,), 2), ((32, 64), 4), ((64, 32, 32), 4)])
def test_the_net_keeps_time_and_starts_at_zero(channels: tuple[int, ...], steps: int, alive) -> None:
    net = TemporalUNet(5, 3, 8, channels, blocks=2)
    x, condition = torch.randn(2, steps, 5), torch.randn(2, 8)
    assert torch.equal(net(x, condition), torch.zeros(2, steps, 3))
    assert alive(net)(x, condition).shape == (2, steps, 3)


def test_every_weight_takes_part(alive) -> None:
    net = alive(TemporalUNet(5, 3, 8, (32, 32), blocks=2))
    net(torch.randn(2, 4, 5), torch.randn(2, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_newest_step_depends_on_all_steps_and_the_condition(alive) -> None:
    net = alive(TemporalUNet(5, 3, 8, (32, 32, 32), blocks=2))
    x, condition = torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 8, requires_grad=True)
    reached = torch.autograd.grad(net(x, condition)[:, -1].sum(), (x, condition))
    assert (reached[0].abs().sum(-1) > 1e-6).all()
    assert (reached[1].abs() > 1e-8).all()


def test_a_batch_equals_its_halves(alive) -> None:
    net = alive(TemporalUNet(5, 3, 8, (32, 32), blocks=1))
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    halves = [net(a, b) for a, b in zip(x.split(3), condition.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(halves), net(x, condition))
