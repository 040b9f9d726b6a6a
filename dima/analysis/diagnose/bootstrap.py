"""Means over segments with bootstrap intervals: whole episodes are resampled, since their segments go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DRAWS = 1000  # resamples behind an interval
LEVEL = 0.95  # share of them that lies inside


@dataclass(frozen=True)
class Curve:
    """A statistic of the segments for each of H steps, with its interval; None where it is not defined."""

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]

    def at(self, step: int) -> float | None:
        """The statistic after so many steps, 1 being the first."""
        return self.mean[step - 1]

    def map(self, function: Callable[[float], float]) -> Curve:
        """The curve of an increasing function of the statistic."""
        values = ([None if v is None else function(v) for v in side] for side in (self.mean, self.low, self.high))
        return Curve(*values)


class Resampling:
    """The same resamples for every statistic of the same segments, so that differences are paired.

    Args:
        episode: (B,) numbers that segments of the same episode share.
        seed: of the draw.
        draws: number of resamples.
    """

    def __init__(self, episode: Tensor, seed: int, draws: int = DRAWS) -> None:
        _, self.cluster = np.unique(episode.numpy(), return_inverse=True)
        clusters = int(self.cluster.max()) + 1
        rng = np.random.default_rng(seed)
        self.weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)  # (draws, clusters)

    def mean(self, values: Tensor, alive: Tensor) -> Curve:
        """The mean of values (B, H) over the segments that are alive (B, H) there."""
        there = alive.double().numpy()
        total = self._summed(values.double().numpy() * there)
        count = self._summed(there)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total.sum(0) / count.sum(0)
            drawn = (self.weights @ total) / (self.weights @ count)
        return _curve(mean, drawn)

    def statistic(self, function: Callable[[np.ndarray], np.ndarray], draws: int) -> Curve:
        """Any statistic (H,) of the chosen segments' numbers (any length, repeated where drawn repeatedly)."""
        everyone = np.arange(len(self.cluster))
        drawn = [function(np.repeat(everyone, weight[self.cluster])) for weight in self.weights[:draws]]
        return _curve(function(everyone), np.stack(drawn))

    def _summed(self, values: np.ndarray) -> np.ndarray:
        """(B, H) -> (clusters, H)."""
        summed = np.zeros((int(self.cluster.max()) + 1, values.shape[1]))
        np.add.at(summed, self.cluster, values)
        return summed


def _curve(mean: np.ndarray, drawn: np.ndarray) -> Curve:
    """(H,) and (draws, H) -> the statistic and the central part of its resamples, those that are defined."""
    tail = (1 - LEVEL) / 2
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    defined = np.isfinite(drawn).any(0)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(drawn[:, defined], (tail, 1 - tail), axis=0)
    return Curve(*([float(v) if np.isfinite(v) else None for v in side] for side in (mean, low, high)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two (B,) arrays, ties sharing their ranks; undefined (NaN) where one is constant."""
    x, y = _ranks(x), _ranks(y)
    spread = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else float("nan")


def pearson(x: Tensor, y: Tensor) -> float | None:
    """Correlation of two tensors of one shape; None where one is constant."""
    x, y = x.double().flatten(), y.double().flatten()
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
