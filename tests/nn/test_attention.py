"""Attention, feed-forward and Transformer blocks: formulas, masks, caches, folded layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.nn.attention import Attention, GegluFeedForward, TransformerBlock, pooled


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_attention_equals_the_formula() -> None:
    attention, x = Attention(6, 2, 4), torch.randn(3, 5, 6)
    y = attention.norm(x)
    keys, values = attention.key_value(y).chunk(2, dim=-1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        score = attention.query(y)[..., part] @ keys[..., part].transpose(-1, -2) / 4**0.5
        heads.append(score.softmax(-1) @ values[..., part])
    torch.testing.assert_close(attention(x), x + attention.out(torch.cat(heads, dim=-1)))


def test_cross_attention_ignores_masked_context() -> None:
    attention = Attention(6, 1, 4, context_dim=3)
    x, context = torch.randn(2, 4, 6), torch.randn(2, 5, 3)
    visible = torch.tensor([[True, False, True, True, False]])
    other = torch.where(visible[0, :, None], context, torch.randn(2, 5, 3))
    seen = attention(x, context, visible)
    torch.testing.assert_close(attention(x, other, visible), seen, rtol=0, atol=0)
    torch.testing.assert_close(attention(x, context[:, visible[0]]), seen)
    assert not torch.allclose(attention(x, other), attention(x, context))


def test_feed_forward_is_a_gated_gelu_with_residual() -> None:
    feed, x = GegluFeedForward(4, expansion=2), torch.randn(3, 4)
    value, gate = feed.lift(feed.norm(x)).split(8, dim=-1)
    torch.testing.assert_close(feed(x), x + feed.lower(value * F.gelu(gate)))


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def test_a_causal_block_ignores_future_tokens() -> None:
    block, x = TransformerBlock(8, 2, 0.0), torch.randn(2, 6, 8)
    changed = torch.cat([x[:, :4], torch.randn(2, 2, 8)], dim=1)
    torch.testing.assert_close(block(x, causal(6))[:, :4], block(changed, causal(6))[:, :4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_cached_block_equals_the_full_pass(stride: int) -> None:
    block, x = TransformerBlock(8, 2, 0.3).eval(), torch.randn(2, 6, 8)
    cache = torch.full((2, 2, 2, 6, 4), torch.nan)  # entries not written yet must not matter
    parts = [
        block(x[:, t : t + stride], causal(6)[t : t + stride, : t + stride], cache, t) for t in range(0, 6, stride)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), block(x, causal(6)))


def test_dropout_acts_in_training_only() -> None:
    block, x = TransformerBlock(8, 2, 0.5), torch.randn(1, 4, 8)
    assert not torch.equal(block(x, None), block(x, None))
    block.eval()
    assert torch.equal(block(x, None), block(x, None))


@pytest.mark.parametrize("layers", [[], [GegluFeedForward(8)], [Attention(8, 2, 4), GegluFeedForward(8)]])
def test_pooling_before_the_last_projection_equals_pooling_after_it(layers: list[torch.nn.Module]) -> None:
    net, x = torch.nn.Sequential(*layers), torch.randn(3, 5, 8, requires_grad=True)
    answers = pooled(net, x), net(x).mean(dim=-2)
    torch.testing.assert_close(*answers)
    weights, inputs = torch.randn_like(answers[0]), [x, *net.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((a * weights).sum(), inputs) for a in answers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "width", "narrow"), [(4, 16, 3), (7, 32, 8)])
def test_feed_forward_folded_into_a_narrow_layer(length: int, width: int, narrow: int) -> None:
    torch.manual_seed(0)
    feed, out = GegluFeedForward(width).double(), torch.nn.Linear(narrow, width).double()
    with torch.no_grad():
        for weight in feed.norm.parameters():
            weight.add_(torch.randn_like(weight))
    common, mixed = torch.randn(length, width).double(), torch.randn(5, 2, length, narrow).double()
    inputs = [common.requires_grad_(), mixed.requires_grad_(), *feed.parameters(), *out.parameters()]
    ways = [feed.after(common, mixed, out), feed(common + out(mixed))]
    torch.testing.assert_close(*ways)
    for one, other in zip(*(torch.autograd.grad(way.square().sum(), inputs) for way in ways), strict=True):
        torch.testing.assert_close(one, other)
