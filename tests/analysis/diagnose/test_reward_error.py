"""Rewards foretold rightly, wrongly, and not at all."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.reward import POINTS, reward_error
from tests.analysis.diagnose.worlds import Case, Walk


def told_as(case: Case, reward: torch.Tensor) -> Foretold:
    segments = case.segments
    return Foretold(segments.state, segments.obs, reward, torch.ones_like(reward))


def test_a_perfect_model_foretells_all_of_it(walk: Case) -> None:
    told = walk.teller(Walk(walk.spec)).foretell(walk.segments)
    found = reward_error(told, walk.segments, walk.resampling, 0)
    assert found.explained == pytest.approx(1)
    assert found.correlation == pytest.approx(1)
    for curve in (found.step, found.cumulative, found.bias):
        assert curve.mean == pytest.approx([0] * 6, abs=1e-5)
    assert len(found.real) == POINTS
    assert found.told == pytest.approx(found.real, abs=1e-5)
    assert all(low > 0 for low in found.constant_step.low)


def test_a_hopeful_model_is_found_out(walk: Case) -> None:
    found = reward_error(told_as(walk, walk.segments.reward + 0.5), walk.segments, walk.resampling, 0)
    assert found.bias.mean == pytest.approx([0.5] * 6)
    assert found.cumulative.mean == pytest.approx([0.5 * step for step in range(1, 7)], rel=1e-4)
    assert found.correlation == pytest.approx(1)
    assert found.explained < 0


def test_the_mean_explains_nothing_and_is_its_own_yardstick(walk: Case) -> None:
    mean = walk.segments.reward.mean().expand_as(walk.segments.reward)
    found = reward_error(told_as(walk, mean), walk.segments, walk.resampling, 0)
    assert found.explained == pytest.approx(0, abs=1e-4)
    assert found.correlation is None
    assert found.step.mean == pytest.approx(found.constant_step.mean)
    assert found.cumulative.mean == pytest.approx(found.constant_cumulative.mean)


def test_a_reward_that_never_varies_has_no_variance_to_explain() -> None:
    case = Case("toy/walk", episodes=2, count=5)
    case.segments.rows.reward[:] = 2.0
    assert reward_error(told_as(case, case.segments.reward), case.segments, case.resampling, 0).explained is None
