"""Orders that do not matter, that matter by a known amount, and how many of them are tried."""

from __future__ import annotations

import pytest

from dima.analysis.diagnose.order import future_count, order_spread, some_orders
from tests.analysis.diagnose.worlds import Case, InTurns


def test_orders_that_do_not_matter_spread_nothing(trio: Case) -> None:
    calls = []
    found = order_spread(trio.teller(InTurns(trio.spec)), trio.segments, trio.units, 24, 0, lambda: calls.append(None))
    assert len(found.orders) == 6 and found.members == 8
    assert len(calls) == future_count(3, 24) == 6 + 8 + 8
    assert found.order.mean == pytest.approx([0] * 6, abs=1e-3)
    assert found.share_of_noise == pytest.approx([0] * 6, abs=2e-3)
    assert all(low > 0.2 for curve in (found.noise, found.action) for low in curve.low)


def test_spreads_are_what_was_put_in(trio: Case) -> None:
    """Orders end in agent 0, 1 or 2 equally often, which shifts one of four features by as many times the bias."""
    model = InTurns(trio.spec, bias=0.9)
    found = order_spread(trio.teller(model), trio.segments, trio.units, 24, 0)
    scale = float(trio.units.state_scale[0])
    variance = 0.9**2 * (2 * (0 + 1 + 4) - 6) / 5  # of 0, 0, 1, 1, 2, 2, unbiased
    assert found.order.at(1) == pytest.approx((variance / 4) ** 0.5 / scale, rel=1e-3)
    noise = model.root @ model.root.T
    expected = (noise.diagonal() / trio.units.state_scale**2).mean().sqrt()
    assert found.noise.at(1) == pytest.approx(float(expected), rel=0.12)
    assert found.share_of_noise[0] == pytest.approx(found.order.at(1) / found.noise.at(1))
    assert found.share_of_action[0] == pytest.approx(found.order.at(1) / found.action.at(1))


def test_without_noise_there_is_no_share_of_it(trio: Case) -> None:
    found = order_spread(trio.teller(InTurns(trio.spec, noise=0)), trio.segments, trio.units, 24, 0)
    assert found.noise.mean == pytest.approx([0] * 6, abs=1e-6)
    assert all(value is None or value >= 0 for value in found.share_of_noise)


def test_all_orders_of_a_small_team_and_some_of_a_large_one() -> None:
    assert some_orders(2, 24, 0) == [(0, 1), (1, 0)]
    assert len(set(some_orders(4, 24, 0))) == 24
    many = some_orders(6, 24, 0)
    assert len(set(many)) == 24
    assert all(sorted(order) == list(range(6)) for order in many)
    assert some_orders(6, 24, 0) == many != some_orders(6, 24, 1)
