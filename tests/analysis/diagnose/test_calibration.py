"""The right spread is found right, too little and too much are found out, and ties are nobody's fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dima.analysis.diagnose.calibration import Calibration, calibration
from dima.analysis.diagnose.error import OBSERVATIONS, STATE
from tests.analysis.diagnose.worlds import Case, Noisy, Walk


def measure(case: Case, model, futures: int = 19) -> dict[str, Calibration]:
    drawn = case.teller(model).futures(case.segments, futures)
    return calibration(drawn, case.segments, case.units, case.resampling, seed=0)


def test_the_true_dynamics_are_calibrated(linear: Case) -> None:
    for result in measure(linear, Noisy(linear.spec)).values():
        assert sum(result.histogram) == pytest.approx(1)
        assert np.allclose(result.histogram, 0.05, atol=0.02)
        for level, curve in result.coverage.items():
            assert np.allclose(curve.mean, float(level[:-1]) / 100, atol=0.1)
        ratio = np.array(result.spread.mean) / np.array(result.error.mean)
        assert np.allclose(ratio, 1, atol=0.12)


@pytest.mark.parametrize(("futures", "levels"), [(3, ["50%"]), (18, ["50%"]), (19, ["50%", "90%"])])
def test_levels_that_so_few_futures_cannot_resolve_are_left_out(walk: Case, futures: int, levels: list[str]) -> None:
    assert list(measure(walk, Walk(walk.spec), futures)[STATE].coverage) == levels


@pytest.mark.parametrize(("noise", "narrow"), [(0.3, True), (3.0, False)])
def test_too_sure_and_too_careful_are_told_apart(linear: Case, noise: float, narrow: bool) -> None:
    for result in measure(linear, Noisy(linear.spec, noise)).values():
        ends, middle = result.histogram[0] + result.histogram[-1], sum(result.histogram[5:15])
        assert (ends > 0.3) == narrow
        assert (middle > 0.7) == (not narrow)
        assert (result.first_histogram[0] > 0.1) == narrow
        for level, curve in result.coverage.items():
            assert all((mean < float(level[:-1]) / 100) == narrow for mean in curve.mean)
        assert all((s < e) == narrow for s, e in zip(result.spread.mean, result.error.mean, strict=True))


def test_a_world_without_noise_is_calibrated_when_it_is_right(walk: Case) -> None:
    right, wrong = (measure(walk, model)[STATE] for model in (Walk(walk.spec), Walk(walk.spec, drift=0.02)))
    assert np.allclose(right.histogram, 0.05, atol=0.02)
    assert right.coverage["50%"].mean == pytest.approx([0.5] * 6, abs=0.08)
    assert right.spread.mean == pytest.approx([0] * 6, abs=1e-6)
    assert wrong.histogram[0] > 0.3  # the futures lie above the truth
    assert right.correlation is None


def test_features_that_never_vary_are_left_out() -> None:
    case = Case("toy/walk", episodes=4, count=20)
    segments, units = case.segments, case.units
    for values in (segments.state, segments.obs):
        values[..., 0] = 7.0
    units.state_varies[0] = False
    units.obs_varies[:, 0] = False
    drawn = case.teller(Walk(case.spec)).futures(segments, 9)
    drawn.state[..., 0], drawn.obs[..., 0] = 1e6, 1e6
    for result in calibration(drawn, segments, units, case.resampling, 0).values():
        assert result.histogram[0] < 0.3
    units.obs_varies[:] = False
    assert set(calibration(drawn, segments, units, case.resampling, 0)) == {STATE}


def test_the_model_may_know_when_to_doubt(linear: Case) -> None:
    class Knowing(Noisy):
        """As noisy as it is wrong: both grow with the first feature of the state."""

        def step(self, latent, action):
            told = super().step(latent, action)
            wild = 10 * latent[:, :1].clamp(min=0)
            return told._replace(latent=told.latent + wild * (0.1 + torch.randn(len(latent), 1)))

    plain, knowing = (measure(linear, kind(linear.spec))[OBSERVATIONS].correlation for kind in (Noisy, Knowing))
    assert abs(plain) < 0.2
    assert knowing > 0.3
