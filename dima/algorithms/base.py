"""What every algorithm offers the training loop: act, live through an iteration, save and restore."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dima.config import Config
from dima.data import EnvSpec, View
from dima.experience.collector import Collector
from dima.runtime.progress import Progress


class Store(Protocol):
    """Real experience that is saved beside the checkpoint, in chunks that are written once."""

    def chunk(self) -> dict[str, Any] | None:
        """What was added since the last chunk, or None."""

    @property
    def first_chunk(self) -> int:
        """The number of the first chunk that is still needed."""


class AlgorithmConfig(Config, ABC):
    """Settings of an algorithm; they know how to build it."""

    @abstractmethod
    def build(self, spec: EnvSpec, device: str) -> Algorithm:
        """The algorithm for a task, on a device, freshly initialised from PyTorch's global random state."""

    def for_acting(self) -> AlgorithmConfig:
        """The same networks without what only learning needs, such as memory for a replay."""
        return self


class Algorithm(nn.Module, ABC):
    """A learner together with the policy it improves."""

    config: AlgorithmConfig
    spec: EnvSpec
    replay: Store | None = None  # where the algorithm keeps any experience

    def __init__(self) -> None:
        super().__init__()
        self._acting: list[Algorithm] = []  # the twin, once there is one; no part of this one's weights

    @property
    @abstractmethod
    def team(self) -> nn.Module:
        """The part that acts: its weights are the whole policy."""

    @abstractmethod
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Actions (B, N, A) and log-probabilities (B, N), sampled or the policy's mode."""

    def on_cpu(self) -> Algorithm:
        """One with the present policy on the CPU, where a GPU cannot act or not as fast; the same one at every call."""
        weight = next(self.team.parameters(), None)
        if weight is None or weight.device.type == "cpu":
            return self
        if not self._acting:
            self._acting.append(self.twin())
        self._acting[0].team.load_state_dict(self.team.state_dict())
        return self._acting[0]

    def twin(self) -> Algorithm:
        """Another one on the CPU that acts alike."""
        with torch.random.fork_rng([]):
            twin = self.config.for_acting().build(self.spec, "cpu")
        twin.team.load_state_dict(self.team.state_dict())
        return twin

    @abstractmethod
    def iteration(self, collector: Collector, progress: Progress, done: float) -> dict[str, Tensor | float]:
        """Collect an iteration of experience, learn from it, and say how it went.

        Args:
            collector: the source of real experience.
            progress: told of each phase.
            done: share of the run that is over, for schedules.
        """

    @abstractmethod
    def checkpoint(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs to go on exactly, the replay's rows excepted."""

    @abstractmethod
    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        """Go on exactly where :meth:`checkpoint` was taken.

        Args:
            saved: the checkpoint.
            chunks: the replay's content; None leaves the replay empty, for acting only.
        """
