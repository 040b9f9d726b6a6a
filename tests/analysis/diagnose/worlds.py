"""World models with the true dynamics of toy environments, some wrong on purpose, and their segments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Bootstrap
from dima.analysis.diagnose.episodes import EpisodeSource, FeatureScales, feature_scales, play_fresh
from dima.analysis.diagnose.rollouts import Forecaster, Segments, cut_segments
from dima.data import EnvSpec, Episode, View
from dima.envs import make_env
from dima.envs.toy import Linear, ToyConfig
from dima.experience.episodes import random_policy
from dima.experience.replay import Rows
from dima.world_models.base import Objective, Reveal, Step, WorldModel

CPU = torch.device("cpu")


def numbered_episode(length: int, terminated: bool, number: int = 0) -> Episode:
    """Episode whose row t holds 100 number + t everywhere."""
    ends = torch.arange(length) == length - 1
    rows = 100.0 * number + torch.arange(length + 1)
    return Episode(
        obs=rows[:, None, None].expand(-1, 2, 2).clone(),
        state=rows[:, None].expand(-1, 4).clone(),
        action_mask=torch.ones(length + 1, 2, 1, dtype=torch.bool),
        action=rows[:-1, None, None].expand(-1, 2, 1).clone(),
        reward=rows[:-1].clone(),
        terminated=ends & terminated,
        truncated=ends & (not terminated),
    )


class StateLatentModel(WorldModel[Tensor]):
    """World model whose latent is the state (B, S)."""

    context = 2

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec

    def start(self, rows: Rows) -> Tensor:
        return rows.state[:, -1]

    def observe(self, latent: Tensor) -> View:
        shape = (len(latent), self.spec.n_agents, self.spec.action_dim)
        return View(self.see(latent), latent, torch.ones(shape, dtype=torch.bool), torch.zeros(shape))

    def see(self, state: Tensor) -> Tensor:
        raise NotImplementedError

    def update_statistics(self, episodes: Any) -> None: ...
    def objectives(self) -> dict[str, Objective]:
        return {}


class Walk(StateLatentModel):
    """Dynamics of toy/walk, which has no noise; really ``strength`` of each agent's action is 1, ``drift`` 0."""

    def __init__(self, spec: EnvSpec, strength: Sequence[float] = (1, 1), drift: float = 0.0) -> None:
        super().__init__(spec)
        self.strength, self.drift = torch.tensor(strength, dtype=torch.float32), drift

    def see(self, state: Tensor) -> Tensor:
        return state.unflatten(-1, (2, -1)).transpose(1, 2)

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        position, target = latent.chunk(2, dim=-1)
        push = self.strength * action[..., 0].clamp(-1, 1)
        position = (position + 0.2 * push + self.drift).clamp(-1, 1)
        reward = -(position - target).abs().mean(-1)
        return Step(torch.cat([position, target], dim=-1), reward, torch.ones(len(latent)))


class Noisy(StateLatentModel):
    """Dynamics of toy/linear; really ``noise`` is 1."""

    def __init__(self, spec: EnvSpec, noise: float = 1.0) -> None:
        super().__init__(spec)
        world = Linear(ToyConfig(n_agents=spec.n_agents))
        self.A, self.B, self.C, self.root = (
            torch.from_numpy(array).float() for array in (world.A, world.B, world.C, world._root)
        )
        self.noise = noise

    def see(self, state: Tensor) -> Tensor:
        return torch.einsum("nos,bs->bno", self.C, state)

    def mean(self, latent: Tensor, action: Tensor) -> Tensor:
        return latent @ self.A.T + torch.einsum("nsa,bna->bs", self.B, action.clamp(-1, 1))

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        after = self.mean(latent, action) + self.noise * torch.randn_like(latent) @ self.root.T
        return Step(after, -after.square().mean(-1), torch.ones(len(latent)))


class Sequential(Noisy):
    """Reveals one agent after another; the last one's number times ``bias`` shifts the first state feature."""

    def __init__(self, spec: EnvSpec, bias: float = 0.0, noise: float = 1.0) -> None:
        super().__init__(spec, noise)
        self.bias = bias

    @property
    def reveal_order(self) -> tuple[int, ...]:
        return tuple(range(self.spec.n_agents))

    def step_in_order(self, latent: Tensor, action: Tensor, order: Sequence[int]) -> Step[Tensor]:
        after, reward, continuation = self.step(latent, action)
        return Step(after + self.bias * order[-1] * torch.eye(after.shape[-1])[0], reward, continuation)

    def reveal(self, latent: Tensor, action: Tensor, order: Sequence[int]) -> Reveal:
        agents = [sorted(order[: k + 1]) for k in range(len(order))]
        estimates = []
        for seen in agents:
            known = torch.zeros_like(action)
            known[:, seen] = action[:, seen]
            estimates.append(self.mean(latent, known))
        return Reveal(agents, torch.stack(estimates))


class Case:
    """Segments of random episodes of a toy task."""

    def __init__(self, task: str, episodes: int = 24, horizon: int = 6, count: int = 120, **settings: Any) -> None:
        self.make = partial(make_env, task, ToyConfig(**settings))
        self.env = self.make()
        self.spec = self.env.spec
        self.sources: list[EpisodeSource] = play_fresh(
            self.make, {"random": random_policy(self.spec)}, episodes, seed=3
        )
        self.scales: FeatureScales = feature_scales(self.env, self.sources[0].episodes)
        self.segments: Segments = cut_segments(self.sources, self.spec, 2, horizon, count, seed=4)
        self.bootstrap = Bootstrap(self.segments.episode, seed=5, resamples=200)

    def forecaster(self, model: WorldModel[Any]) -> Forecaster:
        return Forecaster(model, CPU, seed=6)
