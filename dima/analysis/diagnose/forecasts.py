"""Let a world model foretell segments: in parts that fit into memory, from a seed, finite or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dima.analysis.diagnose.segments import Segments
from dima.data import Record
from dima.errors import DivergenceError
from dima.runtime.rng import drawn_from
from dima.world_models.base import SequentialReveal, WorldModel
from dima.world_models.rollout import forecast


@dataclass
class Foretold(Record):
    """What a world model expects after each step of B segments; zero once a segment has ended."""

    state: Tensor  # (B, H, S) environment units
    obs: Tensor  # (B, H, N, O)
    reward: Tensor  # (B, H)
    continuation: Tensor  # (B, H) probability that the task goes on after this step


@dataclass(frozen=True)
class Foreteller:
    """A world model that is asked about segments; answers are on the CPU.

    Attributes:
        world_model: in evaluation mode.
        device: where it lives.
        seed: of its noise. The same segments and the same ``draw`` meet the same noise, whatever else differs.
        batch: segments foretold at a time.
    """

    world_model: WorldModel[Any]
    device: torch.device
    seed: int = 0
    batch: int = 1024

    def foretell(
        self, segments: Segments, *, draw: int = 0, action: Tensor | None = None, order: Sequence[int] | None = None
    ) -> Foretold:
        """One future of every segment.

        Args:
            segments: B of them.
            draw: number of the future; another one meets other noise.
            action: (B, H, N, A) to take in place of what was really done.
            order: of the agents, for a world model that takes them in one after another.

        Raises:
            DivergenceError: the world model expects something that is not finite.
        """
        step: Callable[..., Any] | None = None
        if order is not None:
            assert isinstance(self.world_model, SequentialReveal)
            step = partial(self.world_model.step_in_order, order=order)
        action = segments.action if action is None else action
        parts = []
        with drawn_from(self.device, self.seed, draw):
            for part in torch.arange(len(segments)).split(self.batch):
                start = segments.start[part].to(self.device)
                told = forecast(self.world_model, start, action[part].to(self.device), step)
                parts.append(Foretold(told.state[:, 1:], told.obs[:, 1:], told.reward, told.continuation).to("cpu"))
        return _checked(parts, segments.alive)

    def futures(self, segments: Segments, count: int) -> Foretold:
        """``count`` futures of every segment that differ in their noise alone, (B, count, H, ...)."""
        each = torch.arange(len(segments)).repeat_interleave(count)
        told = self.foretell(segments[each])
        shape = (len(segments), count)
        return Foretold(**{f.name: getattr(told, f.name).unflatten(0, shape) for f in fields(told)})

    @torch.no_grad()
    def reconstruct(self, segments: Segments) -> Foretold:
        """What the world model sees where a segment really went: the error that is left without any foretelling.

        Rewards and continuations are not part of seeing, and stay zero.
        """
        parts = []
        for part in torch.arange(len(segments)).split(self.batch):
            views = []
            for t in range(1, segments.horizon + 1):
                rows = segments.window(t)[part].to(self.device)
                views.append(self.world_model.observe(self.world_model.start(rows)))
            state = torch.stack([view.state for view in views], dim=1)
            nothing = torch.zeros(state.shape[:2])
            parts.append(Foretold(state, torch.stack([v.obs for v in views], dim=1), nothing, nothing).to("cpu"))
        return _checked(parts, segments.alive)


def _checked(parts: Sequence[Foretold], alive: Tensor) -> Foretold:
    """The parts put together, nothing where no segment is alive, and finite."""
    whole = {}
    for field in fields(Foretold):
        values = torch.cat([getattr(part, field.name) for part in parts])
        there = alive.reshape(alive.shape + (1,) * (values.dim() - 2))
        values = torch.where(there, values, 0.0)
        finite = values.isfinite().reshape(*values.shape[:2], -1).all(-1).all(0)
        if not finite.all():
            step = int((~finite).nonzero()[0]) + 1
            raise DivergenceError(
                f"the world model's {field.name} is not finite at step {step} of a segment: it diverged; diagnose an "
                "earlier run, or train again with lower learning rates"
            )
        whole[field.name] = values
    return Foretold(**whole)
