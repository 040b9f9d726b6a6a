"""Time a learning iteration of the library against the reference, interleaved."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.speed.learners import build, plain
from benchmarks.speed.timing import Timing, ratio
from benchmarks.speed.units import learning_units
from dima.training.run_config import TrainConfig

OURS, PLAIN = "dima", "plain"


def versus(config: TrainConfig, yardstick: TrainConfig, timing: Timing) -> dict[str, Any]:
    """Seconds of every part of an iteration both ways, its ratio, and that of the iteration they add up to.

    Args:
        config: of the run.
        yardstick: settings of the reference: the same, or the sizes to compare with.
        timing: of each part, A B B A, after a call that warms up.
    """
    torch.manual_seed(config.seed)
    ours = build(config, str(timing.device))
    twin = plain(ours if yardstick == config else build(yardstick, str(timing.device)))
    sides = {OURS: learning_units(ours, timing.share), PLAIN: learning_units(twin, timing.share)}
    parts: dict[str, Any] = {}
    for name in sides[OURS]:
        calls = {}
        for side, units in sides.items():
            unit = units[name]
            if unit.before is not None:
                unit.before()
            unit.call()
            calls[side] = unit.call
        seconds = timing.each(calls)
        often = {side: units[name].often for side, units in sides.items()}
        a_iteration = {side: median(seconds[side]) * often[side] for side in sides}
        parts[name] = {"seconds": seconds, "often": often, "iteration": a_iteration}
        parts[name]["ratio"] = ratio(seconds[PLAIN], seconds[OURS]) * often[PLAIN] / often[OURS]
    whole = {side: sum(part["iteration"][side] for part in parts.values()) for side in sides}
    return {"yardstick": yardstick.preset, "parts": parts, "iteration": whole | {"ratio": whole[PLAIN] / whole[OURS]}}
