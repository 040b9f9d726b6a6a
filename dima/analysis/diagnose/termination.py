"""Does the world model know when the task ends? Precision, recall, and how far its probabilities can be relied on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.segments import Segments

THRESHOLD = 0.5  # probability from which on an end counts as foretold
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Steps of similar foretold probability."""

    told: float  # mean probability of an end
    real: float  # share of them that really ended the task
    steps: int


@dataclass(frozen=True)
class Termination:
    """Over all steps that were really taken."""

    steps: int
    ends: int  # of them, how many really ended the task
    foretold: int  # how many were foretold to, with a probability of at least a half
    both: int
    precision: float | None  # share of the foretold ends that are real; None if none was foretold
    recall: float | None  # share of the real ends that were foretold; None if there was none
    brier: float  # mean squared error of the probability
    reliability: list[Bin]  # empty bins left out


def termination(told: Foretold, segments: Segments) -> Termination:
    """Compare the foretold probability of an end with what happened."""
    probability = 1 - told.continuation[segments.alive].double().numpy()
    ended = segments.terminated[segments.alive].numpy()
    foretold = probability >= THRESHOLD
    both = int((foretold & ended).sum())
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = [
        Bin(float(probability[chosen].mean()), float(ended[chosen].mean()), int(chosen.sum()))
        for chosen in (place == number for number in range(BINS))
        if chosen.any()
    ]
    return Termination(
        steps=len(ended),
        ends=int(ended.sum()),
        foretold=int(foretold.sum()),
        both=both,
        precision=both / int(foretold.sum()) if foretold.any() else None,
        recall=both / int(ended.sum()) if ended.any() else None,
        brier=float(np.square(probability - ended).mean()),
        reliability=bins,
    )
