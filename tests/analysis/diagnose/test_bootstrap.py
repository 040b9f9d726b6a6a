"""Means, their intervals, and rank correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dima.analysis.diagnose.bootstrap import Bootstrap, Curve, pearson, spearman


def test_the_mean_is_over_the_segments_that_are_alive() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [5.0, 9.0, 9.0]])
    alive = torch.tensor([[True, True, False], [True, True, False], [True, False, False]])
    curve = Bootstrap(torch.tensor([7, 8, 9]), 0).mean(values, alive)
    assert curve.mean == [3.0, 3.0, None]
    assert curve.low[2] is None and curve.high[2] is None
    assert curve.low[0] < 3 < curve.high[0]
    assert curve.at(2) == 3.0
    assert curve.map(lambda v: 2 * v).mean == [6.0, 6.0, None]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = torch.Generator().manual_seed(0)
    alive, hits = torch.ones(40, 1, dtype=torch.bool), 0
    for seed in range(200):
        curve = Bootstrap(torch.arange(40), seed, resamples=300).mean(torch.randn(40, 1, generator=rng), alive)
        hits += curve.low[0] <= 0 <= curve.high[0]
    assert 180 <= hits <= 198  # 190 expected, a little less for 40 segments


def test_segments_of_one_episode_are_not_independent() -> None:
    values, alive = torch.randn(8).repeat_interleave(25)[:, None], torch.ones(200, 1, dtype=torch.bool)
    together = Bootstrap(torch.arange(8).repeat_interleave(25), 0).mean(values, alive)
    apart = Bootstrap(torch.arange(200), 0).mean(values, alive)
    assert together.mean == pytest.approx(apart.mean)
    assert together.high[0] - together.low[0] > 3 * (apart.high[0] - apart.low[0])


def test_the_same_resamples_serve_every_statistic() -> None:
    bootstrap, values = Bootstrap(torch.arange(30), 0, resamples=50), torch.randn(30, 2)
    alive = torch.ones(30, 2, dtype=torch.bool)
    one = bootstrap.mean(values, alive)
    other = bootstrap.statistic(lambda chosen: values.double().numpy()[chosen].mean(0), resamples=50)
    for side in ("mean", "low", "high"):
        assert getattr(one, side) == pytest.approx(getattr(other, side))


def test_one_segment_has_a_mean_and_no_width() -> None:
    curve = Bootstrap(torch.tensor([3]), 0).mean(torch.tensor([[2.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert curve == Curve([2.0], [2.0], [2.0])


def test_rank_correlation_sees_order_only_and_ties() -> None:
    x = np.array([3.0, 1, 4, 1, 5, 9])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 2, 2])) == pytest.approx(0.8944, abs=1e-4)
    assert np.isnan(spearman(x, np.ones(6)))


def test_correlation_of_a_constant_is_undefined() -> None:
    x = torch.tensor([1.0, 2, 3])
    assert pearson(x, 2 * x + 1) == pytest.approx(1)
    assert pearson(x, torch.ones(3)) is None
    assert pearson(x[:1], x[:1]) is None


def test_a_statistic_that_is_defined_nowhere_has_no_interval_either() -> None:
    """A rank correlation of returns that are all the same, in every resample."""
    curve = Bootstrap(torch.arange(3), seed=0, resamples=20).statistic(lambda chosen: np.full(2, np.nan), 20)
    assert curve.mean == curve.low == curve.high == [None, None]
