"""Models that predict observations alone: everything but errors of the state, from the same forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dima.analysis.diagnose.calibration import calibration
from dima.analysis.diagnose.error import error_by_source, horizon_error
from dima.analysis.diagnose.influence import influence
from dima.analysis.targets import OBSERVATIONS, STATE
from dima.world_models.base import Step
from tests.analysis.diagnose.worlds import Case, Walk


class Blind(Walk):
    """Sees no state."""

    predicts_state = False

    def observe(self, latent):
        view = super().observe(latent)
        return replace(view, state=torch.full_like(view.state, torch.nan))


def test_errors_and_calibration_of_observations_are_those_of_a_model_with_states(walk: Case) -> None:
    found = {}
    for kind in (Blind, Walk):
        forecaster = walk.forecaster(kind(walk.spec, drift=0.05))
        predicted, reconstructed = forecaster.forecast(walk.segments), forecaster.reconstruct(walk.segments)
        sampled = forecaster.sample(walk.segments, 5)
        assert sampled.obs.shape == (len(walk.segments), 5, *walk.segments.obs.shape[1:])
        error = horizon_error(predicted, reconstructed, walk.segments, walk.scales, walk.bootstrap)
        error.by_source.update(error_by_source(predicted, walk.segments, walk.scales, ["random"], 0))
        found[kind] = error, calibration(sampled, walk.segments, walk.scales, walk.bootstrap, seed=0), predicted
    (blind, calibrated, predicted), (full, both, _) = found[Blind], found[Walk]
    assert predicted.state is None
    assert (blind.targets, blind.main) == ([OBSERVATIONS], OBSERVATIONS)
    assert (full.targets, full.main) == ([STATE, OBSERVATIONS], STATE)
    for name in ("standardised", "raw", "advantage"):
        kept = {target: value for target, value in getattr(full, name).items() if not target.startswith(STATE)}
        assert getattr(blind, name) == kept
    assert blind.by_source["random"] == {OBSERVATIONS: full.by_source["random"][OBSERVATIONS]}
    assert list(calibrated) == [OBSERVATIONS] and list(both) == [STATE, OBSERVATIONS]


def test_influence_is_on_observations_without_padding(walk: Case) -> None:
    found = influence(walk.forecaster(Blind(walk.spec)), walk.env, walk.sources, walk.scales, 12)
    assert found.features == ["agent_0:0", "agent_0:1", "agent_1:0", "agent_1:1"]
    assert found.kinds == ["agent_0", "agent_0", "agent_1", "agent_1"]
    assert np.allclose(found.imagined, found.real, atol=1e-4)
    assert (np.array(found.imagined) > 0.01).tolist() == [[True, False, False, False], [False, False, True, False]]
    assert found.agreement == pytest.approx(1, abs=0.1)


def test_padding_has_no_influence() -> None:
    case = Case("toy/uneven", episodes=4, count=5)

    class Padded(Blind):
        def see(self, state):
            obs = state.sum(-1)[:, None, None].repeat(1, 2, 5)  # also where agent_0 sees nothing
            obs[:, 0, :2], obs[:, 1] = state[:, :2], state[:, 2:]
            return obs

        def step(self, latent, action):
            return Step(latent + action.sum((1, 2))[:, None], latent[:, 0], torch.ones(len(latent)))

    found = influence(case.forecaster(Padded(case.spec)), case.env, case.sources, case.scales, 3)
    assert found.features == case.spec.obs_names and np.shape(found.imagined) == np.shape(found.real) == (2, 7)
