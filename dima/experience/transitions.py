"""Single steps kept for off-policy learning: a ring of moments by environments (model-free section 7.1).

A draw is a stretch of up to n steps of one environment: it ends with its episode, or where experience ends, and is
bootstrapped from there unless the task itself ended.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dima.data import EnvSpec, Record, TransitionBatch, rows_of
from dima.errors import ConfigError
from dima.runtime.device import require_memory


@dataclass
class NStepBatch(Record):
    """R draws of up to n successive steps."""

    obs: Tensor  # (R, N, O) where it begins
    state: Tensor  # (R, S)
    action_mask: Tensor  # (R, N, A) bool
    action: Tensor  # (R, N, A) the first action
    returns: Tensor  # (R,) discounted sum of the m rewards
    discount: Tensor  # (R,) gamma^m, 0 if the task ended
    next_obs: Tensor  # (R, N, O) where it leads
    next_state: Tensor  # (R, S)
    next_mask: Tensor  # (R, N, A) bool


class Transitions:
    """Stores steps, draws stretches.

    Args:
        capacity: environment steps kept, rounded down to whole moments of all environments; the oldest go first.
        spec: sizes of what is stored.
        device: where the store lives.
    """

    def __init__(self, capacity: int, spec: EnvSpec, device: torch.device | str) -> None:
        self.capacity, self.spec, self.device = capacity, spec, torch.device(device)
        self.store: dict[str, Tensor] = {}  # (moments, environments, ...), once their number is known
        self.time_steps = self.envs = 0
        self.count = 0  # moments lived so far
        self.chunk_ends: list[int] = []

    def __len__(self) -> int:
        """Environment steps in store."""
        return self.kept * self.envs

    @property
    def kept(self) -> int:
        """Moments in store."""
        return min(self.count, self.time_steps)

    def add(self, lived: TransitionBatch) -> None:
        """Append T moments of all environments, over the oldest ones when full."""
        envs, steps = lived.reward.shape
        if not self.store:
            self._allocate(envs)
        late = max(0, steps - self.time_steps)  # what comes before would be overwritten at once
        where = torch.arange(self.count + late, self.count + steps, device=self.device) % self.time_steps
        for name, store in self.store.items():
            store[where] = getattr(lived, name)[:, late:].to(self.device).transpose(0, 1)
        self.count += steps

    def sample(self, batch: int, steps: int, gamma: float) -> NStepBatch:
        """``batch`` stretches of up to ``steps`` steps from everywhere in store, with replacement."""
        age = torch.randint(self.kept, (batch,), device=self.device)  # moments before the newest
        env = torch.randint(self.envs, (batch,), device=self.device)
        step = torch.arange(steps, device=self.device)
        # rows of (moments * environments) from each beginning on, (R, n); some lie behind the newest
        rows = (self.count - 1 - age[:, None] + step) % self.time_steps * self.envs + env[:, None]
        stored = age[:, None] >= step
        ended = self._at("boundary", rows) & stored
        alive = stored & (ended.cumsum(-1) - ended.long() == 0)  # no end before
        length = alive.sum(-1)
        begin, end = rows[:, 0], rows.gather(1, length[:, None] - 1)[:, 0]
        reward = torch.where(alive, self._at("reward", rows), 0.0)
        return NStepBatch(
            **{name: self._at(name, begin) for name in ("obs", "state", "action_mask", "action")},
            returns=reward @ gamma**step,
            discount=gamma**length * ~self._at("terminated", end),
            **{name: self._at(name, end) for name in ("next_obs", "next_state", "next_mask")},
        )

    def _at(self, name: str, rows: Tensor) -> Tensor:
        """What is stored in rows that count environments first."""
        return rows_of(self.store[name].flatten(0, 1), rows)

    # -- saving ---------------------------------------------------------------------------------------------------

    def chunk(self) -> dict[str, Any] | None:
        """The moments added since the last chunk, or None; what was saved once is never written again."""
        start = max(self.chunk_ends[-1] if self.chunk_ends else 0, self.count - self.kept)
        if start == self.count:
            return None
        where = torch.arange(start, self.count, device=self.device) % self.time_steps
        self.chunk_ends.append(self.count)
        return {name: store[where].cpu() for name, store in self.store.items()} | {"start": start}

    @property
    def first_chunk(self) -> int:
        """The number of the first chunk that still holds a kept moment; those before are needed no more."""
        return sum(end <= self.count - self.kept for end in self.chunk_ends)

    def checkpoint(self) -> dict[str, Any]:
        """What the chunks do not hold."""
        return {"count": self.count, "envs": self.envs, "chunk_ends": list(self.chunk_ends)}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]]) -> None:
        """Rebuild the store from its chunks, in order, and a checkpoint."""
        self.store.clear()
        self.count, self.chunk_ends = saved["count"], list(saved["chunk_ends"])
        if saved["envs"]:
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
            name: torch.zeros(self.time_steps, envs, *shape, dtype=kind, device=self.device)
            for name, (shape, kind) in shapes.items()
        }
