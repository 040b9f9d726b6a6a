"""The residual MLP: shapes, start, modulation."""

from __future__ import annotations

import pytest
import torch

from dima.world_models.dima.residual_mlp import ResidualMLP


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_it_starts_at_zero_and_its_blocks_as_the_identity() -> None:
    net = ResidualMLP(2, 5, 3, 8, width=16, blocks=2)
    x, condition = torch.randn(7, 2, 5), torch.randn(7, 8)
    assert torch.equal(net(x, condition), torch.zeros(7, 3))
    lifted = net.lift(x.flatten(1))
    for block in net.blocks:
        assert torch.equal(block(lifted, torch.randn(7, 16), torch.randn(7, 16)), lifted)


def test_every_step_and_the_condition_matter(alive) -> None:
    net = alive(ResidualMLP(2, 5, 3, 8, width=16, blocks=2))
    x, condition = torch.randn(7, 2, 5), torch.randn(7, 8)
    out = net(x, condition)
    assert out.shape == (7, 3)
    for step in range(2):
        changed = x.clone()
        changed[:, step] += 1
        assert (net(changed, condition) - out).abs().min() > 0
    assert (net(x, condition + 1) - out).abs().min() > 0


def test_rows_do_not_mix_and_a_shared_condition_broadcasts(alive) -> None:
    net = alive(ResidualMLP(2, 5, 3, 8, width=16, blocks=2)).double()
    x, condition = torch.randn(6, 2, 5).double(), torch.randn(1, 8).double()
    whole = net(x, condition.expand(6, -1))
    torch.testing.assert_close(torch.cat([net(part, condition) for part in x.split(2)]), whole)
