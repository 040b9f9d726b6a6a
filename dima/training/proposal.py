"""Propose a first run from what the check of an environment saw."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dima.envs.check import CheckReport
from dima.presets import QUICK, SMALL

_QUICK = {"agents": 4, "state": 64, "action": 8, "steps": 250}  # the largest task for that preset
_MODERATE = {"agents": 6, "state": 150, "action": 32, "steps": 1000}
LONGEST = 1000  # steps of an episode that is not cut


def first_run(report: CheckReport, given: Sequence[str] = ()) -> str | None:
    """A command line that trains in a checked environment; None if it is not fit for training.

    The preset and the number of steps follow from the task's sizes and its episodes of random actions; episodes
    without an end, or with a distant one, are cut.

    Args:
        report: of the check.
        given: flags of the environment's settings that it was checked with.
    """
    spec = report.spec
    if spec is None or not (report.ok or report.endless):
        return None
    length = LONGEST if report.endless else max(report.lengths, default=LONGEST)
    sizes = {"agents": spec.n_agents, "state": spec.state_dim, "action": spec.action_dim, "steps": length}

    def within(limits: dict[str, int]) -> bool:
        return all(size <= limits[name] for name, size in sizes.items())

    preset, steps = (QUICK, 4_000) if within(_QUICK) else (SMALL, 20_000 if within(_MODERATE) else 50_000)
    cut = ["--env.episode-limit", str(LONGEST)] if report.can_be_cut and (report.endless or length > LONGEST) else []
    return shlex.join(["dima", "train", report.task, "--preset", preset, "--steps", str(steps), *given, *cut])
