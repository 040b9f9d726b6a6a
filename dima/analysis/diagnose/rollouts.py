"""Segments of real episodes, and a world model's forecasts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.episodes import EpisodeSource
from dima.data import EnvSpec, Record
from dima.errors import ConfigError, DivergenceError
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.runtime.rng import drawn_from
from dima.world_models.base import SequentialReveal, WorldModel, observe
from dima.world_models.rollout import forecast

_MAX_DEFAULT_HORIZON = 50  # steps


@dataclass
class Segments:
    """B segments of H steps, each with the C real rows that a forecast starts from.

    A segment that reaches a termination is shorter; a time limit shortens none.
    """

    rows: Rows  # (B, C + H, ...), the start being the C-th
    context: int  # C
    source: Tensor  # (B,) index of the source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Tensor) -> Segments:
        return replace(self, rows=self.rows[index], source=self.source[index])

    def window(self, t: int) -> Rows:
        """(B, C, ...) the real rows up to the one after ``t`` steps: a possible start of a forecast."""
        return self.rows[:, t : t + self.context]

    @property
    def start(self) -> Rows:
        """(B, C, ...) the newest last."""
        return self.window(0)

    @property
    def horizon(self) -> int:
        return self.rows.reward.shape[1] - self.context

    @property
    def _acted(self) -> slice:
        return slice(self.context - 1, -1)

    @property
    def action(self) -> Tensor:
        """(B, H, N, A)."""
        return self.rows.action[:, self._acted]

    @property
    def reward(self) -> Tensor:
        """(B, H)."""
        return self.rows.reward[:, self._acted]

    @property
    def terminated(self) -> Tensor:
        """(B, H) bool: the task ended with this step."""
        return self.rows.terminated[:, self._acted]

    @property
    def alive(self) -> Tensor:
        """(B, H) bool: the segment has this step; False after its end."""
        return self.rows.acted[:, self._acted]

    @property
    def state(self) -> Tensor:
        """(B, H, S) after each step."""
        return self.rows.state[:, self.context :]

    @property
    def obs(self) -> Tensor:
        """(B, H, N, O) after each step."""
        return self.rows.obs[:, self.context :]

    @property
    def episode(self) -> Tensor:
        """(B,) number of the episode that a segment is cut from."""
        return self.rows.episode[:, self.context - 1]

    def subset(self, count: int) -> Segments:
        """At most ``count`` segments, evenly spaced over all sources."""
        picked = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return self[torch.from_numpy(picked)]


def choose_horizon(sources: Sequence[EpisodeSource], requested: int | None) -> int:
    """Steps of a segment: as requested, or half the longest episode, at most 50.

    Raises:
        ConfigError: the requested horizon is longer than any episode.
    """
    longest = max(len(episode) for source in sources for episode in source.episodes)
    if requested is None:
        return max(1, min(_MAX_DEFAULT_HORIZON, longest // 2))
    if requested > longest:
        raise ConfigError(f"horizon = {requested} is longer than any episode played: choose {longest} or less")
    return requested


def cut_segments(
    sources: Sequence[EpisodeSource], spec: EnvSpec, context: int, horizon: int, count: int, seed: int
) -> Segments:
    """Cut segments out of episodes, from starts drawn without replacement.

    Args:
        sources: the episodes.
        spec: sizes.
        context: real rows that a forecast starts from, C.
        horizon: steps, H.
        count: segments of each source, at most.
        seed: of the draw.

    Returns:
        The segments on the CPU, in the order of the sources.
    """
    rng = np.random.default_rng(seed)
    capacity = sum(len(episode) + 1 for source in sources for episode in source.episodes)
    replay = Replay(ReplayConfig(capacity=capacity), spec, "cpu")
    starts, source_indices = [], []
    for index, source in enumerate(sources):
        candidates = []
        for episode in source.episodes:
            last = len(episode) - 1 if bool(episode.terminated[-1]) else len(episode) - horizon
            candidates.append(np.arange(replay.newest, replay.newest + last + 1))
            replay.add(episode)
        pool = np.concatenate(candidates)
        drawn = rng.choice(pool, size=min(count, len(pool)), replace=False)
        starts.append(np.sort(drawn))
        source_indices += [index] * len(drawn)
    rows = replay.gather(torch.from_numpy(np.concatenate(starts)), context - 1, horizon)
    return Segments(rows, context, torch.tensor(source_indices, dtype=torch.long))


@dataclass
class Predictions(Record):
    """Predictions for each step of B segments; zero after a segment's end."""

    state: Tensor | None  # (B, H, S) environment units; None where the model predicts observations alone
    obs: Tensor  # (B, H, N, O)
    reward: Tensor  # (B, H)
    continuation: Tensor  # (B, H) probability that the episode continues after this step

    def unflatten(self, shape: tuple[int, ...]) -> Predictions:
        """Split the B segments into a ``shape``."""
        return self._each(lambda values: values.unflatten(0, shape))


