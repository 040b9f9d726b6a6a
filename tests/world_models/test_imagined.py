"""A batch of imagined rollouts: initial states, steps, ends, per-row reset, random stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec, Episode, View
from dima.envs import make_env
from dima.errors import DivergenceError
from dima.experience.replay import Replay, Rows
from dima.world_models.base import Objective, Step, WorldModel
from dima.world_models.imagined import EpisodeInitialStates, ImaginedBatch, ReplayInitialStates

SPEC = EnvSpec(("a",), 1, (1,), (1,), discrete=False)
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class At:
    """Latent of :class:`Line`: the position and the number of steps."""

    place: Tensor  # (B, 1)
    age: Tensor  # (B,)


class Line(WorldModel[At]):
    """The action and noise push along a line; the reward is the age."""

    spec, context = SPEC, 2

    def __init__(self, continuation: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.certain, self.noise = continuation, noise
        self.started: list[int] = []

    def start(self, rows: Rows) -> At:
        assert rows.state.shape[1:] == (2, 1)
        self.started.append(len(rows.state))
        return At(rows.state[:, -1], torch.zeros(len(rows.state)))

    def reset_rows(self, latent: At, fresh: At, rows: Tensor) -> At:
        place = torch.where(rows[:, None], fresh.place, latent.place)
        return At(place, torch.where(rows, fresh.age, latent.age))

    def observe(self, latent: At) -> View:
        mask = torch.ones(len(latent.age), 1, 1, dtype=torch.bool)
        return View(latent.place[:, None], latent.place, mask, torch.zeros(len(latent.age), 1, 1))

    def step(self, latent: At, action: Tensor) -> Step[At]:
        place = latent.place + action[:, 0] + self.noise * torch.randn_like(latent.place)
        age = latent.age + 1
        return Step(At(place, age), age, torch.full_like(age, self.certain))

    def update_statistics(self, episodes: Any) -> None: ...
    def objectives(self) -> dict[str, Objective]:
        return {}


class Counted:
    """InitialStates at 100, 101, 102, ..."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, count: int) -> Rows:
        place = 100.0 + self.drawn + torch.arange(float(count))
        self.drawn += count
        state, zeros = place[:, None, None].expand(count, 2, 1), torch.zeros(count, 2)
        team = torch.zeros(count, 2, 1, 1)
        return Rows(state, team, team.bool(), team, zeros, zeros.bool(), zeros.long(), zeros == 0, zeros == 0)


def worlds(count: int = 3, horizon: int = 9, seed: int = 0, **model: float) -> ImaginedBatch:
    made = ImaginedBatch(Line(**model), Counted(), count, horizon, "cpu", seed)
    made.reset()
    return made


def test_rollouts_start_in_real_states_and_step_the_model():
    ours = worlds()
    assert ours.view.state[:, 0].tolist() == [100, 101, 102]
    reward, terminated, truncated = ours.step(torch.tensor([[[1.0]], [[0.0]], [[-1.0]]]))
    assert ours.view.state[:, 0].tolist() == [101, 101, 101]
    assert ours.joint()["obs"].shape == (3, 1, 1)
    assert reward.tolist() == [1, 1, 1]
    assert not terminated.any() and not truncated.any()


def test_resetting_one_row_leaves_the_others_unchanged():
    ours = worlds()
    for _ in range(2):
        ours.step(torch.zeros(3, 1, 1))
    ours.reset(torch.tensor([False, True, False]))
    assert ours.view.state[:, 0].tolist() == [100, 103, 102]
    assert ours.step(torch.zeros(3, 1, 1))[0].tolist() == [3, 1, 3]
    assert ours.steps.tolist() == [3, 1, 3]
    assert ours.starts.drawn == 4  # no more than were needed


def test_the_horizon_truncates_each_row():
    ours = worlds(horizon=3)
    ours.step(torch.zeros(3, 1, 1))
    ours.reset(torch.tensor([True, False, False]))
    told = [ours.step(torch.zeros(3, 1, 1))[2].tolist() for _ in range(3)]
    assert told == [[False, False, False], [False, True, True], [True, True, True]]


def test_episodes_terminate_with_the_predicted_probability():
    ours = worlds(2000, continuation=0.8)
    terminated = ours.step(torch.zeros(2000, 1, 1))[1]
    assert abs(float(terminated.double().mean()) - 0.2) < 0.03
    assert not worlds(50, continuation=1.0).step(torch.zeros(50, 1, 1))[1].any()
    assert worlds(50, continuation=0.0).step(torch.zeros(50, 1, 1))[1].all()


def test_termination_at_the_horizon_is_no_truncation():
    _, terminated, truncated = worlds(continuation=0.0, horizon=1).step(torch.zeros(3, 1, 1))
    assert terminated.all() and not truncated.any()


def test_results_depend_on_the_seed_and_leave_the_global_stream_unchanged():
    def path(seed: int) -> list[list[float]]:
        ours = worlds(seed=seed, noise=1.0, continuation=0.7)
        return [[float(x) for x in (*ours.step(torch.zeros(3, 1, 1))[1], *ours.view.state[:, 0])] for _ in range(5)]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = path(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert path(4) == first != path(5)
    ours = worlds(seed=4, noise=1.0)
    places = []
    for _ in range(2):
        ours.seed(7)
        ours.starts.drawn = 0
        ours.reset()
        ours.step(torch.zeros(3, 1, 1))
        places.append(ours.view.state.tolist())
    assert places[0] == places[1]


def test_a_prediction_that_is_not_finite_raises():
    ours = worlds()
    ours.step(torch.zeros(3, 1, 1))
    with pytest.raises(DivergenceError, match="not finite 2 steps into an imagined episode"):
        ours.step(torch.tensor([[[0.0]], [[torch.inf]], [[0.0]]]))


# -- initial states ---------------------------------------------------------------------------------------------------


def test_any_stored_step_can_be_an_initial_state():
    steps = 5
    mask = torch.ones(steps + 1, 1, 1, dtype=torch.bool)
    state = torch.arange(steps + 1.0)[:, None]
    no = torch.zeros(steps, dtype=torch.bool)
    episode = Episode(state[:, None], state, mask, torch.ones(steps, 1, 1), torch.zeros(steps), no, no)
    replay = Replay.of([episode, episode], SPEC, "cpu")
    assert (replay.steps, len(replay.lengths)) == (10, 2)
    torch.manual_seed(0)
    rows = ReplayInitialStates(replay, 2).draw(400)
    newest = rows.state[:, 1, 0]
    counts = torch.bincount(newest.long())
    assert len(counts) == steps and counts.min() > 50  # never the last state, where nothing was done
    later = newest > 0
    assert torch.equal(rows.state[later, 0, 0], newest[later] - 1)
    assert not rows.valid[~later, 0].any() and rows.valid[:, 1].all()


def test_fresh_episodes_start_like_the_task():
    env = make_env("toy/switches")
    torch.manual_seed(3)
    rows = EpisodeInitialStates(env, 3, "cpu").draw(20)
    assert rows.state.shape == (20, 3, 2)
    assert rows.valid.tolist() == [[False, False, True]] * 20
    assert not rows.state[:, :2].any() and not rows.action.any()
    assert {tuple(state) for state in rows.state[:, 2].tolist()} == {(0.0, 0.0), (1.0, 0.0)}
    assert torch.equal(rows.obs[:, 2, 0, :2], rows.state[:, 2])
    assert rows.action_mask[:, 2, 1].tolist() == [[True, True, False]] * 20
    torch.manual_seed(3)
    assert torch.equal(EpisodeInitialStates(env, 3, "cpu").draw(20).state, rows.state)
