"""Interface of algorithms: collect, fit, update the policy; save and load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from dima.config import Config
from dima.data import EnvSpec, View
from dima.experience.collector import Collector
from dima.policies.base import Policy
from dima.runtime.progress import Progress

Metrics = dict[str, Tensor | float]  # tensors stay on the device until the end of the iteration


class Store(Protocol):
    """Real experience, saved next to the checkpoint in write-once chunks."""

    def chunk(self) -> dict[str, Any] | None:
        """Experience added since the last chunk, or None."""

    @property
    def first_chunk(self) -> int:
        """The number of the first chunk that is still needed."""


class AlgorithmConfig(Config, ABC):
    """Settings of an algorithm, and how to build it."""

    @abstractmethod
    def build(self, spec: EnvSpec, device: str) -> Algorithm:
        """Build the algorithm for a task, initialised from PyTorch's global random state."""

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest size of rewards that are learnt, by the flag that would learn any; none by default."""
        return {}

    @property
    def first_steps(self) -> int:
        """Environment steps that are collected before learning begins."""
        return 0

    @property
    def first_iterations(self) -> int:
        """Iterations that leave out a part of learning."""
        return 0

    def for_acting(self) -> AlgorithmConfig:
        """The same networks without memory that only learning needs, such as a replay."""
        return self


class Algorithm(nn.Module, ABC):
    """A learner and the policy it improves.

    An iteration of the training loop calls :meth:`collect`, :meth:`fit` and :meth:`update_policy`, in this order.
    """

    config: AlgorithmConfig
    spec: EnvSpec
    replay: Store | None = None  # where the algorithm keeps experience, if it keeps any

    @property
    @abstractmethod
    def policy(self) -> Policy:
        """The policy to act with."""

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Actions (B, N, A) and log-probabilities (B, N), sampled or the policy's mode."""
        return self.policy.act(view, mode)

    @abstractmethod
    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        """Collect an iteration's real experience; returns metrics.

        Args:
            collector: the source of real experience.
            progress: displays the phase.
        """

    def collect_in_background(self, collector: Collector, progress: Progress) -> AbstractContextManager[None]:
        """Collect the next iteration's experience while the block learns; by default do nothing."""
        return nullcontext()

    def fit(self, progress: Progress) -> Metrics:
        """Fit models that the policy learns from, such as a world model; returns metrics. Default: none."""
        return {}

    @abstractmethod
    def update_policy(self, progress: Progress, done: float) -> Metrics:
        """Update the policy; returns metrics.

        Args:
            progress: displays the phase.
            done: fraction of the run that is over, for schedules.
        """

    @abstractmethod
    def checkpoint(self) -> dict[str, Any]:
        """State for :meth:`restore`, except for the replay's rows."""

    @abstractmethod
    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        """Restore a :meth:`checkpoint`, so that learning continues exactly.

        Args:
            saved: the checkpoint.
            chunks: the replay's content; None for acting only, which needs no replay and may do without optimisers.
        """
