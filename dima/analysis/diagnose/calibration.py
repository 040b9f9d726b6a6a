"""Calibration of sampled forecasts and of predicted terminations.

A forecast is calibrated if the truth might as well be one more sample: then it has each rank among n samples with the
same probability (Hamill 2001), central intervals cover their nominal share, and the samples' standard deviation equals
the error of their mean (a spread-skill ratio of 1). Ties, as in a deterministic environment, are broken at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Bootstrap, Curve, pearson
from dima.analysis.diagnose.episodes import FeatureScales
from dima.analysis.diagnose.rollouts import Predictions, Segments
from dima.analysis.targets import OBSERVATIONS, STATE
from dima.nn.normalizer import GRAIN

INTERVALS = (0.5, 0.9)  # nominal coverage of the central intervals
THRESHOLD = 0.5  # probability from which on a termination counts as predicted
_TIE_TOLERANCE = 1e-5  # in standard deviations, besides a few steps of float32 at the value
_BINS = 10  # of the reliability diagram


@dataclass(frozen=True)
class Calibration:
    """Calibration of the state or of the observations; constant features are left out."""

    samples: int  # n, of each segment
    rank_histogram: list[float]  # (n + 1,) share of true values with each rank, over all steps; uniform if calibrated
    first_rank_histogram: list[float]  # the same after the first step
    coverage: dict[str, Curve]  # by central interval, of those that n samples resolve: share of true values inside
    std: Curve  # of the samples, root mean square over features, in standard deviations of the data
    rmse: Curve  # of the samples' mean, likewise
    std_error_correlation: float | None  # over segments, averaged over steps: does the model know what it does not?

    def spread_skill_ratio(self, step: int) -> float | None:
        """Standard deviation of the samples by the error of their mean after ``step`` steps; 1 if calibrated."""
        std, rmse = self.std.at(step), self.rmse.at(step)
        return std / rmse if std is not None and rmse else None


def calibration(
    sampled: Predictions, segments: Segments, scales: FeatureScales, bootstrap: Bootstrap, seed: int
) -> dict[str, Calibration]:
    """Measure the calibration of (B, n, H, ...) sampled forecasts of the state, if predicted, and the observations."""
    rng = np.random.default_rng(seed)
    targets = {
        STATE: (sampled.state, segments.state, scales.state_scale, scales.state_varies),
        OBSERVATIONS: (sampled.obs, segments.obs, scales.obs_scale, scales.obs_varies),
    }
    return {
        target: _calibration(
            (values / scale)[..., varies], (truth / scale)[..., varies], segments.alive, bootstrap, rng
        )
        for target, (values, truth, scale, varies) in targets.items()
        if values is not None and varies.any()
    }


def _calibration(
    sampled: Tensor, truth: Tensor, alive: Tensor, bootstrap: Bootstrap, rng: np.random.Generator
) -> Calibration:
    """Of samples (B, n, H, F) and truth (B, H, F)."""
    count = sampled.shape[1]
    ranks = _ranks(sampled, truth, rng)
    # a rank counts by its overlap with the interval, so that a uniform histogram has exactly the nominal coverage
    edges = np.linspace(0, 1, count + 2)
    coverage = {}
    for nominal in INTERVALS:
        low, high = (1 - nominal) / 2, (1 + nominal) / 2
        if low * (count + 1) < 1 - 1e-9:  # too few samples: the outermost ranks would count in part
            continue
        inside = (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * (count + 1)
        coverage[f"{nominal:.0%}"] = bootstrap.mean(torch.from_numpy(inside)[ranks].mean(-1), alive)
    variance = sampled.var(1).mean(-1) * (count + 1) / count  # expected squared error of the samples' mean
    squared = (sampled.mean(1) - truth).square().mean(-1)
    by_step = [
        pearson(v[mask].sqrt(), s[mask].sqrt()) for v, s, mask in zip(variance.T, squared.T, alive.T, strict=True)
    ]
    defined = [value for value in by_step if value is not None]
    return Calibration(
        samples=count,
        rank_histogram=_histogram(ranks[alive], count),
        first_rank_histogram=_histogram(ranks[:, 0], count),
        coverage=coverage,
        std=bootstrap.mean(variance, alive).map(np.sqrt),
        rmse=bootstrap.mean(squared, alive).map(np.sqrt),
        std_error_correlation=float(np.mean(defined)) if defined else None,
    )


def _ranks(sampled: Tensor, truth: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, H, F) number of samples below the truth."""
    tolerance = _TIE_TOLERANCE + 4 * GRAIN * truth.abs()
    below = (sampled < (truth - tolerance)[:, None]).sum(1)
    ties = (sampled <= (truth + tolerance)[:, None]).sum(1) - below
    return below + torch.from_numpy(rng.integers(0, ties.numpy() + 1))


def _histogram(ranks: Tensor, count: int) -> list[float]:
    counts = torch.bincount(ranks.flatten(), minlength=count + 1).double()
    return (counts / counts.sum()).tolist()


@dataclass(frozen=True)
class ReliabilityBin:
    """Steps with similar predicted probabilities of termination."""

    predicted: float  # mean probability
    observed: float  # share of the steps that terminated
    steps: int


@dataclass(frozen=True)
class TerminationError:
    """Predicted against real terminations over all real steps."""

    steps: int
    terminations: int
    predicted: int  # steps with a probability of at least THRESHOLD
    true_positives: int
    precision: float | None  # None if none was predicted
    recall: float | None  # None if there was none
    brier: float  # mean squared error of the probability
    reliability: list[ReliabilityBin]  # without empty bins


def termination_error(predictions: Predictions, segments: Segments) -> TerminationError:
    """Compare predicted probabilities of termination with what happened."""
    probability = 1 - predictions.continuation[segments.alive].double().numpy()
    terminated = segments.terminated[segments.alive].numpy()
    predicted = probability >= THRESHOLD
    true_positives = int((predicted & terminated).sum())
    bin_index = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    bins = [
        ReliabilityBin(float(probability[chosen].mean()), float(terminated[chosen].mean()), int(chosen.sum()))
        for chosen in (bin_index == index for index in range(_BINS))
        if chosen.any()
    ]
    return TerminationError(
        steps=len(terminated),
        terminations=int(terminated.sum()),
        predicted=int(predicted.sum()),
        true_positives=true_positives,
        precision=true_positives / int(predicted.sum()) if predicted.any() else None,
        recall=true_positives / int(terminated.sum()) if terminated.any() else None,
        brier=float(np.square(probability - terminated).mean()),
        reliability=bins,
    )
