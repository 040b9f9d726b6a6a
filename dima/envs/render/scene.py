"""Interface for drawing an environment's states, real or imagined.

A suite's module has ``scene(parallel_env, width, height)``, a user's own environment a method ``scene(width, height)``;
both return a :class:`Scene`, or raise an EnvError where nothing can be drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

P = TypeVar("P")  # pose: a simulator's coordinates, positions on a plane


class Scene(ABC, Generic[P]):
    """Draws one environment: its present state, or any sequence of states.

    Attributes:
        seconds: simulated time of a step; 0 if undefined.
        agents: names of the agents that are drawn in the colours of ``dima.envs.render.colors``, in their order; empty
            where pictures do not tell them apart.
        cannot_imagine: why imagined states cannot be drawn, if so; then :meth:`poses` is never called.
    """

    seconds: float = 0.0
    agents: Sequence[str] = ()
    cannot_imagine: str = ""

    @abstractmethod
    def now(self) -> P:
        """Copy the present pose of the environment, including what its state omits."""

    @abstractmethod
    def poses(self, states: np.ndarray, first: P) -> list[P]:
        """Poses of a sequence of states.

        Args:
            states: (T, S) in the environment's units, one step apart.
            first: pose at the first state, the starting point for what states omit.
        """

    @abstractmethod
    def draw(self, pose: P) -> np.ndarray:
        """Draw a pose: (height, width, 3) uint8."""

    def measures(self, pose: P) -> dict[str, float]:
        """Quantities that the picture cannot show, such as the distance covered, by name."""
        return {}

    def close(self) -> None:
        """Free the renderer."""
