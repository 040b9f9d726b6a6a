"""Stretches of real episodes, each to be foretold from its first step and its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.episodes import Source
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.experience.replay import Replay, ReplayConfig, Rows

_LONGEST = 50  # steps of a segment where nothing else is asked for


@dataclass
class Segments:
    """B stretches of H steps, each with the C real rows it starts from.

    A stretch that runs into the end of its task is shorter; a time limit cuts none.
    """

    rows: Rows  # (B, C + H, ...), the start being the C-th
    context: int  # C
    source: Tensor  # (B,) number of the source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Tensor) -> Segments:
        return replace(self, rows=self.rows[index], source=self.source[index])

    def window(self, t: int) -> Rows:
        """(B, C, ...) the real rows up to what followed t steps; what an imagination could have started from."""
        return self.rows[:, t : t + self.context]

    @property
    def start(self) -> Rows:
        """(B, C, ...) the newest last."""
        return self.window(0)

    @property
    def horizon(self) -> int:
        return self.rows.reward.shape[1] - self.context

    @property
    def _taken(self) -> slice:
        return slice(self.context - 1, -1)

    @property
    def action(self) -> Tensor:
        """(B, H, N, A)."""
        return self.rows.action[:, self._taken]

    @property
    def reward(self) -> Tensor:
        """(B, H)."""
        return self.rows.reward[:, self._taken]

    @property
    def terminated(self) -> Tensor:
        """(B, H) bool: the task ended with this step."""
        return self.rows.terminated[:, self._taken]

    @property
    def alive(self) -> Tensor:
        """(B, H) bool: this step was taken, so there is something to compare with after it."""
        return self.rows.acted[:, self._taken]

    @property
    def state(self) -> Tensor:
        """(B, H, S) what followed each step."""
        return self.rows.state[:, self.context :]

    @property
    def obs(self) -> Tensor:
        """(B, H, N, O) what followed each step."""
        return self.rows.obs[:, self.context :]

    @property
    def episode(self) -> Tensor:
        """(B,) a number that segments of the same episode share."""
        return self.rows.episode[:, self.context - 1]

    def spread_out(self, count: int) -> Segments:
        """At most ``count`` of them, evenly over all sources."""
        picked = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return self[torch.from_numpy(picked)]


def choose_horizon(sources: Sequence[Source], asked: int | None) -> int:
    """The steps of a segment.

    Args:
        sources: what was played.
        asked: the user's wish.

    Raises:
        ConfigError: it is longer than any episode.
    """
    longest = max(len(episode) for source in sources for episode in source.episodes)
    if asked is None:
        return max(1, min(_LONGEST, longest // 2))
    if asked > longest:
        raise ConfigError(f"horizon = {asked} is longer than any episode played: choose {longest} or less")
    return asked


def cut(sources: Sequence[Source], spec: EnvSpec, context: int, horizon: int, count: int, seed: int) -> Segments:
    """At most ``count`` segments of each source, from starts drawn without repetition.

    Args:
        sources: what was played.
        spec: sizes.
        context: real rows that a segment starts from, C.
        horizon: steps, H.
        count: segments wanted of each source.
        seed: of the draw.

    Returns:
        The segments on the CPU, in the order of the sources.
    """
    rng = np.random.default_rng(seed)
    rows = sum(len(episode) + 1 for source in sources for episode in source.episodes)
    replay = Replay(ReplayConfig(capacity=rows), spec, "cpu")
    starts, belongs = [], []
    for number, source in enumerate(sources):
        possible = []
        for episode in source.episodes:
            last = len(episode) - 1 if bool(episode.terminated[-1]) else len(episode) - horizon
            possible.append(np.arange(replay.newest, replay.newest + last + 1))
            replay.add(episode)
        every = np.concatenate(possible)
        drawn = rng.choice(every, size=min(count, len(every)), replace=False)
        starts.append(np.sort(drawn))
        belongs += [number] * len(drawn)
    cut = replay.gather(torch.from_numpy(np.concatenate(starts)), context - 1, horizon)
    return Segments(cut, context, torch.tensor(belongs, dtype=torch.long))
