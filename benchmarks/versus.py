"""One learning round, the library's against the plain path's, in the same run and interleaved."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.learners import build, plain
from benchmarks.timing import Timing, ratio
from benchmarks.units import learning_units
from dima.run_config import TrainConfig

OURS, PLAIN = "dima", "plain"


def versus(config: TrainConfig, timing: Timing) -> dict[str, Any]:
    """Seconds of every part of a round both ways, its ratio, and that of the round they add up to.

    Args:
        config: of the run.
        timing: of each part, A B B A, after a call that warms up.
    """
    torch.manual_seed(config.seed)
    ours = build(config, str(timing.device))
    sides = {OURS: learning_units(ours, timing.share), PLAIN: learning_units(plain(ours), timing.share)}
    parts: dict[str, Any] = {}
    whole = dict.fromkeys(sides, 0.0)
    for name, unit in sides[OURS].items():
        for units in sides.values():
            for prepare in (units[name].before, units[name].call):
                if prepare is not None:
                    prepare()
        seconds = timing.each({side: units[name].call for side, units in sides.items()})
        for side in sides:
            whole[side] += median(seconds[side]) * unit.often
        parts[name] = {"seconds": seconds, "often": unit.often, "ratio": ratio(seconds[PLAIN], seconds[OURS])}
    return {"parts": parts, "round": whole | {"ratio": whole[PLAIN] / whole[OURS]}}
