"""Blocked attention against PyTorch's, and its dropout against the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.nn import blocked_attention as module
from dima.nn.attention import softmax_attention
from dima.nn.blocked_attention import blocked_attention


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "QUERIES", 4)
    monkeypatch.setattr(module, "SCORES", 200)  # one or two sequences of a block


def heads(batch: int, length: int, width: int = 3) -> Tensor:
    """(B, H, L, E), laid out as a layer splits them."""
    return torch.randn(batch, length, 2, width, dtype=torch.float64).transpose(1, 2).requires_grad_()


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def two_episodes(batch: int, length: int) -> Tensor:
    """(B, 1, L, L) causal within episodes that end elsewhere in each row."""
    episode = torch.arange(length) >= torch.arange(1, batch + 1)[:, None]
    return ((episode[:, :, None] == episode[:, None]) & causal(length))[:, None]


@pytest.mark.parametrize(
    ("length", "keys", "mask"),
    [(11, 11, causal(11)), (11, 11, two_episodes(5, 11)), (3, 10, None), (1, 1, None)],
    ids=["causal", "episodes", "cross", "one"],
)
def test_without_dropout_it_is_attention(length: int, keys: int, mask: Tensor | None) -> None:
    inputs, above = (heads(5, length), heads(5, keys), heads(5, keys)), torch.randn(5, 2, length, 3).double()
    ours = blocked_attention(*inputs, mask, 0.0)
    reference = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, above), torch.autograd.grad(reference, inputs, above))


def test_with_dropout_it_is_the_formula_with_the_drawn_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    probability, kept = 0.4, torch.rand(11, 11) > 0.4
    blocks = iter([kept[first : first + 4, : min(first + 4, 11)] for first in (0, 4, 8)] * 5)
    monkeypatch.setattr(module, "keep_mask", lambda shape, _: next(blocks).expand(shape))
    inputs, above = (heads(5, 11), heads(5, 11), heads(5, 11)), torch.randn(5, 2, 11, 3).double()
    query, keys, values = inputs
    weights = (query @ keys.transpose(-1, -2) / 3**0.5).masked_fill(~causal(11), -torch.inf).softmax(-1)
    reference = (weights * kept / (1 - probability)) @ values
    monkeypatch.setattr(module, "SCORES", 2 * 4 * 11)  # one sequence in a block
    ours = blocked_attention(*inputs, causal(11), probability)
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, above), torch.autograd.grad(reference, inputs, above))


def test_attention_with_dropout_is_right_in_the_mean() -> None:
    query, keys, values = (heads(1, 5).float() for _ in range(3))
    draws = torch.stack([softmax_attention(query, keys, values, causal(5), 0.3) for _ in range(4000)])
    reference = F.scaled_dot_product_attention(query, keys, values, attn_mask=causal(5))
    error = (draws.mean(0) - reference) / (draws.std(0) / len(draws) ** 0.5)
    assert (draws.std(0) > 0).all()
    assert error.abs().max() < 4.5
