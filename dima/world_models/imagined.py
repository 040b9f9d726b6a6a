"""Imaginations side by side that begin in real states, end, and begin anew: the core of imagined environments."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dima.data import View
from dima.envs.base import Joint, JointEnv
from dima.errors import DivergenceError
from dima.experience.replay import Replay, Rows
from dima.runtime.rng import RandomStream
from dima.world_models.base import PartialReset, WorldModel


class InitialStates(Protocol):
    """Where imagined episodes begin."""

    def draw(self, count: int) -> Rows:
        """(count, C, ...) real rows, the newest last, by PyTorch's random numbers."""


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
    """B imaginations side by side: one call of the world model steps them all.

    Args:
        world_model: in evaluation mode.
        starts: where they begin.
        count: B.
        horizon: steps after which an episode is truncated.
        device: where the world model lives.
        seed: of everything random; None takes one from the operating system.
    """

    view: View  # what the B teams see now, (B, ...)

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
        self.steps = torch.zeros(count, dtype=torch.long)  # of each one's episode
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Begin the stream of random numbers anew."""
        self._stream = RandomStream(self.device, seed)

    @torch.no_grad()
    def begin(self, which: Tensor | None = None) -> None:
        """Begin new episodes, everywhere or where ``which`` (B,) is True."""
        which = torch.ones(self.count, dtype=torch.bool) if which is None else which
        place = (which.cumsum(0) - 1).clamp(min=0)  # of each one's start among those drawn
        with self._stream.draw():
            rows = self.starts.draw(int(which.sum()))[place.to(self.device)]
            fresh = self.world_model.start(rows)
        if which.all():
            self._latent = fresh
        else:
            assert isinstance(self.world_model, PartialReset)
            self._latent = self.world_model.reset_rows(self._latent, fresh, which.to(self.device))
        self.steps[which] = 0
        self.view = self.world_model.observe(self._latent)

    @torch.no_grad()
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take joint actions (B, N, A): reward, terminated and truncated, (B,) each, on the CPU.

        Raises:
            DivergenceError: the model predicts something that is not finite.
        """
        with self._stream.draw():
            self._latent, reward, continuation = self.world_model.step(self._latent, action.to(self.device))
            ends = torch.rand_like(continuation) >= continuation
        self.view = self.world_model.observe(self._latent)
        self.steps += 1
        finite = self.view.obs.flatten(1).isfinite().all(1) & self.view.state.isfinite().all(1) & reward.isfinite()
        if not finite.all():
            step = int(self.steps[(~finite).cpu()].min())
            raise DivergenceError(
                f"the world model's prediction is not finite {step} steps into an imagined episode: "
                "shorten the horizon, or train the model longer"
            )
        terminated = ends.cpu()
        return reward.cpu(), terminated, (self.steps >= self.horizon) & ~terminated

    def joint(self) -> Joint:
        """What the B teams see now, as arrays of a vectorised environment."""
        view = self.view
        return {
            "obs": view.obs.cpu().numpy(),
            "state": view.state.cpu().numpy(),
            "action_mask": view.action_mask.cpu().numpy(),
        }
