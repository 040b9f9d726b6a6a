"""The change of a forecast with the order of the agents, on models whose change is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.studies.order import order_change
from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.world_models.base import Step, WorldModel
from tests.analysis.diagnose.worlds import StateLatentModel

SPEC = EnvSpec(agents=("a", "b"), state_dim=1, obs_sizes=(1, 1), action_sizes=(1, 1), discrete=False)


class Sum(StateLatentModel):
    """The next state is a weighted sum of the agents' actions, and noise."""

    context = 1

    def __init__(self, weights: list[float], noise: float) -> None:
        super().__init__(SPEC)
        self.weights, self.noise = torch.tensor(weights), noise

    def see(self, state: Tensor) -> Tensor:
        return state.new_zeros(len(state), 2, 1)

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        state = (action[..., 0] * self.weights).sum(-1, keepdim=True) + self.noise * torch.randn(len(latent), 1)
        return Step(state, state[:, 0], torch.ones(len(latent)))


def measure(model: WorldModel[Tensor]) -> dict[str, list[float]]:
    rows, steps = 3, 2
    zeros = torch.zeros(rows, 1, 2, 1)
    start = Rows(
        state=torch.zeros(rows, 1, 1),
        obs=zeros,
        action_mask=zeros.bool(),
        action=zeros,
        reward=torch.zeros(rows, 1),
        terminated=torch.zeros(rows, 1, dtype=torch.bool),
        episode=torch.zeros(rows, 1, dtype=torch.long),
        valid=torch.ones(rows, 1, dtype=torch.bool),
        acted=torch.ones(rows, 1, dtype=torch.bool),
    )
    action = torch.tensor([1.0, 3.0])[None, None, :, None].expand(rows, steps, 2, 1)
    change = order_change(model, start, action, torch.ones(1))
    assert change is not None
    return change


def test_places_matter_to_a_model_that_weighs_them() -> None:
    # 1 * 2 + 3 * 0 or 3 * 2 + 1 * 0: 2 and 6, whose standard deviation is 4 / sqrt(2)
    assert measure(Sum([2.0, 0.0], noise=0.0))["order"] == pytest.approx([4 / 2**0.5] * 2)


def test_places_do_not_matter_to_a_model_that_adds_up_and_noise_is_told_apart() -> None:
    change = measure(Sum([1.0, 1.0], noise=1.0))
    assert change["order"] == pytest.approx([0.0, 0.0], abs=1e-6)  # the same noise for every order
    assert change["noise"] == pytest.approx([0.25, 0.25], rel=0.5)  # of a mean over 16 draws