@dataclass(frozen=True)
class Forecaster:
    """Forecasts segments with a world model; results are on the CPU.

    Attributes:
        world_model: in evaluation mode.
        device: where it computes.
        seed: of its noise. The same segments and the same ``draw`` get the same noise, whatever else differs.
        batch: segments forecast at a time.
    """

    world_model: WorldModel[Any]
    device: torch.device
    seed: int = 0
    batch: int = 1024

    def forecast(
        self, segments: Segments, *, draw: int = 0, action: Tensor | None = None, order: Sequence[int] | None = None
    ) -> Predictions:
        """Sample one forecast of every segment.

        Args:
            segments: B of them.
            draw: index of the sample; another index gets other noise.
            action: (B, H, N, A) to use instead of the real actions.
            order: in which the agents are revealed, for a :class:`~dima.world_models.base.SequentialReveal` model.

        Raises:
            DivergenceError: a prediction is NaN or infinite.
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
                found = forecast(self.world_model, start, action[part].to(self.device), step)
                state = None if found.state is None else found.state[:, 1:]
                parts.append(Predictions(state, found.obs[:, 1:], found.reward, found.continuation).to("cpu"))
        return _join(parts, segments.alive)

    def sample(self, segments: Segments, count: int) -> Predictions:
        """``count`` forecasts of every segment that differ in their noise alone, (B, count, H, ...)."""
        repeated = torch.arange(len(segments)).repeat_interleave(count)
        found = self.forecast(segments[repeated])
        return found.unflatten((len(segments), count))

    @torch.no_grad()
    def reconstruct(self, segments: Segments) -> Predictions:
        """Encode and decode the real states, for the error that remains without forecasting.

        Rewards and continuations are not reconstructed, and stay zero.
        """
        parts = []
        with drawn_from(self.device, self.seed):
            for part in torch.arange(len(segments)).split(self.batch):
                views = []
                for t in range(1, segments.horizon + 1):
                    rows = segments.window(t)[part].to(self.device)
                    views.append(observe(self.world_model, self.world_model.start(rows)))
                predicted = self.world_model.predicts_state
                state = torch.stack([view.state for view in views], dim=1) if predicted else None
                obs = torch.stack([view.obs for view in views], dim=1)
                zeros = torch.zeros(obs.shape[:2])
                parts.append(Predictions(state, obs, zeros, zeros).to("cpu"))
        return _join(parts, segments.alive)


def _join(parts: Sequence[Predictions], alive: Tensor) -> Predictions:
    """Concatenate batches, zero what lies after a segment's end, and check that the rest is finite."""
    joined: dict[str, Any] = {}
    for field in fields(Predictions):
        batches = [getattr(part, field.name) for part in parts]
        if batches[0] is None:
            joined[field.name] = None
            continue
        values = torch.cat(batches)
        mask = alive.reshape(alive.shape + (1,) * (values.dim() - 2))
        values = torch.where(mask, values, 0.0)
        finite = values.isfinite().reshape(*values.shape[:2], -1).all(-1).all(0)
        if not finite.all():
            step = int((~finite).nonzero()[0]) + 1
            raise DivergenceError(
                f"the world model's {field.name} is not finite at step {step} of a segment: it diverged; diagnose an "
                "earlier run, or train again with lower learning rates"
            )
        joined[field.name] = values
    return Predictions(**joined)
