"""How states become pictures: what an environment offers so that imagined states can be seen beside real ones.

A suite's module offers ``scene(parallel_env, width, height)``, a user's own environment a method
``scene(width, height)``; both return a :class:`Scene` and raise an EnvError where a setting makes states unreadable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

P = TypeVar("P")  # whatever a scene draws: a simulator's coordinates, positions on a plane


class Scene(ABC, Generic[P]):
    """Draws one environment, as it is now or as a sequence of its states tells.

    Attributes:
        seconds: how long a step lasts in the environment's own time; 0 where it has none.
    """

    seconds: float = 0.0

    @abstractmethod
    def now(self) -> P:
        """The true pose of the running environment, also what its state leaves out; later steps do not change it."""

    @abstractmethod
    def poses(self, states: np.ndarray, first: P) -> list[P]:
        """The poses that a sequence of states describes.

        Args:
            states: (T, S) in the environment's units, one step apart.
            first: a pose at the first of them; what states leave out starts from there.
        """

    @abstractmethod
    def draw(self, pose: P) -> np.ndarray:
        """(height, width, 3) uint8."""

    def measures(self, pose: P) -> dict[str, float]:
        """What the picture cannot show, such as how far the robot has come, in the environment's units."""
        return {}

    def close(self) -> None:
        """Free what drawing needed."""
