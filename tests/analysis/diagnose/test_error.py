"""Errors of states, observations, rewards and return ranks against known ones."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.error import (
    MAX_POINTS,
    MODEL,
    PERSISTENCE,
    RECONSTRUCTION,
    HorizonError,
    absolute_errors,
    error_by_source,
    horizon_error,
    imagined_returns,
    return_ranking,
    reward_error,
)
from dima.analysis.diagnose.rollouts import Predictions
from dima.analysis.targets import OBSERVATIONS, STATE
from tests.analysis.diagnose.worlds import Case, Noisy, Walk

# -- states and observations ------------------------------------------------------------------------------------------


def measure(case: Case, model) -> HorizonError:
    forecaster = case.forecaster(model)
    predicted, reconstructed = forecaster.forecast(case.segments), forecaster.reconstruct(case.segments)
    return horizon_error(predicted, reconstructed, case.segments, case.scales, case.bootstrap)


def test_a_perfect_model_makes_no_error_and_beats_persistence(walk: Case) -> None:
    error = measure(walk, Walk(walk.spec))
    for table in (error.standardised, error.raw):
        assert set(table) == {STATE, "state: state", OBSERVATIONS, "observations: agent_0", "observations: agent_1"}
        for predictors in table.values():
            for who in (MODEL, RECONSTRUCTION):
                for curve in (predictors[who].step, predictors[who].cumulative):
                    assert curve.high == pytest.approx([0] * 6, abs=1e-5)
            assert all(low > 0 for low in predictors[PERSISTENCE].step.low)
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

    found = linear.forecaster(Off(linear.spec)).reconstruct(linear.segments)
    raw = absolute_errors(found, linear.segments, linear.scales, raw=True)
    torch.testing.assert_close(raw[STATE], torch.full((120, 6), 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw["observations: agent_0"], torch.zeros(120, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw["observations: agent_1"], torch.full((120, 6), 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(raw[OBSERVATIONS], torch.full((120, 6), 0.25), rtol=0, atol=1e-5)
    scaled = absolute_errors(found, linear.segments, linear.scales)
    torch.testing.assert_close(
        scaled[STATE], torch.full((120, 6), 0.5) / linear.scales.state_scale[0], rtol=1e-4, atol=1e-5
    )


def test_a_drift_is_worse_than_persistence(walk: Case) -> None:
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
    segments, scales = case.segments, case.scales
    still = Predictions(
        state=segments.start.state[:, -1:].expand_as(segments.state),
        obs=torch.where(scales.obs_valid, segments.obs + 1, 77.0),
        reward=segments.reward,
        continuation=segments.reward,
    )
    errors = absolute_errors(still, segments, scales, raw=True)
    torch.testing.assert_close(errors["observations: agent_0"], torch.ones(20, 6), rtol=0, atol=1e-5)
    both = (2 * errors["state: agent_0"] + 5 * errors["state: agent_1"]) / 7
    torch.testing.assert_close(errors[STATE], both)


def test_each_source_has_its_own_curve(walk: Case) -> None:
    predicted = walk.forecaster(Walk(walk.spec, drift=0.05)).forecast(walk.segments)
    curves = error_by_source(predicted, walk.segments, walk.scales, ["random", "nobody"], 0)
    assert set(curves) == {"random"}
    overall = measure(walk, Walk(walk.spec, drift=0.05)).standardised
    for what in (STATE, OBSERVATIONS):
        assert curves["random"][what].mean == pytest.approx(overall[what][MODEL].step.mean)


# -- rewards ----------------------------------------------------------------------------------------------------------


def predicting(case: Case, reward: torch.Tensor) -> Predictions:
    segments = case.segments
    return Predictions(segments.state, segments.obs, reward, torch.ones_like(reward))


def test_a_perfect_model_explains_all_of_the_reward(walk: Case) -> None:
    predicted = walk.forecaster(Walk(walk.spec)).forecast(walk.segments)
    found = reward_error(predicted, walk.segments, walk.bootstrap, 0)
    assert found.r2 == pytest.approx(1)
    assert found.correlation == pytest.approx(1)
    for curve in (found.step, found.cumulative, found.bias):
        assert curve.mean == pytest.approx([0] * 6, abs=1e-5)
    assert len(found.real) == MAX_POINTS
    assert found.predicted == pytest.approx(found.real, abs=1e-5)
    assert all(low > 0 for low in found.baseline_step.low)


def test_an_optimistic_model_has_a_bias(walk: Case) -> None:
    found = reward_error(predicting(walk, walk.segments.reward + 0.5), walk.segments, walk.bootstrap, 0)
    assert found.bias.mean == pytest.approx([0.5] * 6)
    assert found.cumulative.mean == pytest.approx([0.5 * step for step in range(1, 7)], rel=1e-4)
    assert found.correlation == pytest.approx(1)
    assert found.r2 < 0


def test_the_mean_explains_nothing_and_equals_the_baseline(walk: Case) -> None:
    mean = walk.segments.reward.mean().expand_as(walk.segments.reward)
    found = reward_error(predicting(walk, mean), walk.segments, walk.bootstrap, 0)
    assert found.r2 == pytest.approx(0, abs=1e-4)
    assert found.correlation is None
    assert found.step.mean == pytest.approx(found.baseline_step.mean)
    assert found.cumulative.mean == pytest.approx(found.baseline_cumulative.mean)


def test_a_reward_that_never_varies_has_no_variance_to_explain() -> None:
    case = Case("toy/walk", episodes=2, count=5)
    case.segments.rows.reward[:] = 2.0
    assert reward_error(predicting(case, case.segments.reward), case.segments, case.bootstrap, 0).r2 is None


# -- returns ----------------------------------------------------------------------------------------------------------


def test_a_perfect_model_ranks_perfectly_and_its_opposite_in_reverse(walk: Case) -> None:
    predicted = walk.forecaster(Walk(walk.spec)).forecast(walk.segments)
    found = return_ranking(predicted, walk.segments, ["random", "nobody"], walk.bootstrap, 0)
    assert found.correlation.mean == pytest.approx([1] * 6, abs=1e-3)
    assert found.correlation.low == pytest.approx([1] * 6, abs=1e-3)
    assert set(found.by_source) == {"random"}
    assert found.imagined == pytest.approx(found.real, abs=1e-4)
    assert found.real == pytest.approx(walk.segments.reward.sum(1).tolist(), abs=1e-4)
    assert found.source == ["random"] * len(walk.segments)
    predicted.reward *= -1
    found = return_ranking(predicted, walk.segments, ["random"], walk.bootstrap, 0)
    assert found.correlation.mean == pytest.approx([-1] * 6, abs=1e-3)


def test_random_rewards_rank_nothing(walk: Case) -> None:
    predicted = walk.forecaster(Walk(walk.spec)).forecast(walk.segments)
    predicted.reward = torch.randn(predicted.reward.shape, generator=torch.Generator().manual_seed(0))
    found = return_ranking(predicted, walk.segments, ["random"], walk.bootstrap, 0)
    assert all(
        low < 0.05 and high > -0.05 for low, high in zip(found.correlation.low, found.correlation.high, strict=True)
    )


def test_an_imagined_end_ends_the_return() -> None:
    nothing = torch.zeros(1, 3, 1)
    predicted = Predictions(
        nothing, nothing[..., None], torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    )
    assert imagined_returns(predicted).tolist() == [[1, 3, 5]]
    predicted.continuation = torch.tensor([[0.0, 1.0, 1.0]])
    assert imagined_returns(predicted).tolist() == [[1, 1, 1]]


def test_a_segment_that_ended_keeps_its_return() -> None:
    case = Case("toy/switches", episodes=10, count=50, horizon=4)
    segments = case.segments
    predicted = Predictions(
        segments.state, segments.obs, segments.reward * segments.alive, (~segments.terminated).float()
    )
    found = return_ranking(predicted, segments, ["random"], case.bootstrap, 0)
    assert found.imagined == pytest.approx(found.real, abs=1e-5)
    assert found.correlation.mean == pytest.approx([1] * 4, abs=1e-6)
