"""Summary of a finished or interrupted run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dima.runtime.progress import duration
from dima.runtime.verdicts import DECLINE, Verdict

_BAR = 30  # characters of the longest bar in the curve


@dataclass(frozen=True)
class Summary:
    """Outcome of a run.

    Attributes:
        task: the environment's name.
        algorithm: the algorithm's name.
        folder: of the run.
        steps: steps made.
        evaluations: (steps, measure) of every evaluation, in order.
        seconds: wall seconds per phase; phases may overlap.
        env: the environment's settings, which returns depend on.
        simulator: its name and version, where returns depend on it.
        finished: False when the run was asked to stop before its last step.
        unit: of ``steps``.
        measure: name of the evaluated quantity; by default the mean team return.
        digits: decimals of the measure.
        lower_is_better: of the measure, such as an error.
        note: a remark on the outcome, printed last.
        wall: seconds of all iterations.
        random_score: measure of a random policy, where the curve's bars start.
        stopped: which callback stopped the run before its last step, and why.
    """

    task: str
    algorithm: str
    folder: Path
    steps: int
    evaluations: Sequence[tuple[int, float]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    simulator: str = ""
    finished: bool = True
    unit: str = "environment steps"
    measure: str = "team return"
    digits: int = 1
    lower_is_better: bool = False
    note: str = ""
    wall: float = 0.0
    random_score: float | None = None
    stopped: str = ""

    def table(self) -> str:
        """Text: verdicts, the curve of returns, the time per phase, the run folder."""
        lines = [*map(str, self.verdicts), f"{self.algorithm} on {self.task}: {self.steps:,} {self.unit}"]
        lines += [self.conditions] if self.conditions else []
        lines += ["", *self._curve()] if self.evaluations else []
        lines += ["", *self._clock()] if self.seconds else []
        lines += ["", f"stopped by {self.stopped}"] if self.stopped else []
        lines += ["", f"run folder: {self.folder}"]
        lines += [self.note] if self.note else []
        if not self.finished:
            lines.append(f"interrupted and saved; continue with `dima resume {self.folder}`")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        facts = {"run" if f.name == "folder" else f.name: getattr(self, f.name) for f in fields(self)}
        return facts | {
            "run": str(self.folder),
            "env": dict(self.env),
            "evaluations": [[step, value] for step, value in self.evaluations],
            "seconds": dict(self.seconds),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }

    @property
    def verdicts(self) -> list[Verdict]:
        """What the evaluations mean."""
        if not self.evaluations:
            return [Verdict("warning", "no evaluation was made")]
        sign = -1 if self.lower_is_better else 1
        first, last = sign * self.evaluations[0][1], sign * self.evaluations[-1][1]
        step, best = max(((step, sign * value) for step, value in self.evaluations), key=lambda pair: pair[1])
        if len(self.evaluations) == 1:
            return []
        shown = {
            name: f"{sign * value:,.{self.digits}f}"
            for name, value in (("first", first), ("last", last), ("best", best))
        }
        if last <= first:
            text = f"ends no better than it began: {self.measure} {shown['last']}, at first {shown['first']}"
            return [Verdict("grave", text)]
        if best - last > DECLINE * (best - first):
            where = f"{shown['best']} at {step:,} {self.unit}"
            return [Verdict("warning", f"ends below its best: {self.measure} {shown['last']}, {where}")]
        return [Verdict("good", f"learnt: {self.measure} from {shown['first']} to {shown['last']}")]

    @property
    def conditions(self) -> str:
        """Settings of the environment and the simulator, on which returns depend, in a line."""
        return ", ".join(filter(None, (settings_line(self.env), self.simulator)))

    def _curve(self) -> list[str]:
        returns, random = [mean for _, mean in self.evaluations], self.random_score
        low, high = min(returns) if random is None else random, max(returns)
        scale = (high - low) or 1.0
        width = max(12, len(self.measure))
        lines = [f"{self.unit.split()[-1]:>12}  {self.measure:>{width}}"]
        lines += [] if random is None else [f"{'random':>12}  {random:>{width},.{self.digits}f}"]
        for steps, mean in self.evaluations:
            bar = "▪" * round(_BAR * (mean - low) / scale) if mean > low else ""
            lines.append(f"{steps:>12,}  {mean:>{width},.{self.digits}f}  {bar}".rstrip())
        return lines

    def _clock(self) -> list[str]:
        total = sum(self.seconds.values()) or 1.0
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        width = max(len(name) for name in (*self.seconds, "wall time"))
        lines = [f"{name:<{width}}  {duration(spent):>10}  {spent / total:>4.0%}" for name, spent in ordered]
        return [*lines, f"{'wall time':<{width}}  {duration(self.wall):>10}"]


def seeds_table(summaries: Sequence[Summary]) -> str:
    """Table of runs that differ in their seed, and the mean of their last evaluations."""
    if not summaries:
        return "no run finished"
    first = summaries[0]
    lines = [
        f"{first.algorithm} on {first.task}",
        *dict.fromkeys(filter(None, (one.conditions for one in summaries))),
        "",
    ]
    lines.append(f"{first.unit.split()[-1]:>12}  {first.measure:>12}  run folder")
    for one in summaries:
        last = f"{one.evaluations[-1][1]:,.{one.digits}f}" if one.evaluations else "-"
        state = "" if one.finished else "  interrupted and saved; continue with `dima resume`"
        lines.append(f"{one.steps:>12,}  {last:>12}  {one.folder}{state}")
    measured = [one.evaluations[-1][1] for one in summaries if one.evaluations]
    if len(measured) > 1:
        mean, std = statistics.mean(measured), statistics.stdev(measured)
        numbers = f"{mean:,.{first.digits}f} ± {std:,.{first.digits}f}"
        lines += ["", f"{numbers} over {len(measured)} seeds (mean and standard deviation)"]
    return "\n".join(lines)


def settings_line(settings: Mapping[str, Any]) -> str:
    """Settings of an environment in a line: ``observation = full+id, standardise = False``."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items())
