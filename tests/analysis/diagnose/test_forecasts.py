"""Foretelling is reproducible, in parts as in one go, silent after the end, and finite or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dima.analysis.diagnose.forecasts import Foreteller
from dima.errors import DivergenceError
from tests.analysis.diagnose.worlds import CPU, Case, InTurns, Noisy, Walk


def test_a_perfect_model_foretells_what_happened(walk: Case) -> None:
    told = walk.teller(Walk(walk.spec)).foretell(walk.segments)
    torch.testing.assert_close(told.state, walk.segments.state, rtol=0, atol=1e-5)
    torch.testing.assert_close(told.obs, walk.segments.obs, rtol=0, atol=1e-5)
    torch.testing.assert_close(told.reward, walk.segments.reward, rtol=0, atol=1e-5)
    assert (told.continuation == 1).all()


def test_parts_make_the_same_whole(walk: Case) -> None:
    model = Walk(walk.spec, drift=0.01)
    whole, parts = (Foreteller(model, CPU, 0, batch).foretell(walk.segments) for batch in (1000, 7))
    assert torch.equal(whole.state, parts.state)
    whole, parts = (Foreteller(model, CPU, 0, batch).reconstruct(walk.segments) for batch in (1000, 7))
    assert torch.equal(whole.obs, parts.obs)


def test_the_noise_is_the_draw_s(linear: Case) -> None:
    teller = linear.teller(Noisy(linear.spec))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (teller.foretell(linear.segments, draw=draw).state for draw in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    nothing = torch.zeros_like(linear.segments.action)
    one = teller.foretell(linear.segments, action=nothing).state[:, 0]
    pushed = Noisy(linear.spec, noise=0).step(linear.segments.start.state[:, -1], linear.segments.action[:, 0]).latent
    drift = Noisy(linear.spec, noise=0).step(linear.segments.start.state[:, -1], nothing[:, 0]).latent
    torch.testing.assert_close(first[:, 0] - one, pushed - drift, rtol=1e-4, atol=1e-5)  # the noise cancels


def test_futures_start_alike_and_differ(linear: Case) -> None:
    few = linear.segments.spread_out(5)
    futures = linear.teller(Noisy(linear.spec)).futures(few, 4)
    assert futures.state.shape == (5, 4, 6, 4)
    assert futures.obs.shape == (5, 4, 6, 2, 3)
    assert futures.reward.shape == (5, 4, 6)
    assert (futures.state.std(1) > 0.01).all()
    still = linear.teller(Noisy(linear.spec, noise=0)).futures(few, 4).state
    assert torch.equal(still, still[:, :1].expand_as(still))


def test_an_order_reaches_the_model(linear: Case) -> None:
    teller = linear.teller(InTurns(linear.spec, bias=5.0))
    one, two = (teller.foretell(linear.segments, order=order).state[:, 0] for order in ((0, 1), (1, 0)))
    torch.testing.assert_close(one - two, torch.tensor([5.0, 0, 0, 0]).expand_as(one), rtol=0, atol=1e-4)


def test_what_the_model_sees_of_the_real_states(linear: Case) -> None:
    seen = linear.teller(Noisy(linear.spec)).reconstruct(linear.segments)
    assert torch.equal(seen.state, linear.segments.state)
    torch.testing.assert_close(seen.obs, linear.segments.obs, rtol=1e-4, atol=1e-4)


def test_after_the_end_there_is_nothing(walk: Case) -> None:
    segments = walk.segments.spread_out(3)
    acted = segments.rows.acted.clone()
    acted[1, -4:] = False  # as if it had ended three steps early
    cut_short = replace(segments, rows=replace(segments.rows, acted=acted))
    told = walk.teller(Walk(walk.spec)).foretell(cut_short)
    assert cut_short.alive.sum(1).tolist() == [6, 3, 6]
    assert not told.state[1, 3:].any() and not told.continuation[1, 3:].any()
    assert told.state[1, :3].any()


def test_a_diverged_model_is_refused(walk: Case) -> None:
    class Diverging(Walk):
        def see(self, state):
            return super().see(state) / (state[:, :1, None] * 0)

    with pytest.raises(DivergenceError, match="the world model's obs is not finite at step 1"):
        walk.teller(Diverging(walk.spec)).foretell(walk.segments)
