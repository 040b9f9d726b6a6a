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
    memory: Any = None  # of the time step before

    @abstractmethod
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """Choose a joint action, without gradients.

        A policy with a memory keeps it from call to call, as ``memory``, which no checkpoint holds, and forgets it in
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

    def initial_memory(self, rows: int) -> Any:
        """The memory before an episode's first view; a policy with a memory needs it to be exported.

        Args:
            rows: number B of episodes.

        Returns:
            A NamedTuple of zeros (B, ...) in float32, as :meth:`forward` takes and returns it; None: there is none, or
            it is of another kind.
        """
        return None

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

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        action, log_prob, self.memory = self.step(view, self.memory, mode)
        return action, log_prob

    @torch.no_grad()
    def step(self, view: View, memory: Any, mode: bool = False) -> tuple[Tensor, Tensor, Any]:
        """Likewise, with the memory of the time step before given and that of this one returned."""
        perceived, memory = self.perception(view, memory, mode)
        return *self.policy.act(perceived, mode), memory
