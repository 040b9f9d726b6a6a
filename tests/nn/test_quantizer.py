"""The bottlenecks against vector-quantize-pytorch, step by step."""

from __future__ import annotations

import pytest
import torch
from vector_quantize_pytorch import FSQ, VectorQuantize

from dima.nn.quantizer import FiniteScalarQuantizer, VectorQuantizer


def test_codebook_follows_the_reference_step_by_step() -> None:
    ours = VectorQuantizer(16, 8, decay=0.8)
    reference = VectorQuantize(8, 16, decay=0.8, rotation_trick=False, commitment_weight=10.0)
    book = reference._codebook
    book.embed.copy_(ours.codebook[None])
    book.embed_avg.copy_(ours.codebook[None])
    shift = torch.randn(8)
    for step in range(60):
        tokens = 0.3 * torch.randn(5, 12, 8) + shift * step / 60
        a, b = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
        quantized, index, commitment = ours(a)
        expected, expected_index, loss = reference(b)
        assert torch.equal(index, expected_index)
        torch.testing.assert_close(quantized, expected)
        torch.testing.assert_close(10 * commitment, loss.reshape(()))
        upstream = torch.randn_like(tokens)
        ((quantized * upstream).sum() + 10 * commitment).backward()
        ((expected * upstream).sum() + loss.sum()).backward()
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(ours.usage, book.cluster_size[0])
        torch.testing.assert_close(ours.total, book.embed_avg[0])
        torch.testing.assert_close(ours.codebook, book.embed[0], rtol=1e-4, atol=1e-5)


def test_the_codebook_moves_in_training_only() -> None:
    ours, tokens = VectorQuantizer(16, 8).eval(), torch.randn(3, 5, 8)
    before = ours.codebook.clone()
    quantized, index, _ = ours(tokens)
    assert torch.equal(ours.codebook, before)
    torch.testing.assert_close(quantized, before[index])
    distance = torch.cdist(tokens, before)
    assert torch.equal(index, distance.argmin(-1))
    ours.train()(tokens)
    assert not torch.equal(ours.codebook, before)


def test_unused_entries_stay_within_reach() -> None:
    ours = VectorQuantizer(64, 4)
    start = ours.codebook.clone()
    tokens = torch.randn(30, 4) * 0.01 + start[0]  # only few entries are ever chosen
    for _ in range(20):
        used = ours(tokens)[1].unique()
    idle = torch.ones(64, dtype=torch.bool)
    idle[used] = False
    assert idle.sum() > 30
    torch.testing.assert_close(ours.codebook[idle], start[idle], rtol=0.05, atol=0.01)


def test_dead_entries_are_revived_with_tokens() -> None:
    ours = VectorQuantizer(64, 4, dead_below=0.5)
    for _ in range(20):
        tokens = 5 + torch.randn(200, 4)
        ours(tokens)
    assert ours.codebook.mean() > 4  # all entries have gone where the tokens are
    assert len(ours(tokens)[1].unique()) > 32
    plain = VectorQuantizer(64, 4)
    for _ in range(20):
        plain(tokens)
    assert len(plain(tokens)[1].unique()) < 32


@pytest.mark.parametrize("levels", [(8, 6, 5), (3, 4), (7, 5, 5, 5)])
def test_finite_scalars_equal_the_reference(levels: tuple[int, ...]) -> None:
    ours, reference = FiniteScalarQuantizer(levels), FSQ(list(levels))
    tokens = 2 * torch.randn(500, 3, len(levels))
    a, b = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    quantized, index, commitment = ours(a)
    expected, expected_index = reference(b)
    torch.testing.assert_close(quantized, expected)
    assert torch.equal(index, expected_index.long())
    assert commitment == 0
    quantized.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    assert index.min() == 0
    assert index.max() == torch.tensor(levels).prod() - 1


def test_a_codebook_of_zero_counts_forgets_its_start_and_throws_unused_entries_out() -> None:
    """The first update: ``mean + 4 start / n`` where n tokens went, about 8e4 times the start elsewhere."""
    vq = VectorQuantizer(512, 64, usage=0.0).train()
    start = vq.codebook.clone()
    tokens = start[3] + 1e-6 * torch.randn(10, 64)
    vq(tokens)
    torch.testing.assert_close(vq.codebook[3], tokens.mean(0) + 4 * start[3] / 10, rtol=1e-2, atol=1e-5)
    ratio = vq.codebook[4] / start[4]
    torch.testing.assert_close(ratio, ratio.mean().expand(64), rtol=1e-3, atol=0.0)
    assert float(ratio.mean()) == pytest.approx(8e4, rel=0.05)


@pytest.mark.parametrize("levels", [(8, 8, 8), (3, 4, 5), (2,)])
def test_fsq_entries_come_back_from_their_indices(levels: tuple[int, ...]) -> None:
    fsq = FiniteScalarQuantizer(levels)
    quantized, index, _ = fsq(3 * torch.randn(500, len(levels)))
    torch.testing.assert_close(fsq.entries(index), quantized)
