"""The pace of a run, for its time left and its projected duration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Share = Literal["none", "part", "whole"]  # of an iteration's learning that took place
_FEWEST_ITERATIONS, _FEWEST_SECONDS = 2, 60.0  # for a projection: the first may also compile


@dataclass
class Pace:
    """Seconds per step, from a run's iterations so far.

    Iterations that only collect are left out. Those that leave out a part of learning give a lower bound, until there
    are others.
    """

    seconds: float = 0.0
    steps: int = 0
    iterations: int = 0
    share: Share = "none"  # of learning in these iterations

    def add(self, seconds: float, steps: int, share: Share) -> None:
        """Add an iteration."""
        if share == "none" or (share == "part" and self.share == "whole"):
            return
        if share != self.share:
            self.seconds, self.steps, self.iterations, self.share = 0.0, 0, 0, share
        self.seconds += seconds
        self.steps += steps
        self.iterations += 1

    @property
    def seconds_per_step(self) -> float | None:
        """None before an iteration counts."""
        return self.seconds / self.steps if self.steps > 0 else None

    @property
    def reliable(self) -> bool:
        """Whether a run can be projected."""
        return self.steps > 0 and (self.iterations >= _FEWEST_ITERATIONS or self.seconds >= _FEWEST_SECONDS)
