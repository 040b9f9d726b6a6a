"""A policy's mode as a graph that another program made, with the memory that it needs fed back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dima.config import count
from dima.data import EnvSpec, View
from dima.errors import ConfigError
from dima.policies.base import Policy
from dima.sharing.spaces import MAX_ENTRIES

Graph = Callable[..., Sequence[Tensor]]  # observations, masks, memory before -> action, memory after


class GraphPolicy(Policy):
    """The policy's mode, on the CPU.

    Args:
        graph: computes it.
        memory: of the card, the untrusted one in the graph's file: the shape of each output that is fed back.
        spec: of the team.

    Raises:
        ValueError: the memory is not one of this team.
    """

    def __init__(self, graph: Graph, memory: Mapping[str, Any], spec: EnvSpec) -> None:
        super().__init__()
        shapes = [tuple(map(count, shape)) for shape in memory.values()]
        if shapes and shapes[0] != (spec.n_agents, spec.action_dim):
            raise ValueError("its memory does not begin with the action")
        if sum(map(math.prod, shapes)) > MAX_ENTRIES:
            raise ValueError("its memory is too large")
        self.recurrent = bool(shapes)
        self._graph, self._shapes = graph, shapes[1:]  # the action is in the view

    @torch.no_grad()
    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        """As for every policy; the log-probability, which no graph holds, is NaN."""
        if not mode:
            raise ConfigError("a graph holds the policy's mode only: load the safetensors file to sample actions")
        before = [view.previous_action, *self._before(view)] if self.recurrent else []
        action, *self.memory = self._graph(view.obs, view.action_mask, *before)
        return action, action.new_full(action.shape[:-1], torch.nan)

    def _before(self, view: View) -> list[Tensor]:
        """The memory of the step before, zero where an episode begins."""
        rows = len(view.obs)
        memory: list[Tensor] = list(self.memory or ())
        if not memory or len(memory[0]) != rows:
            memory = [torch.zeros(rows, *shape) for shape in self._shapes]
        if [one.shape[1:] for one in memory] != self._shapes:
            raise ValueError("its memory is not of the sizes that its card says")
        assert view.first is not None
        return [one.masked_fill(view.first.view(-1, *[1] * (one.dim() - 1)), 0.0) for one in memory]
