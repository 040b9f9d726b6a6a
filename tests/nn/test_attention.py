"""Attention against its formula: masks, cross-attention, steps along keys and values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.nn.attention import Attention, GegluFeedForward, TransformerBlock


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
def test_steps_along_keys_and_values_equal_the_full_pass(stride: int) -> None:
    block, x = TransformerBlock(8, 2, 0.3).eval(), torch.randn(2, 6, 8)
    parts, past = [], None
    for t in range(0, 6, stride):
        part, past = block.step(x[:, t : t + stride], causal(6)[t : t + stride, : t + stride], past)
        parts.append(part)
        assert [tensor.shape for tensor in past] == [(2, 2, t + stride, 4)] * 2
    torch.testing.assert_close(torch.cat(parts, dim=1), block(x, causal(6)))


def test_a_step_leaves_the_past_unchanged() -> None:
    block, x = TransformerBlock(8, 2, 0.3).eval(), torch.randn(2, 3, 8)
    _, past = block.step(x, None)
    before = [tensor.clone() for tensor in past]
    one, _ = block.step(x[:, :1], None, past)
    block.step(torch.randn(2, 1, 8), None, past)
    again, _ = block.step(x[:, :1], None, past)
    assert torch.equal(one, again)
    assert all(torch.equal(a, b) for a, b in zip(past, before, strict=True))


def test_dropout_acts_in_training_only() -> None:
    block, x = TransformerBlock(8, 2, 0.5), torch.randn(1, 4, 8)
    assert not torch.equal(block(x, None), block(x, None))
    block.eval()
    assert torch.equal(block(x, None), block(x, None))
