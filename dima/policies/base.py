"""Interface of a team's policy: what acts in environments, real and imagined."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dima.data import View


class Policy(nn.Module, ABC):
    """A team's policy; its weights and buffers are all it needs to act."""

    @abstractmethod
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Choose a joint action, without gradients.

        Args:
            view: of the team, (B, ...).
            mode: take the most probable action instead of sampling one.

        Returns:
            Actions (B, N, A), Gaussian ones unbounded, and their log-probabilities (B, N).
        """
