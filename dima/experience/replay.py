"""Replay of whole episodes: a ring of rows on the training device.

An episode of T steps takes T + 1 rows, the last of which holds the final observation only. Row numbers count from the
first row ever stored and never change; row ``number`` is stored at ``number % rows``. A batch is index arithmetic and
one gather.

The capacity counts environment steps. Whole episodes are evicted, the oldest first: the replay keeps as many of the
newest episodes as fit. Final observations take rows beyond the capacity, one per episode: the ring is allocated for
episodes of the task's full length and grows if they are shorter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dima.config import Config, Count, Range, count
from dima.data import EnvSpec, Episode, Record, rows_of
from dima.errors import ConfigError
from dima.runtime.device import require_memory

VISIT_TEMPERATURE = 20.0  # visits after which a row is sampled e times less often (docs/reference/dima.md, "Replay")


@dataclass(frozen=True)
class ReplayConfig(Config):
    """Size and sampling of the replay."""

    capacity: Count = 250_000  # environment steps kept; the oldest episodes go first, each as a whole
    recent_share: Annotated[float, Range(0.25, 1)] = 0.7  # of recency-weighted samples from the newest quarter


@dataclass
class Rows(Record):
    """Gathered rows in time order; rows outside the requested episode are zero and not ``valid``."""

    state: Tensor  # (B, W, S)
    obs: Tensor  # (B, W, N, O)
    action_mask: Tensor  # (B, W, N, A) bool
    action: Tensor  # (B, W, N, A)
    reward: Tensor  # (B, W)
    terminated: Tensor  # (B, W) bool
    episode: Tensor  # (B, W) number of the episode's first row
    valid: Tensor  # (B, W) bool
    acted: Tensor  # (B, W) bool, the row has an action: valid and not the last of its episode


@dataclass
class WeightedRows(Rows):
    """Rows that were not drawn uniformly, with the weights that correct it."""

    weight: Tensor  # (B,)


class StepIndex(NamedTuple):
    """Row numbers of the stored steps, in time order, and the episodes' quarters among them, the oldest first."""

    steps: Tensor  # (K,) rows that have an action
    terminal: Tensor  # (E,) those of them that terminate an episode
    begin: Tensor  # (4,) position among the steps at which a quarter begins
    size: Tensor  # (4,) number of its steps


