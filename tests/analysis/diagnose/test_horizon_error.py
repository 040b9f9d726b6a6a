"""Errors are nothing for a perfect model, what was put in for a wrong one, and summed as they should be."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.error import (
    MODEL,
    OBSERVATIONS,
    RECONSTRUCTION,
    STATE,
    UNCHANGED,
    HorizonError,
    by_source,
    differences,
    horizon_error,
)
from dima.analysis.diagnose.forecasts import Foretold
from tests.analysis.diagnose.worlds import Case, Noisy, Walk


def measure(case: Case, model) -> HorizonError:
    teller = case.teller(model)
    told, seen = teller.foretell(case.segments), teller.reconstruct(case.segments)
    return horizon_error(told, seen, case.segments, case.units, case.resampling)


def test_a_perfect_model_makes_no_error_and_beats_the_yardstick(walk: Case) -> None:
    error = measure(walk, Walk(walk.spec))
    for table in (error.standardised, error.raw):
        assert set(table) == {STATE, "state: state", OBSERVATIONS, "observations: agent_0", "observations: agent_1"}
        for guesses in table.values():
            for who in (MODEL, RECONSTRUCTION):
                for curve in (guesses[who].step, guesses[who].cumulative):
                    assert curve.high == pytest.approx([0] * 6, abs=1e-5)
            assert all(low > 0 for low in guesses[UNCHANGED].step.low)
    assert all(low > 0 for curve in error.advantage.values() for low in curve.low)
    assert error.segments == [len(walk.segments)] * 6


def test_a_wrong_model_makes_the_error_that_was_put_in(linear: Case) -> None:
    class Off(Noisy):
        """Sees agent 1's observations 0.5 too high, and states too low by 2 in one feature of four."""

        def observe(self, latent):
            view = super().observe(latent)
            view.obs[:, 1] += 0.5
            view.state = view.state - torch.tensor([2.0, 0, 0, 0])
            return view

    seen = linear.teller(Off(linear.spec)).reconstruct(linear.segments)
    raw = differences(seen, linear.segments, linear.units, raw=True)
    torch.testing.assert_close(raw[STATE], torch.full((120, 6), 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw["observations: agent_0"], torch.zeros(120, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw["observations: agent_1"], torch.full((120, 6), 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw[OBSERVATIONS], torch.full((120, 6), 0.25), rtol=0, atol=1e-5)
    scaled = differences(seen, linear.segments, linear.units)
    torch.testing.assert_close(
        scaled[STATE], torch.full((120, 6), 0.5) / linear.units.state_scale[0], rtol=1e-4, atol=1e-5
    )


def test_a_drift_is_worse_than_expecting_no_change(walk: Case) -> None:
    error = measure(walk, Walk(walk.spec, drift=1.0))
    assert all(high < 0 for high in error.advantage[STATE].high)


def test_summed_errors_are_the_running_sum(walk: Case) -> None:
    growth = measure(walk, Walk(walk.spec, drift=0.05)).raw[STATE][MODEL]
    total = 0.0
    for step, cumulative in zip(growth.step.mean, growth.cumulative.mean, strict=True):
        total += step
        assert cumulative == pytest.approx(total, rel=1e-4)
    assert growth.step.at(1) == pytest.approx(0.025, rel=0.1)  # half the features are positions; walls stop some


def test_padding_and_groups_do_not_count() -> None:
    case = Case("toy/uneven", episodes=4, count=20)
    segments, units = case.segments, case.units
    still = Foretold(
        state=segments.start.state[:, -1:].expand_as(segments.state),
        obs=torch.where(units.obs_valid, segments.obs + 1, 77.0),
        reward=segments.reward,
        continuation=segments.reward,
    )
    gaps = differences(still, segments, units, raw=True)
    torch.testing.assert_close(gaps["observations: agent_0"], torch.ones(20, 6), rtol=0, atol=1e-5)
    both = (2 * gaps["state: agent_0"] + 5 * gaps["state: agent_1"]) / 7
    torch.testing.assert_close(gaps[STATE], both)


def test_each_source_has_its_own_curve(walk: Case) -> None:
    told = walk.teller(Walk(walk.spec, drift=0.05)).foretell(walk.segments)
    curves = by_source(told, walk.segments, walk.units, ["random", "nobody"], 0)
    assert set(curves) == {"random"}
    overall = measure(walk, Walk(walk.spec, drift=0.05)).standardised
    for what in (STATE, OBSERVATIONS):
        assert curves["random"][what].mean == pytest.approx(overall[what][MODEL].step.mean)
