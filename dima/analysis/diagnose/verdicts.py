"""Verdicts of a diagnosis; their thresholds are those of ``dima.runtime.verdicts``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch

from dima.analysis.diagnose.bootstrap import pearson
from dima.analysis.diagnose.calibration import Calibration, TerminationError
from dima.analysis.diagnose.error import (
    MODEL,
    PERSISTENCE,
    RECONSTRUCTION,
    HorizonError,
    ReturnRanking,
    RewardError,
)
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.reveal import OrderSensitivity
from dima.runtime.verdicts import (
    CORRELATION,
    COVERAGE,
    FEW_EPISODES,
    FOLLOWS,
    LAST_STATE,
    NEAR,
    ORDER,
    RECALL,
    REWARD_BIAS,
    REWARD_R2,
    Severity,
    Verdict,
    following,
    graded,
    ranked,
)


def judge(
    error: HorizonError,
    calibration: Mapping[str, Calibration],
    reward: RewardError,
    returns: ReturnRanking,
    termination: TerminationError,
    order: OrderSensitivity | None,
    influence: Influence,
    episodes: int,
) -> list[Verdict]:
    """Every verdict, the gravest first; ``episodes`` is the number that intervals are over."""
    near = min(NEAR, len(error.segments))
    found = [verdict for target in error.targets for verdict in _error(error, target, near)]
    found += [_coverage(target, one, near) for target, one in calibration.items() if one.coverage]
    found += [*_reward(reward, near), *_returns(returns, near), *_termination(termination)]
    found += [*_order(order), *_influence(influence)]
    if episodes < FEW_EPISODES:
        found.append(Verdict("warning", f"Intervals: too narrow, for {episodes} episodes are few: raise --episodes"))
    return ranked(found)


def _error(error: HorizonError, target: str, near: int) -> Iterator[Verdict]:
    topic, advantage = target.capitalize(), error.advantage[target]
    worse = [step for step, high in enumerate(advantage.high, 1) if high is not None and high < 0]
    if worse:
        severity: Severity = "grave" if worse[0] <= near else "warning"
        yield Verdict(severity, f"{topic}: worse than {LAST_STATE} at {_steps(worse)}")
    elif parts := _worse_parts(error, target, near):
        yield Verdict("warning", f"{topic}: worse than {LAST_STATE} at some steps for {', '.join(parts)}")
    better = (low is not None and low > 0 for low in advantage.low)
    near_reality = (value is not None and value <= FOLLOWS for value in error.standardised[target][MODEL].step.mean)
    close = [a and b for a, b in zip(better, near_reality, strict=True)]
    if close[0] or not worse:
        yield following(topic, close)
    if (decoding := error.standardised[target].get(RECONSTRUCTION)) is not None:
        lost = decoding.step.mean[0]
        if lost is not None and lost > FOLLOWS / 2:
            severity = "grave" if lost > FOLLOWS else "warning"
            yield Verdict(severity, f"{topic}: decoding true states errs by {lost:.2f} standard deviations")


def _worse_parts(error: HorizonError, target: str, near: int) -> list[str]:
    """Groups of features, or agents, whose error is significantly above persistence's at some step."""
    worse = [
        name.removeprefix(f"{target}: ")
        for name in error.parts(target)
        if any(error.standardised[name][PERSISTENCE].step.mean[:near])  # not for constant features
        and any(high is not None and high < 0 for high in error.advantage[name].high[:near])
    ]
    return worse if len(error.parts(target)) > 1 else []


def _coverage(target: str, found: Calibration, near: int) -> Verdict:
    topic, (level, curve) = target.capitalize(), next(iter(found.coverage.items()))
    nominal = float(level.rstrip("%")) / 100
    covered = {step: value for step in (1, near) if (value := curve.at(step)) is not None}
    step, worst = max(covered.items(), key=lambda pair: abs(pair[1] - nominal))
    numbers = f"{level.replace('%', ' %')} intervals cover {100 * worst:.0f} % {_after(step)}"
    if abs(worst - nominal) <= COVERAGE:
        return Verdict("good", f"{topic}: calibrated, {numbers}")
    if worst > nominal:
        return Verdict("warning", f"{topic}: underconfident, {numbers}")
    return Verdict("grave" if worst < nominal / 2 else "warning", f"{topic}: overconfident, {numbers}")


def _reward(reward: RewardError, near: int) -> Iterator[Verdict]:
    if reward.r2 is None:
        return
    severity: Severity = "grave" if reward.r2 <= REWARD_R2[0] else graded(reward.r2, *REWARD_R2)
    only = "only " if severity == "warning" else ""
    yield Verdict(
        severity,
        f"Reward: predicted no better than by its mean, R² {reward.r2:.2f}"
        if severity == "grave"
        else f"Reward: {only}{100 * reward.r2:.0f} % of its variance is predicted",
    )
    bias, baseline = reward.bias.mean[near - 1], reward.baseline_step.mean[near - 1]
    low, high = reward.bias.low[near - 1], reward.bias.high[near - 1]
    if bias is None or baseline is None or low is None or high is None or low <= 0 <= high:
        return
    if abs(bias) > REWARD_BIAS * baseline:
        mood = "optimistic" if bias > 0 else "pessimistic"
        yield Verdict("warning", f"Reward: {mood}, off by {bias:+.3g} on average {_after(near)}")


def _returns(returns: ReturnRanking, near: int) -> Iterator[Verdict]:
    correlation = returns.correlation.at(near)
    if correlation is not None:
        severity = graded(correlation, *CORRELATION)
        how = {"good": "", "warning": "roughly ", "grave": "hardly "}[severity]
        numbers = f"rank correlation {correlation:.2f} over {near} steps"
        yield Verdict(severity, f"Return: behaviours are {how}ranked as reality ranks them, {numbers}")


def _termination(found: TerminationError) -> Iterator[Verdict]:
    if found.recall is not None:
        hits = f"{found.true_positives} of {found.terminations}"
        severity = graded(found.recall, *RECALL)
        yield Verdict(severity, f"Termination: {'' if severity == 'good' else 'only '}{hits} are predicted")
    if found.precision is not None:
        false = found.predicted - found.true_positives
        severity = graded(found.precision, *RECALL)
        if severity != "good":
            yield Verdict(severity, f"Termination: {false} of {found.predicted} predicted ones do not happen")


def _order(order: OrderSensitivity | None) -> Iterator[Verdict]:
    ratio = None if order is None else order.order_action_ratio[0]
    if ratio is not None:
        text = f"Order: that of the agents matters {100 * ratio:.0f} % as much as their actions"
        yield Verdict("good" if ratio <= ORDER else "warning", text)


def _influence(found: Influence) -> Iterator[Verdict]:
    """Judged by the sizes, not by the ranks: most effects are about 0, and in any order."""
    correlation = None if found.real is None else pearson(torch.tensor(found.imagined), torch.tensor(found.real))
    if correlation is not None:
        severity = graded(correlation, *CORRELATION)
        how = {"good": "known", "warning": "roughly known", "grave": "hardly known"}[severity]
        yield Verdict(severity, f"Influence: which agent moves what is {how}, correlation {correlation:.2f}")


def _after(step: int) -> str:
    return f"after {step} step{'s' * (step > 1)}"


def _steps(steps: Sequence[int]) -> str:
    """``step 3``, ``steps 1, 4 to 9``."""
    runs = [[n for _, n in some] for _, some in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    ranges = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(ranges)
