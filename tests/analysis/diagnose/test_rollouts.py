"""Segments of real episodes, and forecasts of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dima.analysis.diagnose.episodes import EpisodeSource
from dima.analysis.diagnose.rollouts import Forecaster, choose_horizon, cut_segments
from dima.data import EnvSpec
from dima.errors import ConfigError, DivergenceError
from tests.analysis.diagnose.worlds import CPU, Case, Noisy, Sequential, Walk, numbered_episode

# -- segments ---------------------------------------------------------------------------------------------------------


def test_a_segment_holds_the_steps_after_its_start(spec: EnvSpec) -> None:
    segments = cut_segments(
        [EpisodeSource("a", [numbered_episode(30, False, 1)])], spec, context=3, horizon=5, count=9, seed=0
    )
    assert (len(segments), segments.horizon) == (9, 5)
    first = segments.start.state[:, -1, 0]
    assert len(first.unique()) == 9  # drawn without repetition
    assert torch.equal(segments.state[..., 0], first[:, None] + torch.arange(1, 6))
    assert torch.equal(segments.obs[..., 0, 0], segments.state[..., 0])
    assert torch.equal(segments.action[..., 0, 0], first[:, None] + torch.arange(5))
    assert torch.equal(segments.reward, first[:, None] + torch.arange(5))
    assert torch.equal(segments.window(2).state[:, -1], segments.state[:, 1])
    early = segments.start.valid.sum(1) < 3
    assert torch.equal(first < 102, early)


def test_a_termination_shortens_segments_and_a_time_limit_does_not(spec: EnvSpec) -> None:
    limited = cut_segments([EpisodeSource("a", [numbered_episode(12, False)])], spec, 1, 5, 100, seed=0)
    assert len(limited) == 8  # starts 0 to 7
    assert limited.alive.all() and not limited.terminated.any()
    ended = cut_segments([EpisodeSource("a", [numbered_episode(12, True)])], spec, 1, 5, 100, seed=0)
    assert len(ended) == 12
    assert ended.alive.sum().item() == 8 * 5 + 4 + 3 + 2 + 1
    last = ended.alive.sum(1) - 1
    assert torch.equal(ended.terminated.any(1), torch.arange(12) >= 7)
    assert ended.terminated[torch.arange(7, 12), last[7:]].all()


def test_segments_know_their_source_and_episode(spec: EnvSpec) -> None:
    sources = [
        EpisodeSource("a", [numbered_episode(9, False, 1), numbered_episode(9, False, 2)]),
        EpisodeSource("b", [numbered_episode(9, False, 3)]),
    ]
    segments = cut_segments(sources, spec, 1, 4, 5, seed=0)
    assert segments.source.tolist() == [0] * 5 + [1] * 5
    hundreds = (segments.start.state[:, -1, 0] // 100).long()
    assert torch.equal(hundreds == 3, segments.source == 1)
    assert all(len(hundreds[segments.episode == number].unique()) == 1 for number in segments.episode.unique())
    few = segments.subset(4)
    assert few.source.tolist() == [0, 0, 1, 1]
    assert len(segments.subset(99)) == 10


def test_a_source_too_short_for_a_segment_gives_none(spec: EnvSpec) -> None:
    sources = [
        EpisodeSource("long", [numbered_episode(9, False)]),
        EpisodeSource("short", [numbered_episode(3, False)]),
    ]
    assert cut_segments(sources, spec, 1, 5, 50, seed=0).source.unique().tolist() == [0]


def test_the_default_horizon_is_half_the_longest_episode() -> None:
    source = EpisodeSource("a", [numbered_episode(12, False), numbered_episode(30, True)])
    assert choose_horizon([source], None) == 15
    assert choose_horizon([EpisodeSource("a", [numbered_episode(300, False)])], None) == 50
    assert choose_horizon([EpisodeSource("a", [numbered_episode(1, True)])], None) == 1
    assert choose_horizon([source], 30) == 30
    with pytest.raises(ConfigError, match=r"horizon = 31 is longer than any episode played: choose 30 or less"):
        choose_horizon([source], 31)


# -- forecasts --------------------------------------------------------------------------------------------------------


def test_a_perfect_model_forecasts_the_real_segments(walk: Case) -> None:
    found = walk.forecaster(Walk(walk.spec)).forecast(walk.segments)
    torch.testing.assert_close(found.state, walk.segments.state, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.obs, walk.segments.obs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.reward, walk.segments.reward, rtol=0, atol=1e-5)
    assert (found.continuation == 1).all()


def test_batches_give_the_same_forecasts(walk: Case) -> None:
    model = Walk(walk.spec, drift=0.01)
    whole, parts = (Forecaster(model, CPU, 0, batch).forecast(walk.segments) for batch in (1000, 7))
    assert torch.equal(whole.state, parts.state)
    whole, parts = (Forecaster(model, CPU, 0, batch).reconstruct(walk.segments) for batch in (1000, 7))
    assert torch.equal(whole.obs, parts.obs)


def test_the_noise_depends_on_the_draw_alone(linear: Case) -> None:
    forecaster = linear.forecaster(Noisy(linear.spec))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (forecaster.forecast(linear.segments, draw=draw).state for draw in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    nothing = torch.zeros_like(linear.segments.action)
    one = forecaster.forecast(linear.segments, action=nothing).state[:, 0]
    pushed = Noisy(linear.spec, noise=0).step(linear.segments.start.state[:, -1], linear.segments.action[:, 0]).latent
    drift = Noisy(linear.spec, noise=0).step(linear.segments.start.state[:, -1], nothing[:, 0]).latent
    torch.testing.assert_close(first[:, 0] - one, pushed - drift, rtol=1e-4, atol=1e-5)  # the noise cancels


def test_samples_differ_in_their_noise(linear: Case) -> None:
    few = linear.segments.subset(5)
    sampled = linear.forecaster(Noisy(linear.spec)).sample(few, 4)
    assert sampled.state.shape == (5, 4, 6, 4)
    assert sampled.obs.shape == (5, 4, 6, 2, 3)
    assert sampled.reward.shape == (5, 4, 6)
    assert (sampled.state.std(1) > 0.01).all()
    still = linear.forecaster(Noisy(linear.spec, noise=0)).sample(few, 4).state
    assert torch.equal(still, still[:, :1].expand_as(still))


def test_an_order_reaches_the_model(linear: Case) -> None:
    forecaster = linear.forecaster(Sequential(linear.spec, bias=5.0))
    one, two = (forecaster.forecast(linear.segments, order=order).state[:, 0] for order in ((0, 1), (1, 0)))
    torch.testing.assert_close(one - two, torch.tensor([5.0, 0, 0, 0]).expand_as(one), rtol=0, atol=1e-4)


def test_reconstruction_of_the_real_states(linear: Case) -> None:
    found = linear.forecaster(Noisy(linear.spec)).reconstruct(linear.segments)
    assert torch.equal(found.state, linear.segments.state)
    torch.testing.assert_close(found.obs, linear.segments.obs, rtol=1e-4, atol=1e-4)


def test_models_that_draw_latents_reconstruct_the_same_each_time(linear: Case) -> None:
    class Sampled(Noisy):
        def start(self, rows):
            return super().start(rows) + torch.randn(len(rows.state), 1)

    forecaster = linear.forecaster(Sampled(linear.spec))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(forecaster.reconstruct(linear.segments).obs, forecaster.reconstruct(linear.segments).obs)
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_after_a_segment_s_end_are_zero(walk: Case) -> None:
    segments = walk.segments.subset(3)
    acted = segments.rows.acted.clone()
    acted[1, -4:] = False  # as if it had ended three steps early
    shortened = replace(segments, rows=replace(segments.rows, acted=acted))
    found = walk.forecaster(Walk(walk.spec)).forecast(shortened)
    assert shortened.alive.sum(1).tolist() == [6, 3, 6]
    assert not found.state[1, 3:].any() and not found.continuation[1, 3:].any()
    assert found.state[1, :3].any()


def test_a_diverged_model_is_refused(walk: Case) -> None:
    class Diverging(Walk):
        def see(self, state):
            return super().see(state) / (state[:, :1, None] * 0)

    with pytest.raises(DivergenceError, match="the world model's obs is not finite at step 1"):
        walk.forecaster(Diverging(walk.spec)).forecast(walk.segments)
