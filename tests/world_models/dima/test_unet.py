"""Shapes, the start at zero, and every layer against PyTorch's own, gradients included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.world_models.dima.unet import AdaptiveGroupNorm, GroupNorm, ResidualBlock, TemporalUNet, TimeConv, taps


def plain_conv(conv: TimeConv, x: Tensor, stride: int = 1) -> Tensor:
    """The convolution of (B, T, C) by PyTorch."""
    weight = conv.linear.weight.unflatten(1, (3, -1)).transpose(1, 2)
    return F.conv1d(x.transpose(1, 2), weight, conv.linear.bias, stride, padding=1).transpose(1, 2)


def grouped(x: Tensor) -> Tensor:
    """(B, T, C) -> (B, G, T, 32)."""
    return x.unflatten(-1, (-1, 32)).transpose(1, 2)


def plain(x: Tensor) -> Tensor:
    """The way back."""
    return x.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
@pytest.mark.parametrize(("stride", "repeat"), [(1, 1), (2, 1), (1, 2)])
def test_time_convolution_equals_conv1d(stride: int, repeat: int, steps: int) -> None:
    conv, x = TimeConv((2, 32), (1, 32), taps(steps, stride, repeat)), torch.randn(3, steps, 64, requires_grad=True)
    answers = plain(conv(grouped(x), conv.kernel())), plain_conv(conv, x.repeat_interleave(repeat, dim=1), stride)
    torch.testing.assert_close(*answers)
    weights = torch.randn_like(answers[0])
    inputs = [x, *conv.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((a * weights).sum(), inputs) for a in answers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_group_norm_groups_32_channels_and_is_modulated() -> None:
    norm, x = AdaptiveGroupNorm((2, 32)), torch.randn(2, 4, 64)
    scale, shift = torch.randn(2, 64), torch.randn(2, 64)
    expected = F.group_norm(x.transpose(1, 2), 2).transpose(1, 2) * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(plain(norm(grouped(x), iter([scale, shift]))), expected)


def test_the_learnt_group_norm_is_pytorchs() -> None:
    norm, x = GroupNorm((2, 32)), torch.randn(2, 4, 64)
    reference = nn.GroupNorm(2, 64)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += torch.randn_like(parameter)
    reference.load_state_dict(norm.state_dict())
    torch.testing.assert_close(plain(norm(grouped(x))), reference(x.transpose(1, 2)).transpose(1, 2))


def plain_block(block: ResidualBlock, x: Tensor, steering: Iterator[Tensor]) -> Tensor:
    """The block on (B, T, C), as the paper has it."""

    def activated(x: Tensor) -> Tensor:
        scale, shift = next(steering)[:, None], next(steering)[:, None]
        normed = F.group_norm(x.transpose(1, 2), x.shape[-1] // 32).transpose(1, 2)
        return F.silu(normed * (1 + scale) + shift)

    hidden = plain_conv(block.conv1, activated(x))
    return block.skip(x) + plain_conv(block.conv2, activated(hidden))


def plain_net(net: TemporalUNet, x: Tensor, condition: Tensor) -> Tensor:
    """The network on (B, T, C): every step of the answer."""
    modulation = iter(net.modulation(F.silu(condition)).split(net.widths, dim=-1))
    x = plain_conv(net.lift, x)
    skips = []
    for shrink, level in zip(net.shrink, net.down, strict=True):
        x = plain_conv(shrink, x, stride=2) if isinstance(shrink, TimeConv) else x
        skips.append(x)
        for block in level:
            x = plain_block(block, x, modulation)
            skips.append(x)
    for block in net.middle:
        x = plain_block(block, x, modulation)
    for grow, level in zip(reversed(net.grow), reversed(net.up), strict=True):
        for block in level:
            x = plain_block(block, torch.cat([x, skips.pop()], dim=-1), modulation)
        if isinstance(grow, TimeConv):
            x = plain_conv(grow, x.repeat_interleave(2, dim=1))
    norm = F.group_norm(x.transpose(1, 2), x.shape[-1] // 32, net.out_norm.weight, net.out_norm.bias).transpose(1, 2)
    return plain_conv(net.out, F.silu(norm))


def answer(net: TemporalUNet, x: Tensor, condition: Tensor) -> Tensor:
    return net(x, net.steer(condition), net.kernels())


SHAPES = [((32,), 2), ((128,), 2), ((32, 64), 4), ((64, 32, 32), 4)]


@pytest.mark.parametrize(("channels", "steps"), SHAPES)
def test_the_net_is_the_plain_one_to_rounding(channels: tuple[int, ...], steps: int, alive) -> None:
    net = alive(TemporalUNet(steps, 5, 3, 8, channels, blocks=2))
    x, condition = torch.randn(4, steps, 5, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    answers = answer(net, x, condition), plain_net(net, x, condition)[:, -1]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)
    inputs = [x, condition, *net.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(a.square().sum(), inputs) for a in answers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("channels", "steps"), SHAPES)
def test_the_net_starts_at_zero(channels: tuple[int, ...], steps: int, alive) -> None:
    net = TemporalUNet(steps, 5, 3, 8, channels, blocks=2)
    x, condition = torch.randn(2, steps, 5), torch.randn(2, 8)
    assert torch.equal(answer(net, x, condition), torch.zeros(2, 3))
    assert answer(alive(net), x, condition).shape == (2, 3)


def test_every_weight_takes_part(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32), blocks=2))
    answer(net, torch.randn(2, 4, 5), torch.randn(2, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_newest_step_depends_on_all_steps_and_the_condition(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32, 32), blocks=2))
    x, condition = torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 8, requires_grad=True)
    reached = torch.autograd.grad(answer(net, x, condition).sum(), (x, condition))
    assert (reached[0].abs().sum(-1) > 1e-6).all()
    assert (reached[1].abs() > 1e-8).all()


def test_a_batch_equals_its_halves(alive) -> None:
    net = alive(TemporalUNet(4, 5, 3, 8, (32, 32), blocks=1))
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    halves = [answer(net, a, b) for a, b in zip(x.split(3), condition.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(halves), answer(net, x, condition))
