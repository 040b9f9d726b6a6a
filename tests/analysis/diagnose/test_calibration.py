"""Calibration of sampled forecasts, and of predicted terminations, against known ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dima.analysis.diagnose.calibration import Calibration, calibration, termination_error
from dima.analysis.diagnose.rollouts import Predictions
from dima.analysis.targets import OBSERVATIONS, STATE
from tests.analysis.diagnose.worlds import Case, Noisy, Walk


def measure(case: Case, model, samples: int = 19) -> dict[str, Calibration]:
    sampled = case.forecaster(model).sample(case.segments, samples)
    return calibration(sampled, case.segments, case.scales, case.bootstrap, seed=0)


def test_the_true_dynamics_are_calibrated(linear: Case) -> None:
    for result in measure(linear, Noisy(linear.spec)).values():
        assert sum(result.rank_histogram) == pytest.approx(1)
        assert np.allclose(result.rank_histogram, 0.05, atol=0.02)
        for level, curve in result.coverage.items():
            assert np.allclose(curve.mean, float(level[:-1]) / 100, atol=0.1)
        ratio = np.array(result.std.mean) / np.array(result.rmse.mean)
        assert np.allclose(ratio, 1, atol=0.12)
        assert result.spread_skill_ratio(3) == pytest.approx(ratio[2])


@pytest.mark.parametrize(("samples", "levels"), [(3, ["50%"]), (18, ["50%"]), (19, ["50%", "90%"])])
def test_intervals_that_few_samples_cannot_resolve_are_left_out(walk: Case, samples: int, levels: list[str]) -> None:
    assert list(measure(walk, Walk(walk.spec), samples)[STATE].coverage) == levels


@pytest.mark.parametrize(("noise", "narrow"), [(0.3, True), (3.0, False)])
def test_overconfidence_and_underconfidence(linear: Case, noise: float, narrow: bool) -> None:
    for result in measure(linear, Noisy(linear.spec, noise)).values():
        ends, middle = result.rank_histogram[0] + result.rank_histogram[-1], sum(result.rank_histogram[5:15])
        assert (ends > 0.3) == narrow
        assert (middle > 0.7) == (not narrow)
        assert (result.first_rank_histogram[0] > 0.1) == narrow
        for level, curve in result.coverage.items():
            assert all((mean < float(level[:-1]) / 100) == narrow for mean in curve.mean)
        assert all((s < e) == narrow for s, e in zip(result.std.mean, result.rmse.mean, strict=True))


def test_it_does_not_depend_on_where_the_features_lie() -> None:
    case = Case("toy/linear", episodes=4, count=20)
    sampled, rows = case.forecaster(Noisy(case.spec, 0.3)).sample(case.segments, 19), case.segments.rows
    found = []
    for offset in (0.0, 1e4):
        segments = replace(case.segments, rows=replace(rows, state=rows.state + offset))
        moved = replace(sampled, state=sampled.state + offset)
        found.append(calibration(moved, segments, case.scales, case.bootstrap, seed=0)[STATE].rank_histogram)
    assert np.allclose(*found, atol=0.01)


def test_a_world_without_noise_is_calibrated_when_it_is_right(walk: Case) -> None:
    right, wrong = (measure(walk, model)[STATE] for model in (Walk(walk.spec), Walk(walk.spec, drift=0.02)))
    assert np.allclose(right.rank_histogram, 0.05, atol=0.02)
    assert right.coverage["50%"].mean == pytest.approx([0.5] * 6, abs=0.08)
    assert right.std.mean == pytest.approx([0] * 6, abs=1e-6)
    assert wrong.rank_histogram[0] > 0.3  # the samples lie above the truth
    assert right.std_error_correlation is None


def test_features_that_never_vary_are_left_out() -> None:
    case = Case("toy/walk", episodes=4, count=20)
    segments, scales = case.segments, case.scales
    for values in (segments.state, segments.obs):
        values[..., 0] = 7.0
    scales.state_varies[0] = False
    scales.obs_varies[:, 0] = False
    sampled = case.forecaster(Walk(case.spec)).sample(segments, 9)
    sampled.state[..., 0], sampled.obs[..., 0] = 1e6, 1e6
    for result in calibration(sampled, segments, scales, case.bootstrap, 0).values():
        assert result.rank_histogram[0] < 0.3
    scales.obs_varies[:] = False
    assert set(calibration(sampled, segments, scales, case.bootstrap, 0)) == {STATE}


def test_a_model_may_know_where_it_errs(linear: Case) -> None:
    class Knowing(Noisy):
        """As noisy as it is wrong: both grow with the first feature of the state."""

        def step(self, latent, action):
            step = super().step(latent, action)
            wild = 10 * latent[:, :1].clamp(min=0)
            return step._replace(latent=step.latent + wild * (0.1 + torch.randn(len(latent), 1)))

    plain, knowing = (
        measure(linear, kind(linear.spec))[OBSERVATIONS].std_error_correlation for kind in (Noisy, Knowing)
    )
    assert abs(plain) < 0.2
    assert knowing > 0.3


# -- terminations -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def switches() -> Case:
    return Case("toy/switches", episodes=20, count=200, horizon=4)


def predicting(case: Case, probability: torch.Tensor) -> Predictions:
    segments = case.segments
    return Predictions(segments.state, segments.obs, segments.reward, 1 - probability)


def test_certain_and_right_predictions(switches: Case) -> None:
    ended = switches.segments.terminated.float()
    found = termination_error(predicting(switches, ended), switches.segments)
    assert found.terminations == found.predicted == found.true_positives == int(ended.sum()) > 20
    assert found.steps == int(switches.segments.alive.sum()) < ended.numel()
    assert (found.precision, found.recall, found.brier) == (1, 1, 0)
    assert [(part.predicted, part.observed) for part in found.reliability] == [(0, 0), (1, 1)]


def test_missed_terminations_and_false_alarms_are_counted(switches: Case) -> None:
    alive, ended = switches.segments.alive, switches.segments.terminated
    probability = ended.float()
    hits, quiet = ended.nonzero(), (alive & ~ended).nonzero()
    probability[tuple(hits[:5].T)] = 0.1  # missed
    probability[tuple(quiet[:3].T)] = 0.7  # false alarm
    probability[~alive] = 0.9  # not a real step
    found = termination_error(predicting(switches, probability), switches.segments)
    ends = int(ended.sum())
    assert found.recall == pytest.approx((ends - 5) / ends)
    assert found.precision == pytest.approx((ends - 5) / (ends - 2))
    assert {(round(part.predicted, 3), part.observed, part.steps) for part in found.reliability} == {
        (0, 0, found.steps - ends - 3),
        (0.1, 1, 5),
        (0.7, 0, 3),
        (1, 1, ends - 5),
    }


def test_the_base_rate_is_calibrated(switches: Case) -> None:
    alive, ended = switches.segments.alive, switches.segments.terminated
    rate = float(ended[alive].float().mean())
    found = termination_error(predicting(switches, torch.full(alive.shape, rate)), switches.segments)
    assert len(found.reliability) == 1
    assert found.reliability[0].predicted == pytest.approx(found.reliability[0].observed, rel=1e-4)
    assert found.precision is None and found.recall == 0
    assert found.brier == pytest.approx(rate * (1 - rate), rel=1e-4)


def test_without_terminations_recall_is_undefined(walk: Case) -> None:
    found = termination_error(predicting(walk, torch.full(walk.segments.alive.shape, 0.8)), walk.segments)
    assert found.terminations == 0 and found.recall is None
    assert found.precision == 0 and found.predicted == found.steps