class Replay:
    """A ring buffer of episodes from which windows are sampled.

    Args:
        config: capacity and sampling weights.
        spec: shapes of the stored tensors.
        device: of the store.
        visit_counters: names of the samplers that prefer rows they visited least.

    Raises:
        ConfigError: there is not enough memory for the capacity.
    """

    def __init__(
        self, config: ReplayConfig, spec: EnvSpec, device: torch.device | str, visit_counters: Sequence[str] = ()
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        # a row for each step, and one for each final observation
        self.rows = config.capacity + -(-config.capacity // (spec.episode_limit or 10))
        agents, obs, actions = spec.n_agents, spec.obs_dim, spec.action_dim
        self.layout = {
            "state": ((spec.state_dim,), torch.float32),
            "obs": ((agents, obs), torch.float32),
            "action_mask": ((agents, actions), torch.bool),
            "action": ((agents, actions), torch.float32),
            "reward": ((), torch.float32),
            "terminated": ((), torch.bool),
            "truncated": ((), torch.bool),
        }
        require_memory("replay.capacity", config.capacity, self.rows, self.layout, self.device)
        self.store = {
            name: torch.zeros((self.rows, *shape), dtype=dtype, device=self.device)
            for name, (shape, dtype) in self.layout.items()
        }
        self.first = torch.zeros(self.rows, dtype=torch.long, device=self.device)  # first row of a row's episode
        self.last = torch.zeros(self.rows, dtype=torch.long, device=self.device)  # its last row, without an action
        self.visits = {name: torch.zeros(self.rows, dtype=torch.int32, device=self.device) for name in visit_counters}
        self.oldest, self.newest = 0, 0  # row numbers: the first kept, one past the last
        self.lengths: deque[int] = deque()  # rows of each kept episode
        self.chunk_ends: list[int] = []  # one past the last row of each chunk made so far
        self._index: StepIndex | None = None  # of the stored steps, once asked for

    @classmethod
    def of(
        cls,
        episodes: Sequence[Episode],
        spec: EnvSpec,
        device: torch.device | str,
        visit_counters: Sequence[str] = (),
    ) -> Replay:
        """Build a replay of exactly these episodes, sampled uniformly."""
        steps = sum(len(episode) for episode in episodes)
        replay = cls(ReplayConfig(capacity=steps, recent_share=0.25), spec, device, visit_counters)
        for episode in episodes:
            replay.add(episode)
        return replay

    def __repr__(self) -> str:
        filled = f"{self.steps:,} of {self.config.capacity:,} steps"
        return f"<Replay: {filled} in {len(self.lengths):,} episodes, on {self.device}>"

    # -- storing --------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Environment steps in store."""
        return self.newest - self.oldest - len(self.lengths)

    def add(self, episode: Episode) -> None:
        """Append an episode, evicting the oldest ones when full.

        Raises:
            ConfigError: the episode alone has more steps than the capacity, or memory is short.
        """
        length, capacity = len(episode) + 1, self.config.capacity
        if len(episode) > capacity:
            raise ConfigError(f"replay.capacity = {capacity} cannot hold an episode of {len(episode)} steps: raise it")
        while self.steps + len(episode) > capacity:
            self.oldest += self.lengths.popleft()
        self._make_room(self.newest + length - self.oldest)
        where = torch.arange(self.newest, self.newest + length, device=self.device) % self.rows
        for name, store in self.store.items():
            values = getattr(episode, name).to(self.device, store.dtype)
            store[where[: len(values)]] = values
            if len(values) < length:
                store[where[-1]] = 0
        self.first[where], self.last[where] = self.newest, self.newest + length - 1
        for visits in self.visits.values():
            visits[where] = 0
        self.lengths.append(length)
        self.newest += length
        self._index = None

    def _make_room(self, rows: int) -> None:
        """Grow the ring to ``rows`` rows, doubling the share of final observations."""
        if rows <= self.rows:
            return
        capacity, before = self.config.capacity, self.rows
        ends = before - capacity
        while capacity + ends < rows:
            ends *= 2
        after = max(rows, min(capacity + ends, 2 * capacity))  # an episode has at least a step
        require_memory("replay.capacity", capacity, after, self.layout, self.device, before)
        number = torch.arange(self.oldest, self.newest, device=self.device)

        def moved(values: Tensor) -> Tensor:
            return values.new_zeros(after, *values.shape[1:]).index_copy_(0, number % after, values[number % before])

        for stores in (self.store, self.visits):
            for name, values in stores.items():
                stores[name] = moved(values)
        self.first, self.last, self.rows = moved(self.first), moved(self.last), after

    # -- sampling -------------------------------------------------------------------------------------------------

    def gather(self, anchor: Tensor, before: int, after: int) -> Rows:
        """Rows ``anchor - before ... anchor + after`` within each anchor's episode; (B,) -> (B, before + 1 + after)."""
        return self._rows(anchor[:, None] + torch.arange(-before, after + 1, device=self.device), anchor)

    def segments(self, start: Tensor, length: int) -> Rows:
        """``length`` successive rows from each start, across episode boundaries; (B,) -> (B, length)."""
        return self._rows(start[:, None] + torch.arange(length, device=self.device), None)

    def _rows(self, number: Tensor, anchor: Tensor | None) -> Rows:
        where = number % self.rows
        first, last = self.first[where], self.last[where]
        valid = (number >= self.oldest) & (number < self.newest)
        if anchor is not None:
            episode = self.first[anchor % self.rows][:, None]
            valid &= first == episode
        window = {
            name: rows_of(self.store[name], where) for name in ("state", "obs", "action_mask", "action", "reward")
        }
        window = {name: values * expand_like(valid, values) for name, values in window.items()}
        return Rows(
            **window,
            terminated=rows_of(self.store["terminated"], where) & valid,
            episode=first,
            valid=valid,
            acted=valid & (number != last),
        )

    def recent(self, batch: int) -> Tensor:
        """Sample (B,) rows that have an action, from the newest quarter of the episodes with ``recent_share``.

        The three older quarters share the rest evenly (docs/reference/dima.md, Replay).
        """
        share = (1 - self.config.recent_share) / 3
        draw = torch.rand(batch, 2, device=self.device)
        quarter = (draw[:, 0] / share if share else draw[:, 0] * 0 + 3).long().clamp(max=3)
        index = self.index
        begin, size = index.begin[quarter], index.size[quarter]
        return index.steps[begin + torch.minimum((draw[:, 1] * size).long(), size - 1)]

    def uniform(self, batch: int, length: int = 1) -> Tensor:
        """Sample (B,) first rows of ``length`` successive ones, all alike, final observations included."""
        size = self.newest - self.oldest - length + 1
        if size < 1:
            raise ConfigError(f"the replay holds {self.steps} steps, too few for segments of {length}")
        return self.oldest + torch.randint(size, (batch,), device=self.device)

    def stratified(self, batch: int, terminal_share: float) -> tuple[Tensor, Tensor]:
        """Sample (B,) rows that have an action: terminal steps more often than others, with weights that correct it.

        Args:
            batch: B.
            terminal_share: of the batch, drawn among terminal steps, if there are any; the rest is drawn uniformly.

        Returns:
            The rows, and (B,) weights under which an average over the batch is one over all stored steps.
        """
        index = self.index
        count, terminal = len(index.steps), len(index.terminal)
        special = int(terminal_share * batch) if terminal else 0
        draw = torch.rand(batch, device=self.device)
        drawn = [
            rows[(part * len(rows)).long().clamp(max=len(rows) - 1)]
            for rows, part in zip((index.terminal, index.steps), draw.split((special, batch - special)), strict=True)
            if len(part)
        ]
        rows, share = torch.cat(drawn), special / batch
        # the probability of a step under uniform sampling, over that under this mixture
        often = 1 / (1 - share + share * count / max(terminal, 1))
        return rows, torch.where(self.store["terminated"][rows % self.rows], often, 1 / (1 - share))

    def least_visited(self, counter: str, batch: int, length: int = 1) -> Tensor:
        """Sample (B,) first rows of ``length`` successive ones, with probability softmax(-visits / temperature)."""
        size = self.newest - self.oldest - length + 1
        if size < 1:
            raise ConfigError(f"the replay holds {self.steps} steps, too few for segments of {length}")
        numbers = torch.arange(self.oldest, self.oldest + size, device=self.device)
        visits = self.visits[counter][numbers % self.rows]
        weight = ((visits.min() - visits) / VISIT_TEMPERATURE).exp()
        chosen = numbers[torch.multinomial(weight, batch, replacement=True)]
        self.visits[counter].index_add_(0, chosen % self.rows, torch.ones(batch, dtype=torch.int32, device=self.device))
        return chosen

    @property
    def index(self) -> StepIndex:
        """Which rows hold steps, made anew when episodes were added."""
        if self._index is None:
            number = torch.arange(self.oldest, self.newest, device=self.device)
            steps = number[self.last[number % self.rows] != number]
            # an episode on a quarter's border belongs to both, so that no quarter is empty
            edges = np.cumsum([0, *(length - 1 for length in self.lengths)])
            count = len(self.lengths)
            begin = edges[[count * q // 4 for q in range(4)]]
            end = edges[[-(-count * (q + 1) // 4) for q in range(4)]]
            quarters = torch.from_numpy(np.stack([begin, end - begin])).to(self.device)
            terminal = steps[self.store["terminated"][steps % self.rows]]
            self._index = StepIndex(steps, terminal, quarters[0], quarters[1])
        return self._index

    # -- saving ---------------------------------------------------------------------------------------------------

    def chunk(self) -> dict[str, Any] | None:
        """Episodes added since the last chunk, or None; none is saved twice."""
        start = max(self.chunk_ends[-1] if self.chunk_ends else 0, self.oldest)
        if start == self.newest:
            return None
        number = torch.arange(start, self.newest, device=self.device)
        where = number % self.rows
        content: dict[str, Any] = {name: store[where].cpu() for name, store in self.store.items()}
        self.chunk_ends.append(self.newest)
        return content | {"start": start, "last": self.last[where].cpu()}

    @property
    def first_chunk(self) -> int:
        """Number of the first chunk with a kept row; earlier ones can be deleted."""
        return sum(end <= self.oldest for end in self.chunk_ends)

    def checkpoint(self) -> dict[str, Any]:
        """State that the chunks do not hold: visit counts, and which rows are kept."""
        where = torch.arange(self.oldest, self.newest, device=self.device) % self.rows
        return {
            "oldest": self.oldest,
            "newest": self.newest,
            "chunk_ends": list(self.chunk_ends),
            "visits": {name: visits[where].cpu() for name, visits in self.visits.items()},
        }

    def restore(self, saved: dict[str, Any], chunks: Sequence[dict[str, Any]]) -> None:
        """Rebuild the store from its chunks, in order, and a checkpoint; a smaller capacity keeps the newest episodes.

        Raises:
            ConfigError: they do not fit each other, or the newest episode exceeds the capacity.
        """
        for chunk in chunks:
            check_chunk(chunk)
        self.lengths.clear()
        self._index = None
        self.oldest = self.newest = self._oldest_that_fits(chunks, count(saved["oldest"]))
        self._make_room(count(saved["newest"]) - self.oldest)
        for chunk in chunks:
            self._add_chunk(chunk, self.oldest)
        if self.newest != saved["newest"]:
            raise ConfigError(f"the replay ends at row {self.newest}, its checkpoint at {saved['newest']}")
        where = torch.arange(self.oldest, self.newest, device=self.device) % self.rows
        for name, visits in saved["visits"].items():
            self.visits[name][where] = visits[self.oldest - saved["oldest"] :].to(self.device)
        self.chunk_ends = [count(end) for end in saved["chunk_ends"]]

    def _oldest_that_fits(self, chunks: Sequence[dict[str, Any]], oldest: int) -> int:
        """First row of the oldest episode, not before ``oldest``, from which on the capacity holds all."""
        steps, capacity = 0, self.config.capacity
        fits: int | None = None
        for chunk in reversed(chunks):
            ends = sorted(set(chunk["last"].tolist()), reverse=True)
            for end, before in zip(ends, [*ends[1:], chunk["start"] - 1], strict=True):
                if before + 1 < oldest:
                    break
                steps += end - before - 1
                if steps <= capacity:
                    fits = before + 1
                elif fits is None:
                    raise ConfigError(f"replay.capacity = {capacity} cannot hold an episode of {steps} steps: raise it")
        return oldest if fits is None else fits

    def _add_chunk(self, chunk: dict[str, Any], oldest: int) -> None:
        number = torch.arange(chunk["start"], chunk["start"] + len(chunk["last"]))
        last = chunk["last"]
        ends = torch.nonzero(number == last).flatten()
        starts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
        first = number[starts].repeat_interleave(ends - starts + 1)
        keep = first >= oldest
        where = (number[keep] % self.rows).to(self.device)
        for name, store in self.store.items():
            store[where] = chunk[name][keep].to(self.device)
        self.first[where], self.last[where] = first[keep].to(self.device), last[keep].to(self.device)
        self.lengths.extend((ends - starts + 1)[number[starts] >= oldest].tolist())
        self.newest = chunk["start"] + len(last)


def check_chunk(chunk: Mapping[str, Any]) -> None:
    """Check that a saved chunk holds whole episodes, with the number of its episode's last row in every row.

    Raises:
        ValueError: the chunk is inconsistent.
    """
    start, last = chunk["start"], chunk["last"]
    if type(start) is not int or not 0 <= start < 2**62 or last.dtype is not torch.long or last.dim() != 1:
        raise ValueError("a chunk of the replay has no rows")
    end, number = last - start, torch.arange(len(last))
    if not len(end) or ((end < number) | (end >= len(end))).any() or (end[end] != end).any() or (end.diff() < 0).any():
        raise ValueError("the episodes of a chunk of the replay do not follow one another")
    if any(isinstance(values, Tensor) and len(values) != len(last) for values in chunk.values()):
        raise ValueError("a chunk of the replay has columns of several lengths")


def expand_like(mask: Tensor, values: Tensor) -> Tensor:
    """``mask`` (B, W) with axes added until it broadcasts over ``values``."""
    return mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim())).to(values.dtype)
