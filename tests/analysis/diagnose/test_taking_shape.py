"""The estimate sharpens as the agents are revealed, by what each of them does."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.denoising import taking_shape
from dima.errors import DivergenceError
from tests.analysis.diagnose.worlds import Case, InTurns


def test_each_agent_sharpens_the_estimate(trio: Case) -> None:
    found = taking_shape(trio.teller(InTurns(trio.spec, noise=0)), trio.segments, trio.units, 0)
    assert found.order == ["agent_0", "agent_1", "agent_2"]
    assert [stage.agents for stage in found.stages] == [found.order[:1], found.order[:2], found.order]
    assert found.level_agents == [stage.agents for stage in found.stages]
    model = InTurns(trio.spec)
    start, action = trio.segments.start.state[:, -1], trio.segments.action[:, 0]
    for revealed, stage in enumerate(found.stages, 1):
        known = action * (torch.arange(3) < revealed)[:, None]
        gap = (model.mean(start, known) - trio.segments.state[:, 0]).abs() / trio.units.state_scale
        assert stage.error.at(1) == pytest.approx(float(gap.mean()), rel=1e-4)
        assert found.levels["state"][revealed - 1] == pytest.approx(float(gap.mean()), rel=1e-4)
    assert found.stages[0].error.at(1) > found.stages[2].error.at(1)


def test_levels_that_see_the_same_agents_are_one_stage(trio: Case) -> None:
    class Joint(InTurns):
        def reveal(self, latent, action, order):
            told = super().reveal(latent, action, order)
            return told._replace(agents=[[0, 1, 2]] * 3)

    found = taking_shape(trio.teller(Joint(trio.spec)), trio.segments, trio.units, 0)
    assert [stage.agents for stage in found.stages] == [["agent_0", "agent_1", "agent_2"]]
    assert len(found.levels["state"]) == 3


def test_a_diverged_model_is_refused(trio: Case) -> None:
    class Diverging(InTurns):
        def reveal(self, latent, action, order):
            told = super().reveal(latent, action, order)
            return told._replace(estimate=told.estimate / 0)

    with pytest.raises(DivergenceError, match="not finite"):
        taking_shape(trio.teller(Diverging(trio.spec)), trio.segments, trio.units, 0)
