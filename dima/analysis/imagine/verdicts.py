"""Verdicts of an imagined trajectory; their thresholds are those of ``dima.runtime.verdicts``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dima.analysis.imagine.compare import Comparison
from dima.runtime.verdicts import END, FOLLOWS, LAST_STATE, NEAR, REWARD_SUM, Severity, Verdict, following, ranked


def judge(comparison: Comparison, errors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Verdict]:
    """Every verdict, the gravest first.

    Args:
        comparison: both trajectories.
        errors: the imagined trajectory's and persistence's, (T + 1,) each, by what they are of.
    """
    if not comparison.steps:
        return [Verdict("grave", "the real episode does not last a step, so nothing can be compared")]
    found = [verdict for topic, pair in errors.items() for verdict in _error(topic, *pair, comparison)]
    return ranked([*found, _reward(comparison), *_end(comparison)])


def _error(topic: str, error: np.ndarray, persistence: np.ndarray, comparison: Comparison) -> Iterator[Verdict]:
    worse = [steps for steps in comparison.horizons if error[: steps + 1].sum() > persistence[: steps + 1].sum()]
    if worse:
        severity: Severity = "grave" if worse[0] <= NEAR else "warning"
        yield Verdict(severity, f"{topic}: worse than {LAST_STATE} over {', '.join(map(str, worse))} steps")
    close = (error <= FOLLOWS) & (error <= persistence)
    if close[1] or not worse:
        yield following(topic, close[1:])


def _reward(comparison: Comparison) -> Verdict:
    real, imagined = (one.reward[: comparison.steps] for one in (comparison.real, comparison.imagined))
    good = abs(imagined.sum() - real.sum()) <= REWARD_SUM * np.abs(real).sum()
    text = f"Reward: {imagined.sum():.4g} imagined over {comparison.steps} steps, {real.sum():.4g} real"
    return Verdict("good" if good else "warning", text)


def _end(comparison: Comparison) -> Iterator[Verdict]:
    """Whether the episode ends where it really does, up to the last step that both have."""
    steps = comparison.steps
    ends = np.flatnonzero(comparison.imagined.continuation[:steps] < END) + 1
    real = steps if comparison.real.continuation[steps - 1] == 0 else None
    imagined = int(ends[0]) if len(ends) else None
    if imagined is not None and imagined != real:
        yield Verdict("grave", f"Termination: imagined at step {imagined}, where the real episode goes on")
    elif real is not None and imagined is None:
        yield Verdict("grave", f"Termination: the real episode ends at step {real}, the imagined one goes on")
    elif real is not None:
        yield Verdict("good", f"Termination: at step {real}, as imagined")
