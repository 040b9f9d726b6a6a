"""Wall-time budget of a recurring job, such as writing checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeBudget:
    """Ration a recurring job to a share of the wall time since now.

    Args:
        share: of the time, from 0 (the job is allowed once) to 1 (always).
        clock: seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share, self._clock = share, clock
        self._began = clock()
        self.spent = 0.0  # seconds in the job

    @property
    def allows(self) -> bool:
        """Whether what was spent is within the share, so that the job can be done again; at first it always can."""
        elsewhere = self._clock() - self._began - self.spent
        return self.spent * (1 - self.share) <= self.share * elsewhere

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Time the job that the block does."""
        began = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - began
