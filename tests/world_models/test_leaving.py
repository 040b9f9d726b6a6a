"""Imagination with agents that leave: who is there is predicted, and an agent that has left changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dima.data import EnvSpec, Episode, View
from dima.envs.base import AdapterConfig, JointEnv
from dima.experience.replay import Replay, Rows
from dima.training.run_config import build_config
from dima.world_models.base import Objective, Step, WorldModel
from dima.world_models.env import ImaginedEnv, ImaginedVectorEnv
from dima.world_models.imagined import ImaginedBatch
from dima.world_models.rollout import forecast, imagine
from tests.envs.conftest import Puppet

SPEC = EnvSpec(("a", "b", "c"), 1 + 3, (2, 2, 2), (1, 1, 1), discrete=False, agents_leave=True)
FLAGS = torch.tensor(  # of each step: the second falls and rises again, the third wavers above a half
    [[1.0, 0.9, 0.8], [0.9, 0.2, 0.6], [1.1, 0.9, 0.51], [0.8, 1.0, 0.3], [0.1, 1.0, 1.0], [1.0, 1.0, 1.0]]
)
SEEN = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)


@dataclass
class Clock:
    """Latent of :class:`Scripted`."""

    step: Tensor  # (B,)
    pushed: Tensor  # (B, N, A) previous action


class Scripted(WorldModel[Clock]):
    """Predicts the flags of a script; records the actions that it is given."""

    spec, context = SPEC, 1

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def start(self, rows: Rows) -> Clock:
        return Clock(rows.state[:, -1, 0].long(), torch.zeros(len(rows.state), 3, 1))

    def observe(self, latent: Clock) -> View:
        state = torch.cat([latent.step[:, None].float(), FLAGS[latent.step]], dim=1)
        count = len(state)
        return View(torch.full((count, 3, 2), 7.0), state, torch.ones(count, 3, 1, dtype=torch.bool), latent.pushed)

    def step(self, latent: Clock, action: Tensor) -> Step[Clock]:
        self.given.append(action)
        count = len(action)
        return Step(Clock(latent.step + 1, action), torch.full((count,), 3.0), torch.full((count,), 0.9))

    def reset_rows(self, latent: Clock, fresh: Clock, rows: Tensor) -> Clock:
        return Clock(
            torch.where(rows, fresh.step, latent.step), torch.where(rows[:, None, None], fresh.pushed, latent.pushed)
        )

    def update_statistics(self, episodes: Any) -> None: ...
    def objectives(self) -> dict[str, Objective]:
        return {}


def rows(count: int = 2) -> Rows:
    """Real rows at the start, everybody there."""
    state = torch.tensor([0.0, 1, 1, 1]).expand(count, 1, 4)
    yes = torch.ones(count, 1, dtype=torch.bool)
    zeros = torch.zeros(count, 1, 3, 1)
    return Rows(state, torch.ones(count, 1, 3, 2), zeros.bool(), zeros, yes.float(), ~yes, yes.long(), yes, yes)


def act(view: View) -> tuple[Tensor, Tensor]:
    return torch.ones_like(view.previous_action), torch.full(view.obs.shape[:2], -1.0)


def test_the_dead_stay_dead_see_zeros_and_act_zeros_in_imagination() -> None:
    model = Scripted()
    rollout = imagine(model, act, rows(), 5)
    assert torch.equal(SPEC.alive(rollout.state)[0], SEEN[:5])
    assert torch.equal(rollout.state[0, :, 1:], SEEN[:5].float())  # nothing between
    assert torch.equal(rollout.next_state[0, :, 1:], SEEN[1:].float())
    assert torch.equal(rollout.obs[0, ..., 0], 7.0 * SEEN[:5])
    assert torch.equal(rollout.action[0, ..., 0], SEEN[:5].float())
    assert torch.equal(torch.stack(model.given)[:, 0, :, 0], SEEN[:5].float())
    assert torch.equal(rollout.log_prob[0], -SEEN[:5].float())
    torch.testing.assert_close(rollout.continuation[0], torch.tensor([0.9, 0.9, 0.9, 0, 0]))  # nobody is there


def test_forecasts_see_the_same() -> None:
    found = forecast(Scripted(), rows(), torch.ones(2, 5, 3, 1))
    assert torch.equal(SPEC.alive(found.state)[0], SEEN)
    assert torch.equal(found.obs[0, 1:, :, 0], 7.0 * SEEN[1:])


class Start:
    def draw(self, count: int) -> Rows:
        return rows(count)


def test_agents_leave_an_imagined_environment_one_by_one(monkeypatch) -> None:
    model = Scripted()
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # no termination by chance
    names = {a: spaces.Box(-9, 9, (2,), np.float32) for a in SPEC.agents}
    real = JointEnv(
        Puppet(observation=names, state=lambda t, s: s[:1]), name="p", config=AdapterConfig(agents_leave=True)
    )
    env = ImaginedEnv(ImaginedBatch(model, Start(), 1, 9, "cpu", seed=0), real)
    seen, _ = env.reset(seed=0)
    assert env.agents == ["a", "b", "c"]
    assert env.state().shape == (1,)
    one = np.ones(1, np.float32)
    told = []
    while env.agents:
        team = env.agents
        seen, rewards, gone, cut, infos = env.step(dict.fromkeys(team, one))
        assert set(seen) == set(rewards) == set(gone) == set(cut) == set(infos) == set(team)
        assert sum(rewards.values()) / 3 == pytest.approx(3)
        told.append(([a for a in team if gone[a]], list(env.agents), any(cut.values())))
    assert told == [(["b"], ["a", "c"], False), ([], ["a", "c"], False), (["c"], ["a"], False), (["a"], [], False)]
    vector = ImaginedVectorEnv(ImaginedBatch(Scripted(), Start(), 2, 9, "cpu", seed=0), real)
    joint, _ = vector.reset(seed=0)
    ends = []
    for _ in range(5):
        joint, _, terminated, _, _ = vector.step(np.ones((2, 3, 1)))
        ends.append(bool(terminated[0]))
    assert ends == [False, False, False, True, False]
    assert joint["state"][0].tolist() == [1, 1, 0, 1]  # a step into the next episode


# -- fitting ----------------------------------------------------------------------------------------------------------

MORTALS = {
    "continuous": EnvSpec(("a", "b"), 3 + 2, (4, 2), (1, 2), discrete=False, agents_leave=True),
    "choices": EnvSpec(("a", "b"), 3 + 2, (4, 2), (2, 4), discrete=True, masks_actions=True, agents_leave=True),
}


def with_deaths(played: list[Episode], spec: EnvSpec, garbage: bool) -> list[Episode]:
    """Episodes in which the second agent leaves half-way."""
    changed = []
    for episode in played:
        alive = torch.ones(len(episode) + 1, 2, dtype=torch.bool)
        alive[len(episode) // 2 :, 1] = False
        state = torch.cat([spec.own_state(episode.state), alive.float()], dim=1)
        obs, mask = episode.obs.clone(), episode.action_mask.clone()
        obs[~alive], mask[~alive] = (torch.nan, False) if garbage else (0.0, True)
        action = episode.action * alive[:-1, :, None]
        changed.append(replace(episode, state=state, obs=obs, action_mask=mask, action=action))
    return changed


@pytest.mark.parametrize("kind", MORTALS)
@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
def test_fits_do_not_see_the_rows_of_agents_that_have_left(algorithm: str, kind: str, episodes) -> None:
    spec, found = MORTALS[kind], []
    played = episodes(spec, (12, 9, 15, 20))
    for garbage in (False, True):
        torch.manual_seed(1)
        model = build_config("toy/walk", algorithm, "debug").learner.world_model.build(spec)  # type: ignore[attr-defined]
        some = with_deaths(played, spec, garbage)
        model.update_statistics(some)
        replay = Replay.of(some, spec, "cpu", model.visit_counters)
        gradients = {}
        for name, objective in model.objectives().items():
            loss, _ = objective.loss(objective.sample(replay))
            loss.backward()
            gradients |= {f"{name}/{n}": p.grad for n, p in model.get_submodule(name).named_parameters()}
            gradients[f"{name}/loss"] = loss.detach()
        found.append({**gradients, **model.state_dict()})
    for name, value in found[0].items():
        assert (value is None) == (found[1][name] is None)
        assert value is None or torch.equal(value, found[1][name]), name
        assert value is None or torch.isfinite(value).all(), name
    seen = torch.cat([e.obs[: len(e) // 2, 1, :2] for e in played]).double()
    torch.testing.assert_close(model.obs_scale.mean[1, :2], seen.mean(0))
    assert model.obs_scale.count.flatten().tolist() == [sum(len(e) + 1 for e in played), len(seen)]
