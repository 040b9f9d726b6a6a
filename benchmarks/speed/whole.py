"""Time a shortened learning iteration: reference, library, other settings."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch

from benchmarks.speed.learners import PlainLearner, build, plain
from benchmarks.speed.settings import changes_of, said
from benchmarks.speed.timing import Timing, ratio
from benchmarks.speed.units import learning_units
from benchmarks.speed.versus import PLAIN
from dima.algorithms.model_based import ModelBased, ModelBasedConfig
from dima.runtime.progress import Progress
from dima.training.run_config import TrainConfig


def shortened(config: TrainConfig, share: float) -> TrainConfig:
    """The same iteration with a share of the gradient steps and imagined episodes: of batches, then of each."""
    learner = config.learner
    assert isinstance(learner, ModelBasedConfig)
    fits = {name: fit for name, fit in vars(learner.world_model).items() if name.endswith("_fit")}
    fewer = {name: {"updates": max(1, round(fit.updates * share))} for name, fit in fits.items()}
    batches = math.ceil(learner.imaginations * share)
    batch = max(1, round(learner.imaginations * learner.imagination_batch * share / max(1, batches)))
    return config.override({"learner": {"world_model": fewer, "imaginations": batches, "imagination_batch": batch}})


def learn(learner: ModelBased) -> None:
    """An iteration without collection."""
    learner.fit(Progress())
    learner.update_policy(Progress(), 0.0)


def learn_reference(learner: PlainLearner) -> None:
    """The same in the reference, sequentially."""
    for unit in learning_units(learner).values():
        for _ in range(round(unit.often)):
            unit.call()


def whole(
    config: TrainConfig, yardstick: TrainConfig, settings: list[str], threads: int, timing: Timing
) -> dict[str, Any]:
    """Seconds of a shortened iteration each way, interleaved, after one that warms up.

    Args:
        config: of the run.
        yardstick: settings of the reference.
        settings: further settings to time, see :mod:`benchmarks.speed.settings`.
        threads: of the reference, and of settings without ``threads``.
        timing: the share of an iteration, among others.
    """
    calls, own = {}, {}
    torch.manual_seed(config.seed)
    twin = plain(build(shortened(yardstick, timing.share), str(timing.device)))
    calls[PLAIN], own[PLAIN] = lambda: learn_reference(twin), threads
    for setting in ["", *settings]:
        changed = shortened(config.override(changes_of(setting)), timing.share)
        torch.manual_seed(config.seed)
        learner = build(changed, str(timing.device))
        calls[said(setting)] = lambda learner=learner: learn(learner)
        own[said(setting)] = changed.threads or threads

    def under(name: str) -> None:
        torch.set_num_threads(own[name])
        calls[name]()

    try:
        for name in calls:
            under(name)
        seconds = timing.each({name: lambda name=name: under(name) for name in calls})
    finally:
        torch.set_num_threads(threads)
    return {
        name: {
            "seconds": seconds[name],
            "iteration": median(seconds[name]) / timing.share,
            "threads": own[name],
            "ratio": ratio(seconds[PLAIN], seconds[name]),
        }
        for name in calls
    }
