"""Interface of a team's policy: what acts in environments, real and imagined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from dima.data import View


class Policy(nn.Module, ABC):
    """A team's policy; its weights and buffers are all it needs to act."""

    recurrent: bool = False  # what it does depends on earlier views of the episode

    @abstractmethod
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Choose a joint action, without gradients.

        A policy with a memory keeps it from call to call, in an attribute that no checkpoint holds, and forgets it in
        the rows where ``view.first`` says that an episode begins. A shallow copy has a memory of its own.

        Args:
            view: of the team, (B, ...).
            mode: take the most probable action instead of sampling one.

        Returns:
            Actions (B, N, A), Gaussian ones unbounded, and their log-probabilities (B, N).
        """


class Perception(nn.Module, ABC):
    """What a policy makes of a real view before it acts, such as features of a world model."""

    recurrent: bool = False  # it depends on earlier views of the episode

    @abstractmethod
    def forward(self, view: View, memory: Any, mode: bool) -> tuple[View, Any]:
        """Turn a real view into one as the policy was trained on.

        Args:
            view: of the team, (B, ...).
            memory: of the time step before; None at the very first, or if there is none.
            mode: take the most probable of whatever is sampled.

        Returns:
            The view, and the memory of this time step.
        """


class PerceivingPolicy(Policy):
    """A policy that acts on what a world model makes of real views.

    Args:
        perception: turns them into views as the world model imagines them.
        policy: acts.
    """

    def __init__(self, perception: Perception, policy: Policy) -> None:
        super().__init__()
        self.perception, self.policy = perception, policy
        self.recurrent = perception.recurrent
        self.memory: Any = None

    @torch.no_grad()
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        perceived, self.memory = self.perception(view, self.memory, mode)
        return self.policy.act(perceived, mode)
