"""A batch of imagined rollouts with per-row reset: the core of imagined environments."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dima.data import View, blank
from dima.envs.base import Joint, JointEnv
from dima.errors import DivergenceError
from dima.experience.replay import Replay, Rows
from dima.runtime.rng import RandomStream
from dima.world_models.base import PartialReset, WorldModel, cheapest_step, observe


class InitialStates(Protocol):
    """Initial states of imagined episodes."""

    def draw(self, count: int) -> Rows:
        """Draw (count, C, ...) real rows, the newest last, from PyTorch's random state."""


class ReplayInitialStates:
    """Any step of stored episodes."""

    def __init__(self, replay: Replay, context: int) -> None:
        self.replay, self.context = replay, context

    def draw(self, count: int) -> Rows:
        return self.replay.gather(self.replay.recent(count), self.context - 1, 0)


class EpisodeInitialStates:
    """The first step of fresh real episodes."""

    def __init__(self, env: JointEnv, context: int, device: torch.device | str) -> None:
        self.env, self.context, self.device = env, context, device

    def draw(self, count: int) -> Rows:
        now = [self.env.reset(seed=int(seed))[0] for seed in torch.randint(2**31, (count,))]
        spec, shape = self.env.spec, (count, self.context)

        def newest(name: str, *size: int) -> Tensor:
            rows = torch.zeros(*shape, *size)
            rows[:, -1] = torch.from_numpy(np.stack([joint[name] for joint in now]))
            return rows

        action = torch.zeros(*shape, spec.n_agents, spec.action_dim)
        valid = torch.zeros(shape, dtype=torch.bool)
        valid[:, -1] = True
        return Rows(
            state=newest("state", spec.state_dim),
            obs=newest("obs", spec.n_agents, spec.obs_dim),
            action_mask=newest("action_mask", *action.shape[2:]).bool(),
            action=action,
            reward=torch.zeros(shape),
            terminated=torch.zeros_like(valid),
            episode=torch.arange(count)[:, None].expand(shape),
            valid=valid,
            acted=valid,
        ).to(self.device)


class ImaginedBatch:
    """B imagined episodes, stepped by one call of the world model.

    Args:
        world_model: in evaluation mode.
        starts: their initial states.
        count: B.
        horizon: steps after which an episode is truncated.
        device: where the world model lives.
        seed: of everything random; None takes one from the operating system.
    """

    view: View  # of the B teams, (B, ...)

    def __init__(
        self,
        world_model: WorldModel[Any],
        starts: InitialStates,
        count: int,
        horizon: int,
        device: torch.device | str,
        seed: int | None = None,
    ) -> None:
        self.world_model, self.starts, self.count = world_model, starts, count
        self.horizon, self.device = horizon, device
        self.steps = torch.zeros(count, dtype=torch.long)  # of each row's episode
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Reseed the stream of random numbers."""
        self._stream = RandomStream(self.device, seed)

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None) -> None:
        """Start new episodes, in all rows or the selected ones, (B,) bool."""
        rows = torch.ones(self.count, dtype=torch.bool) if rows is None else rows
        place = (rows.cumsum(0) - 1).clamp(min=0)  # of each row's start among those drawn
        with self._stream.draw():
            fresh = self.world_model.start(self.starts.draw(int(rows.sum()))[place.to(self.device)])
        alive = None
        if rows.all():
            self._latent = fresh
        else:
            assert isinstance(self.world_model, PartialReset)
            self._latent = self.world_model.reset_rows(self._latent, fresh, rows.to(self.device))
            if (alive := self.alive) is not None:
                alive = alive | rows.to(self.device)[:, None]
        self.steps[rows] = 0
        self.view = observe(self.world_model, self._latent, alive)

    @property
    def alive(self) -> Tensor | None:
        """(B, N) bool: who is there; None where nobody leaves before the others."""
        return self.world_model.spec.alive(self.view.state) if self.world_model.predicts_state else None

    @torch.no_grad()
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step with joint actions (B, N, A); returns reward, terminated and truncated, (B,) each, on the CPU.

        Raises:
            DivergenceError: the model predicts something that is not finite.
        """
        before = self.alive
        with self._stream.draw():
            action = blank(action.to(self.device), before)
            self._latent, reward, continuation = cheapest_step(self.world_model)(self._latent, action)
            ends = torch.rand_like(continuation) >= continuation
        self.view = observe(self.world_model, self._latent, before)
        if (alive := self.alive) is not None:
            ends = ends | ~alive.any(-1)
        self.steps += 1
        finite = self.view.obs.flatten(1).isfinite().all(1) & reward.isfinite()
        if self.world_model.predicts_state:
            finite &= self.view.state.isfinite().all(1)
        if not finite.all():
            step = int(self.steps[(~finite).cpu()].min())
            raise DivergenceError(
                f"the world model's prediction is not finite {step} steps into an imagined episode: "
                "shorten the horizon, or train the model longer"
            )
        terminated = ends.cpu()
        return reward.cpu(), terminated, (self.steps >= self.horizon) & ~terminated

    def joint(self) -> Joint:
        """The view of the B teams as arrays of a vectorised environment; without a state that is not predicted."""
        names = ["obs", *["state"] * self.world_model.predicts_state, "action_mask"]
        return {name: getattr(self.view, name).cpu().numpy().copy() for name in names}  # the caller's own
