"""Effect of the reveal order, and error during denoising, of models where both are known."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.reveal import choose_orders, denoising_error, forecast_count, order_sensitivity
from dima.errors import DivergenceError
from tests.analysis.diagnose.worlds import Case, Sequential


def test_orders_that_do_not_matter(trio: Case) -> None:
    calls = []
    found = order_sensitivity(
        trio.forecaster(Sequential(trio.spec)), trio.segments, trio.scales, 24, 0, lambda: calls.append(None)
    )
    assert len(found.orders) == 6 and found.variants == 8
    assert len(calls) == forecast_count(3, 24) == 6 + 8 + 8
    assert found.order.mean == pytest.approx([0] * 6, abs=1e-3)
    assert found.order_noise_ratio == pytest.approx([0] * 6, abs=2e-3)
    assert all(low > 0.2 for curve in (found.noise, found.action) for low in curve.low)


def test_deviations_of_a_known_bias_and_noise(trio: Case) -> None:
    """Orders end in agent 0, 1 or 2 equally often, which shifts one of four features by as many times the bias."""
    model = Sequential(trio.spec, bias=0.9)
    found = order_sensitivity(trio.forecaster(model), trio.segments, trio.scales, 24, 0)
    scale = float(trio.scales.state_scale[0])
    variance = 0.9**2 * (2 * (0 + 1 + 4) - 6) / 5  # of 0, 0, 1, 1, 2, 2, unbiased
    assert found.order.at(1) == pytest.approx((variance / 4) ** 0.5 / scale, rel=1e-3)
    noise = model.root @ model.root.T
    expected = (noise.diagonal() / trio.scales.state_scale**2).mean().sqrt()
    assert found.noise.at(1) == pytest.approx(float(expected), rel=0.12)
    assert found.order_noise_ratio[0] == pytest.approx(found.order.at(1) / found.noise.at(1))
    assert found.order_action_ratio[0] == pytest.approx(found.order.at(1) / found.action.at(1))


def test_without_noise_its_ratio_is_undefined(trio: Case) -> None:
    found = order_sensitivity(trio.forecaster(Sequential(trio.spec, noise=0)), trio.segments, trio.scales, 24, 0)
    assert found.noise.mean == pytest.approx([0] * 6, abs=1e-6)
    assert all(value is None or value >= 0 for value in found.order_noise_ratio)


def test_all_orders_of_a_small_team_and_some_of_a_large_one() -> None:
    assert choose_orders(2, 24, 0) == [(0, 1), (1, 0)]
    assert len(set(choose_orders(4, 24, 0))) == 24
    many = choose_orders(6, 24, 0)
    assert len(set(many)) == 24
    assert all(sorted(order) == list(range(6)) for order in many)
    assert choose_orders(6, 24, 0) == many != choose_orders(6, 24, 1)


# -- denoising --------------------------------------------------------------------------------------------------------


def test_each_agent_lowers_the_error_of_the_estimate(trio: Case) -> None:
    found = denoising_error(trio.forecaster(Sequential(trio.spec, noise=0)), trio.segments, trio.scales, 0)
    assert found.order == ["agent_0", "agent_1", "agent_2"]
    assert [stage.agents for stage in found.stages] == [found.order[:1], found.order[:2], found.order]
    assert found.level_agents == [stage.agents for stage in found.stages]
    model = Sequential(trio.spec)
    start, action = trio.segments.start.state[:, -1], trio.segments.action[:, 0]
    for revealed, stage in enumerate(found.stages, 1):
        known = action * (torch.arange(3) < revealed)[:, None]
        error = (model.mean(start, known) - trio.segments.state[:, 0]).abs() / trio.scales.state_scale
        assert stage.error.at(1) == pytest.approx(float(error.mean()), rel=1e-4)
        assert found.level_errors["state"][revealed - 1] == pytest.approx(float(error.mean()), rel=1e-4)
    assert found.stages[0].error.at(1) > found.stages[2].error.at(1)


def test_levels_that_see_the_same_agents_are_one_stage(trio: Case) -> None:
    class Joint(Sequential):
        def reveal(self, latent, action, order):
            reveal = super().reveal(latent, action, order)
            return reveal._replace(agents=[[0, 1, 2]] * 3)

    found = denoising_error(trio.forecaster(Joint(trio.spec)), trio.segments, trio.scales, 0)
    assert [stage.agents for stage in found.stages] == [["agent_0", "agent_1", "agent_2"]]
    assert len(found.level_errors["state"]) == 3


def test_a_diverged_model_is_refused(trio: Case) -> None:
    class Diverging(Sequential):
        def reveal(self, latent, action, order):
            reveal = super().reveal(latent, action, order)
            return reveal._replace(estimate=reveal.estimate / 0)

    with pytest.raises(DivergenceError, match="not finite"):
        denoising_error(trio.forecaster(Diverging(trio.spec)), trio.segments, trio.scales, 0)
