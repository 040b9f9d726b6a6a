"""Termination as thresholds on single features: start, learning from few examples, calibration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dima.data import EnvSpec
from dima.nn.mlp import mlp
from dima.world_models.dima.additive_termination import PRIOR, AdditiveTermination

SPEC = EnvSpec(("a",), state_dim=8, obs_sizes=(8,), action_sizes=(1,), discrete=False)


def falls(state: torch.Tensor) -> torch.Tensor:
    """Rare ends: one feature too high, or another too low."""
    return (state[:, 2] > 2.3) | (state[:, 5] < -2.4)


def fitted(net: torch.nn.Module, state: torch.Tensor, ends: torch.Tensor) -> torch.nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(1500):
        rows = torch.randint(len(state), (512,))
        logit = net(state[rows]).flatten()
        loss = F.binary_cross_entropy_with_logits(logit, ends[rows].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def test_before_learning_nothing_ends() -> None:
    torch.manual_seed(0)
    logit = AdditiveTermination(SPEC)(torch.randn(3, 5, 8))
    torch.testing.assert_close(logit, torch.full((3, 5), -PRIOR))


def test_thresholds_are_found_from_few_examples_where_a_plain_network_blurs_them() -> None:
    torch.manual_seed(0)
    state, fresh = torch.randn(6000, 8), torch.randn(20_000, 8)
    net, plain_net = AdditiveTermination(SPEC), mlp((8, 64, 64, 1), torch.nn.SiLU)
    probability, plain = (
        fitted(one, state, falls(state))(fresh).sigmoid().flatten().detach() for one in (net, plain_net)
    )
    ends = falls(fresh)
    assert probability[ends].mean() > 0.85
    assert probability[~ends].mean() < 0.004
    assert 0.8 < probability.sum() / ends.sum() < 1.25
    assert probability[ends].mean() > plain[ends].mean() + 0.05


@pytest.mark.parametrize("features", [17, 420])
def test_a_gradient_step_moves_the_sum_as_much_for_many_features(features: int) -> None:
    spec = EnvSpec(agents=("a",), state_dim=features, obs_sizes=(1,), action_sizes=(1,), discrete=False)
    torch.manual_seed(0)
    head, states = AdditiveTermination(spec), torch.randn(512, features)
    before = head(states).detach()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    head(states).sum().backward()
    optimizer.step()
    assert 10 < (head(states) - before).abs().mean() < 100
