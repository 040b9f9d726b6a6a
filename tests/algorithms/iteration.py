"""An iteration of the training loop, for tests of single algorithms."""

from __future__ import annotations

from dima.algorithms.base import Algorithm, Metrics
from dima.experience.collector import Collector
from dima.runtime.progress import Progress


def iterate(algorithm: Algorithm, collector: Collector, done: float = 0.0, progress: Progress | None = None) -> Metrics:
    """Collect, fit, update the policy; ``done`` is the share of the run that is over."""
    progress = progress or Progress()
    metrics = algorithm.collect(collector, progress)
    return metrics | algorithm.fit(progress) | algorithm.update_policy(progress, done)
