"""Held-out error: values worked out by hand, the same segments and noise for every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec, Episode, View
from dima.errors import ConfigError
from dima.training.validation import HeldOut, state_std
from dima.world_models.base import Step, WorldModel

SPEC = EnvSpec(("a", "b"), 1, (1, 2), (1, 1), discrete=False)
pytestmark = pytest.mark.usefixtures("one_thread")


def walk(steps: int, terminated: bool = False, start: float = 0.0) -> Episode:
    """The state is the sum of all actions so far, which are 1 and 2; rewards are 5."""
    state = start + 3.0 * torch.arange(steps + 1)[:, None]
    obs = torch.stack([torch.cat([state, 0 * state], 1), torch.cat([-state, 2 * state], 1)], dim=1)
    ends = torch.arange(steps) == steps - 1
    action = torch.tensor([[1.0], [2.0]]).expand(steps, 2, 1)
    mask = torch.ones(steps + 1, 2, 1, dtype=torch.bool)
    return Episode(obs, state, mask, action, torch.full((steps,), 5.0), ends & terminated, ends & (not terminated))


@dataclass
class At:
    """A latent."""

    state: Tensor  # (B, 1)


class Biased(WorldModel[At]):
    """A model with a bias and Gaussian noise."""

    spec, context = SPEC, 1

    def __init__(self, bias: float = 0.0, noise: float = 0.0, continuation: float = 1.0) -> None:
        super().__init__()
        self.bias, self.noise, self.certain = bias, noise, continuation

    def start(self, rows: Any) -> At:
        return At(rows.state[:, -1])

    def observe(self, latent: At) -> View:
        state, batch = latent.state, len(latent.state)
        obs = torch.stack([torch.cat([state, 7 + 0 * state], 1), torch.cat([-state, 2 * state], 1)], dim=1)
        return View(obs, state, torch.ones(batch, 2, 1, dtype=torch.bool), torch.zeros(batch, 2, 1))

    def step(self, latent: At, action: Tensor) -> Step[At]:
        state = latent.state + action.sum(1) + self.bias + self.noise * torch.randn_like(latent.state)
        return Step(At(state), 4.0 + 0 * state[:, 0], self.certain + 0 * state[:, 0])

    def update_statistics(self, episodes: Any) -> None: ...
    def objectives(self) -> dict[str, Any]:
        return {}


def held_out(*episodes: Episode, horizon: int = 3, segments: int = 100, scale: float = 2.0) -> HeldOut:
    return HeldOut(episodes, torch.tensor([scale]), SPEC, 1, horizon, segments, "cpu")


def test_errors_equal_those_worked_out_by_hand():
    errors = held_out(walk(6), walk(5, start=10.0)).errors(Biased(bias=0.5))
    assert errors == pytest.approx(
        {
            "state_1": 0.5 / 2,
            "state_3": 1.5 / 2,
            "persistence_1": 3 / 2,
            "persistence_3": 9 / 2,
            "obs_1": 0.5 * (1 + 1.5) / 2,  # agent b's second feature is twice the state; the padding of a is left out
            "obs_3": 1.5 * (1 + 1.5) / 2,
            "obs_sum_3": (0.5 + 1.0 + 1.5) * (1 + 1.5) / 2,
            "reward": 1.0,
            "continuation": 0.0,
        }
    )


def test_a_model_of_observations_alone_is_measured_on_them():
    class Blind(Biased):
        predicts_state = False

    errors, of_both = (held_out(walk(6)).errors(kind(bias=0.5)) for kind in (Blind, Biased))
    assert errors.pop("obs_persistence_1") == pytest.approx(3 * (1 + 1.5) / 2)
    assert errors.pop("obs_persistence_3") == pytest.approx(9 * (1 + 1.5) / 2)
    assert errors == {name: error for name, error in of_both.items() if not name.startswith(("state", "persistence"))}


def test_a_perfect_model_makes_no_error():
    errors = held_out(walk(6)).errors(Biased())
    assert all(errors[name] == 0 for name in errors if not name.startswith(("persistence", "reward")))


def test_only_whole_segments_are_forecast_terminations_included():
    validation = held_out(walk(4, terminated=True), walk(2), horizon=3)
    assert validation.rows.state[..., 0].tolist() == [[0, 3, 6, 9], [3, 6, 9, 12]]
    assert validation.rows.terminated.tolist() == [[False] * 3 + [True], [False, False, True, False]]
    assert validation.errors(Biased(continuation=0.75))["continuation"] == pytest.approx((5 * 0.25**2 + 0.75**2) / 6)


def test_noise_and_segments_are_the_same_for_every_model_and_call():
    episodes = [walk(30, start=float(n)) for n in range(5)]
    one, other = held_out(*episodes, segments=9), held_out(*episodes, segments=9)
    assert len(one.rows.state) == 9
    assert torch.equal(one.rows.state, other.rows.state)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), one.errors(Biased(noise=1.0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert other.errors(Biased(noise=1.0)) == first
    assert first["state_1"] > 0


def test_without_long_enough_held_out_episodes_there_is_one_clear_error():
    with pytest.raises(
        ConfigError, match="evaluation_horizon = 9 is longer than any held-out episode: choose 6 or less"
    ):
        held_out(walk(6), walk(2), horizon=9)
    with pytest.raises(ConfigError, match="no episode is held out"):
        held_out()


def test_state_std_is_over_all_states():
    episodes = [walk(4), walk(7, start=3.0)]
    states = torch.cat([episode.state for episode in episodes]).double()
    torch.testing.assert_close(state_std(episodes, SPEC), states.std(0, correction=0).float())
