"""Wall-time budget of a recurring job, such as writing checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeBudget:
    """Limit a recurring job to a share of the wall time from now on.

    Args:
        share: of the time, from 0 (the job may run once) to 1 (always).
        clock: time in seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share, self._clock = share, clock
        self._began = clock()
        self.spent = 0.0  # seconds in the job

    @property
    def allows(self) -> bool:
        """Whether the job may run again; the first run is always allowed."""
        elsewhere = self._clock() - self._began - self.spent
        return self.spent * (1 - self.share) <= self.share * elsewhere

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Measure the time of the job in the block."""
        began = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - began
