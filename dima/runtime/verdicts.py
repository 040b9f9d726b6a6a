"""Verdicts: what numbers mean, in sentences marked ✓ or ⚠, for pages, terminals and JSON.

The thresholds between them are all here. They are conventions, not laws: where they matter, read the numbers below the
verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Literal

Severity = Literal["grave", "warning", "good"]
_MARKS: dict[Severity, str] = {"grave": "⚠", "warning": "⚠", "good": "✓"}  # the gravest first

LAST_STATE = "the last state repeated"
"""Persistence, in words."""
NEAR = 15
"""Steps that a world model must at least be good for: the length of training's imagined rollouts."""
FOLLOWS = 0.5
"""Mean absolute error in standard deviations up to which a forecast follows reality; an unrelated state has about 1."""
COVERAGE = 0.10
"""Coverage of a central interval may be off by this much; one that covers less than half of its share is grave."""
REWARD_R2 = (0.0, 0.7)
"""Coefficient of determination of single rewards: up to the first it is grave, from the second on good."""
REWARD_BIAS = 0.10
"""Bias of the reward, as a share of the error that predicting the mean reward makes."""
REWARD_SUM = 0.10
"""Imagined minus real sum of rewards, as a share of the sum of their sizes."""
CORRELATION = (0.3, 0.7)
"""Correlations, of returns and of influences: below the first grave, from the second on good."""
RECALL = (0.5, 0.8)
"""Recall and precision of terminations: below the first grave, from the second on good."""
END = 0.5
"""Probability of continuation below which a model predicts the end of the episode."""
ORDER = 0.5
"""Deviation over the agents' orders, as a share of that over their actions."""
FEW_EPISODES = 10
"""Episodes below which a bootstrap over them is too narrow."""
DECLINE = 0.2
"""Share of the gain from first to best evaluation that the last one may have lost."""
SMALLEST_SHARE = 0.05
"""A return below this share of another makes no ratio: it is as good as zero."""


@dataclass(frozen=True)
class Verdict:
    """A judgement of some numbers: a sentence without its full stop, and how grave it is."""

    severity: Severity
    sentence: str

    @property
    def mark(self) -> str:
        return _MARKS[self.severity]

    def __str__(self) -> str:
        return f"{self.mark} {self.sentence}"

    def to_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        return asdict(self)


def ranked(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Sort the gravest first, otherwise in the given order."""
    order = list(_MARKS)
    return sorted(verdicts, key=lambda verdict: order.index(verdict.severity))


def graded(value: float, grave: float, good: float) -> Severity:
    """Severity of a quantity of which more is better, by its thresholds."""
    return "good" if value >= good else "grave" if value < grave else "warning"


def following(topic: str, close: Iterable[bool]) -> Verdict:
    """For how long a forecast follows reality.

    Args:
        topic: what is forecast.
        close: of each step, whether the forecast is within :data:`FOLLOWS` and better than the last state repeated.
    """
    steps = list(close)
    followed = sum(1 for _ in takewhile(bool, steps))
    limits = f"within {FOLLOWS} standard deviations and closer than {LAST_STATE}"
    if not followed:
        return Verdict("grave", f"{topic}: does not follow reality for a step {limits}")
    length = f"{followed} of {len(steps)} steps" if followed < len(steps) else f"all {followed} steps"
    severity: Severity = "good" if followed >= min(NEAR, len(steps)) else "warning"
    return Verdict(severity, f"{topic}: follows reality for {length}, {limits}")
