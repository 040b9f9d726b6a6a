"""Influence of each agent's action, in the world model and in the environment."""

from __future__ import annotations

import numpy as np
import pytest

from dima.analysis.diagnose.episodes import EpisodeSource
from dima.analysis.diagnose.influence import influence
from tests.analysis.diagnose.worlds import Case, Noisy, Walk


def test_a_perfect_model_has_the_real_influence(walk: Case) -> None:
    calls = []
    forecaster = walk.forecaster(Walk(walk.spec))
    found = influence(forecaster, walk.env, walk.sources, walk.scales, 12, lambda: calls.append(None))
    assert len(calls) == found.time_steps == 12
    imagined, real = np.array(found.imagined), np.array(found.real)
    assert imagined.shape == (2, 4)
    assert np.allclose(imagined, real, atol=1e-4)
    assert (imagined > 0.01).tolist() == [[True, False, False, False], [False, True, False, False]]
    assert found.agreement == pytest.approx(1, abs=0.1)
    assert found.kinds == ["state"] * 4


def test_a_model_that_confuses_agents_disagrees(walk: Case) -> None:
    class Confused(Walk):
        def step(self, latent, action):
            return super().step(latent, action.flip(1))

    found = influence(walk.forecaster(Confused(walk.spec)), walk.env, walk.sources, walk.scales, 12)
    assert found.imagined[0][0] == found.imagined[1][1] == 0
    assert found.imagined[0][1] > 0.01
    assert found.agreement < 0.5


def test_noise_is_not_influence(linear: Case) -> None:
    found = influence(linear.forecaster(Noisy(linear.spec)), linear.env, linear.sources, linear.scales, 12)
    assert np.allclose(found.imagined, found.real, atol=1e-4)


def test_an_agent_without_influence_shows_none(walk: Case) -> None:
    found = influence(walk.forecaster(Walk(walk.spec, strength=(0, 0))), walk.env, walk.sources, walk.scales, 6)
    assert not np.any(found.imagined)
    assert found.agreement is None  # a constant has no ranks


def test_an_environment_that_is_not_reproducible_has_no_real_influence(walk: Case) -> None:
    other = [EpisodeSource(s.name, s.episodes, tuple(seed + 2 for seed in s.seeds)) for s in walk.sources]
    found = influence(walk.forecaster(Walk(walk.spec)), walk.env, other, walk.scales, 6)
    assert found.real is None and found.agreement is None
    assert found.imagined[0][0] > 0.01


def test_forbidden_actions_are_never_tried() -> None:
    case = Case("toy/switches", episodes=10, count=5, horizon=1)

    class Still(Walk):
        def see(self, state):
            return case.segments.obs[:1, 0].expand(len(state), -1, -1)

        def step(self, latent, action):
            assert ((action == 0) | (action == 1)).all()
            assert (action.sum(-1) == 1).all()
            after = latent + action[..., 1] - action[..., 2]
            return super().step(latent.repeat(1, 2), action[..., :1])._replace(latent=after)

    found = influence(case.forecaster(Still(case.spec)), case.env, case.sources, case.scales, 20)
    assert found.real is not None  # the environment raises on a forbidden action
    assert found.agreement > 0.5
