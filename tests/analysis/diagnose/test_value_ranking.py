"""Whether imagined returns rank segments as real ones do."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.value import imagined_returns, value_ranking
from tests.analysis.diagnose.worlds import Case, Walk


def test_a_perfect_model_ranks_perfectly_and_its_opposite_in_reverse(walk: Case) -> None:
    told = walk.teller(Walk(walk.spec)).foretell(walk.segments)
    found = value_ranking(told, walk.segments, ["random", "nobody"], walk.resampling, 0)
    assert found.correlation.mean == pytest.approx([1] * 6, abs=1e-3)
    assert found.correlation.low == pytest.approx([1] * 6, abs=1e-3)
    assert set(found.by_source) == {"random"}
    assert found.imagined == pytest.approx(found.real, abs=1e-4)
    assert found.real == pytest.approx(walk.segments.reward.sum(1).tolist(), abs=1e-4)
    assert found.source == ["random"] * len(walk.segments)
    told.reward *= -1
    found = value_ranking(told, walk.segments, ["random"], walk.resampling, 0)
    assert found.correlation.mean == pytest.approx([-1] * 6, abs=1e-3)


def test_guessing_ranks_nothing(walk: Case) -> None:
    told = walk.teller(Walk(walk.spec)).foretell(walk.segments)
    told.reward = torch.randn(told.reward.shape, generator=torch.Generator().manual_seed(0))
    found = value_ranking(told, walk.segments, ["random"], walk.resampling, 0)
    assert all(
        low < 0.05 and high > -0.05 for low, high in zip(found.correlation.low, found.correlation.high, strict=True)
    )


def test_an_imagined_end_ends_the_return() -> None:
    nothing = torch.zeros(1, 3, 1)
    told = Foretold(nothing, nothing[..., None], torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.5, 0.0]]))
    assert imagined_returns(told).tolist() == [[1, 3, 5]]
    told.continuation = torch.tensor([[0.0, 1.0, 1.0]])
    assert imagined_returns(told).tolist() == [[1, 1, 1]]


def test_a_segment_that_ended_keeps_its_return() -> None:
    case = Case("toy/switches", episodes=10, count=50, horizon=4)
    segments = case.segments
    told = Foretold(segments.state, segments.obs, segments.reward * segments.alive, (~segments.terminated).float())
    found = value_ranking(told, segments, ["random"], case.resampling, 0)
    assert found.imagined == pytest.approx(found.real, abs=1e-5)
    assert found.correlation.mean == pytest.approx([1] * 4, abs=1e-6)
