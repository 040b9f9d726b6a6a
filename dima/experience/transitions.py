"""Replay of single transitions for off-policy learning: a ring of time steps by environments.

A sample is a segment of up to n steps of one environment, for n-step returns. It ends at an episode boundary or at the
newest step, and is bootstrapped from there unless the task terminated. See docs/reference/baselines.md, HASAC: Replay.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dima.config import count
from dima.data import EnvSpec, Record, TransitionBatch, rows_of
from dima.errors import ConfigError
from dima.runtime.device import require_memory


@dataclass
class NStepBatch(Record):
    """R samples of up to n successive steps."""

    obs: Tensor  # (R, N, O) at the first step
    state: Tensor  # (R, S)
    action_mask: Tensor  # (R, N, A) bool
    action: Tensor  # (R, N, A) the first action
    returns: Tensor  # (R,) discounted sum of the m rewards, m <= n
    discount: Tensor  # (R,) gamma^m, 0 after a termination
    next_obs: Tensor  # (R, N, O) after the last step
    next_state: Tensor  # (R, S)
    next_mask: Tensor  # (R, N, A) bool


class Transitions:
    """A ring buffer of transitions with n-step sampling.

    Args:
        capacity: environment steps kept, rounded down to a multiple of the environments; the oldest are overwritten.
        spec: shapes of the stored tensors.
        device: of the store.
    """

    def __init__(self, capacity: int, spec: EnvSpec, device: torch.device | str) -> None:
        self.capacity, self.spec, self.device = capacity, spec, torch.device(device)
        self.store: dict[str, Tensor] = {}  # (time steps, environments, ...), allocated by the first add
        self.time_steps = self.envs = 0
        self.count = 0  # time steps added so far
        self.begin = 0  # the first of them that may be in store
        self.chunk_ends: list[int] = []

    def __len__(self) -> int:
        """Environment steps in store."""
        return self.kept * self.envs

    @property
    def kept(self) -> int:
        """Time steps in store."""
        return min(self.count - self.begin, self.time_steps)

    def add(self, batch: TransitionBatch) -> None:
        """Append T time steps of all environments, overwriting the oldest when full."""
        envs, steps = batch.reward.shape
        if not self.store:
            self._allocate(envs)
        skip = max(0, steps - self.time_steps)  # earlier steps would be overwritten at once
        where = torch.arange(self.count + skip, self.count + steps, device=self.device) % self.time_steps
        for name, store in self.store.items():
            store[where] = getattr(batch, name)[:, skip:].to(self.device).transpose(0, 1)
        self.count += steps

    def sample(self, batch: int, steps: int, gamma: float) -> NStepBatch:
        """Draw ``batch`` segments of up to ``steps`` steps, uniformly and with replacement."""
        age = torch.randint(self.kept, (batch,), device=self.device)  # time steps before the newest
        env = torch.randint(self.envs, (batch,), device=self.device)
        step = torch.arange(steps, device=self.device)
        # rows of (time steps * environments) from each start on, (R, n); some lie beyond the newest
        rows = (self.count - 1 - age[:, None] + step) % self.time_steps * self.envs + env[:, None]
        stored = age[:, None] >= step
        ended = self._at("boundary", rows) & stored
        alive = stored & (ended.cumsum(-1) - ended.long() == 0)  # no boundary before
        length = alive.sum(-1)
        first, last = rows[:, 0], rows.gather(1, length[:, None] - 1)[:, 0]
        reward = torch.where(alive, self._at("reward", rows), 0.0)
        return NStepBatch(
            **{name: self._at(name, first) for name in ("obs", "state", "action_mask", "action")},
            returns=reward @ gamma**step,
            discount=gamma**length * ~self._at("terminated", last),
            **{name: self._at(name, last) for name in ("next_obs", "next_state", "next_mask")},
        )

    def _at(self, name: str, rows: Tensor) -> Tensor:
        """Entries of a stored tensor, its time and environment axes flattened."""
        return rows_of(self.store[name].flatten(0, 1), rows)

    # -- saving ---------------------------------------------------------------------------------------------------

    def chunk(self) -> dict[str, Any] | None:
        """Time steps added since the last chunk, or None; none is saved twice."""
        start = max(self.chunk_ends[-1] if self.chunk_ends else 0, self.count - self.kept)
        if start == self.count:
            return None
        where = torch.arange(start, self.count, device=self.device) % self.time_steps
        self.chunk_ends.append(self.count)
        return {name: store[where].cpu() for name, store in self.store.items()} | {"start": start}

    @property
    def first_chunk(self) -> int:
        """Number of the first chunk with a kept time step; earlier ones can be deleted."""
        return sum(end <= self.count - self.kept for end in self.chunk_ends)

    def checkpoint(self) -> dict[str, Any]:
        """State that the chunks do not hold."""
        return {"count": self.count, "envs": self.envs, "chunk_ends": list(self.chunk_ends)}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]]) -> None:
        """Rebuild the store from its chunks, in order, and a checkpoint; a smaller capacity keeps the newest steps."""
        self.store.clear()
        self.begin = min((count(chunk["start"]) for chunk in chunks), default=count(saved["count"]))
        self.count, self.chunk_ends = count(saved["count"]), [count(end) for end in saved["chunk_ends"]]
        if count(saved["envs"]):
            self._allocate(saved["envs"])
        for chunk in chunks:
            number = torch.arange(chunk["start"], chunk["start"] + len(chunk["reward"]))
            keep = number >= self.count - self.kept
            where = (number[keep] % self.time_steps).to(self.device)
            for name, store in self.store.items():
                store[where] = chunk[name][keep].to(self.device)

    def _allocate(self, envs: int) -> None:
        spec = self.spec
        self.envs, self.time_steps = envs, self.capacity // envs
        if not self.time_steps:
            raise ConfigError(f"capacity = {self.capacity} is less than one step of {envs} environments: raise it")
        agents, entries = (spec.n_agents, spec.obs_dim), (spec.n_agents, spec.action_dim)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "obs": (agents, torch.float32),
            "state": ((spec.state_dim,), torch.float32),
            "action_mask": (entries, torch.bool),
            "action": (entries, torch.float32),
            "reward": ((), torch.float32),
            "terminated": ((), torch.bool),
            "boundary": ((), torch.bool),
            "next_obs": (agents, torch.float32),
            "next_state": ((spec.state_dim,), torch.float32),
            "next_mask": (entries, torch.bool),
        }
        assert set(shapes) == {field.name for field in fields(TransitionBatch)}
        require_memory("capacity", self.capacity, self.time_steps * envs, shapes, self.device)
        self.store = {
            name: torch.zeros(self.time_steps, envs, *shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in shapes.items()
        }
