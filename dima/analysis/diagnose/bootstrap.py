"""Bootstrap intervals of means over segments, and correlations.

Whole episodes are resampled, because segments of one episode are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Curve:
    """A statistic of the segments after each of H steps, with its interval; None where it is undefined."""

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]

    def at(self, step: int) -> float | None:
        """The statistic after ``step`` steps, counted from 1."""
        return self.mean[step - 1]

    def map(self, function: Callable[[float], float]) -> Curve:
        """Apply an increasing function to the statistic and its interval."""
        values = ([None if v is None else function(v) for v in side] for side in (self.mean, self.low, self.high))
        return Curve(*values)


class Bootstrap:
    """Resamples of episodes, the same for every statistic of the same segments, so that differences are paired.

    Args:
        episode: (B,) number of each segment's episode.
        seed: of the draw.
        resamples: how many.
    """

    def __init__(self, episode: Tensor, seed: int, resamples: int = RESAMPLES) -> None:
        _, self.cluster = np.unique(episode.numpy(), return_inverse=True)
        clusters = int(self.cluster.max()) + 1
        rng = np.random.default_rng(seed)
        self.weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)  # (R, clusters)

    def mean(self, values: Tensor, alive: Tensor) -> Curve:
        """Mean of ``values`` (B, H) where ``alive`` (B, H)."""
        mask = alive.double().numpy()
        total = self._sum_clusters(values.double().numpy() * mask)
        count = self._sum_clusters(mask)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total.sum(0) / count.sum(0)
            resampled = (self.weights @ total) / (self.weights @ count)
        return _curve(mean, resampled)

    def statistic(self, function: Callable[[np.ndarray], np.ndarray], resamples: int) -> Curve:
        """A statistic (H,) that ``function`` computes from segment indices, which repeat in resamples."""
        all_segments = np.arange(len(self.cluster))
        resampled = [function(np.repeat(all_segments, weight[self.cluster])) for weight in self.weights[:resamples]]
        return _curve(function(all_segments), np.stack(resampled))

    def _sum_clusters(self, values: np.ndarray) -> np.ndarray:
        """(B, H) -> (clusters, H)."""
        summed = np.zeros((int(self.cluster.max()) + 1, values.shape[1]))
        np.add.at(summed, self.cluster, values)
        return summed


def _curve(mean: np.ndarray, resampled: np.ndarray) -> Curve:
    """Percentile intervals of (R, H) resampled statistics around (H,)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    defined = np.isfinite(resampled).any(0)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(resampled[:, defined], (tail, 1 - tail), axis=0)
    return Curve(*([float(v) if np.isfinite(v) else None for v in side] for side in (mean, low, high)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two (B,) arrays with averaged ranks for ties; NaN where one is constant."""
    x, y = _ranks(x), _ranks(y)
    scale = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / scale) if scale > 0 else float("nan")


def pearson(x: Tensor, y: Tensor) -> float | None:
    """Correlation of two tensors of one shape; None where one is constant."""
    x, y = x.double().flatten(), y.double().flatten()
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    _, index, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[index]
