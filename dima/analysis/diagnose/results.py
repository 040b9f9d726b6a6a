"""Results of a diagnosis: every number, the main ones in lines of text, and verdicts on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dima.analysis.diagnose.bootstrap import Curve
from dima.analysis.diagnose.calibration import THRESHOLD, Calibration, TerminationError
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.diagnose.error import (
    MODEL,
    PERSISTENCE,
    RECONSTRUCTION,
    HorizonError,
    ReturnRanking,
    RewardError,
)
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.reveal import DenoisingError, OrderSensitivity
from dima.analysis.diagnose.verdicts import judge
from dima.analysis.targets import OBSERVATIONS, SINGULAR, STATE, observations_only
from dima.runtime.verdicts import NEAR, Verdict

_SIGNIFICANT_DIGITS = 6


@dataclass(frozen=True)
class SourceSummary:
    """Episodes of one policy, and the segments cut from them."""

    name: str
    trained_on: bool  # the world model was trained on these episodes
    episodes: int
    steps: int
    mean_return: float
    terminations: int
    segments: int
    seeds: list[int]  # of the environment; empty for recorded episodes


@dataclass(frozen=True)
class Diagnosis:
    """The numbers in ``diagnosis.json``."""

    run: Mapping[str, Any]  # task, algorithm, preset, seed, environment steps
    settings: DiagnosisConfig  # with the horizon that was chosen
    config: Mapping[str, Any]  # of the run
    protocol: Mapping[str, Any]  # versions and machine of the diagnosis
    sources: list[SourceSummary]
    error: HorizonError
    calibration: dict[str, Calibration]
    reward: RewardError
    termination: TerminationError
    returns: ReturnRanking
    order: OrderSensitivity | None  # None for a model that processes all agents at once
    denoising: DenoisingError | None  # likewise
    influence: Influence

    @property
    def horizon(self) -> int:
        """Steps of a segment."""
        assert self.settings.horizon is not None
        return self.settings.horizon

    @property
    def verdicts(self) -> list[Verdict]:
        """What the numbers mean, the gravest first."""
        episodes = sum(source.episodes for source in self.sources if not source.trained_on)
        found = (self.error, self.calibration, self.reward, self.returns, self.termination, self.order, self.influence)
        return judge(*found, episodes=episodes)

    @property
    def findings(self) -> list[str]:
        """The main numbers, a sentence each, with its topic before the first colon."""
        parts = (_error, _sources, _calibration, _reward, _returns, _termination, _order, _influence)
        return [sentence for part in parts for sentence in part(self)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; undefined numbers are None."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        judged = {"verdicts": [verdict.to_dict() for verdict in self.verdicts], "findings": self.findings}
        return judged | {name: _plain(part) for name, part in parts.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    return value


def summary_steps(horizon: int) -> list[int]:
    """Steps of the horizon that tables and sentences report."""
    return sorted({step for step in (1, 5, 15, 20, 50, horizon) if step <= horizon})


def _error(diagnosis: Diagnosis) -> Iterator[str]:
    error = diagnosis.error
    if STATE not in error.targets:
        yield observations_only("errors of the state")
    for target in error.targets:
        predictors = error.standardised[target]
        model, baseline = predictors[MODEL].step, predictors[PERSISTENCE].step
        numbers = "; ".join(
            f"{_after(step)} {value:.2f} ({PERSISTENCE} {reference:.2f})"
            for step in summary_steps(diagnosis.horizon)
            if (value := model.at(step)) is not None and (reference := baseline.at(step)) is not None
        )
        floor = predictors[RECONSTRUCTION].step.at(1)
        decoder = (
            f"; {RECONSTRUCTION} of real {SINGULAR[error.main]}s {floor:.2f}"
            if target == OBSERVATIONS and floor is not None
            else ""
        )
        yield f"{target.capitalize()}: mean absolute error in standard deviations {numbers}{decoder}."


def _sources(diagnosis: Diagnosis) -> Iterator[str]:
    step, main = min(NEAR, diagnosis.horizon), diagnosis.error.main
    values = []
    for source in diagnosis.sources:
        curves = diagnosis.error.by_source.get(source.name)
        error = curves[main].at(step) if curves else None
        if error is not None:
            values.append(f"{source.name} {error:.2f}")
    yield f"By policy: {SINGULAR[main]} error {_after(step)} on episodes of: {'; '.join(values)}."


def _calibration(diagnosis: Diagnosis) -> Iterator[str]:
    step = min(NEAR, diagnosis.horizon)
    for target, result in diagnosis.calibration.items():
        covered = ", ".join(
            f"{level} intervals cover {_percent(curve.at(1))} of the true values {_after(1)} and "
            f"{_percent(curve.at(step))} {_after(step)}"
            for level, curve in result.coverage.items()
        )
        ratio = result.spread_skill_ratio(step)
        skill = "" if ratio is None else f"; spread-skill ratio {_after(step)} {ratio:.2f}"
        yield f"Calibration of the {target}: {covered}{skill}."


def _reward(diagnosis: Diagnosis) -> Iterator[str]:
    reward, horizon = diagnosis.reward, diagnosis.horizon
    if reward.r2 is None:
        yield "Reward: the real reward is constant."
        return
    yield (
        f"Reward: R² = {reward.r2:.2f} over all steps; error of the sum over {horizon} steps "
        f"{_number(reward.cumulative.at(horizon))}, of predicting the mean "
        f"{_number(reward.baseline_cumulative.at(horizon))}."
    )


def _returns(diagnosis: Diagnosis) -> Iterator[str]:
    step, returns = min(NEAR, diagnosis.horizon), diagnosis.returns
    within = "; ".join(f"{name} {_number(curve.at(step))}" for name, curve in returns.by_source.items())
    yield (
        f"Return: rank correlation of imagined and real returns over {step} steps "
        f"{_with_interval(returns.correlation, step)}; within one policy's episodes: {within}."
    )


def _termination(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.termination
    if not found.terminations:
        predicted = f"the model predicted {found.predicted}" if found.predicted else "the model predicted none"
        yield f"Termination: none in {found.steps:,} real steps; {predicted}."
        return
    yield (
        f"Termination: {found.terminations} in {found.steps:,} real steps, {found.predicted} predicted "
        f"(p ≥ {THRESHOLD}); precision {_number(found.precision)}, recall {_number(found.recall)}."
    )


def _order(diagnosis: Diagnosis) -> Iterator[str]:
    order, step = diagnosis.order, min(NEAR, diagnosis.horizon)
    if order is None:
        yield "Order: this world model processes all agents at once."
        return
    yield (
        f"Order: the standard deviation over {len(order.orders)} orders of the agents is "
        f"{_percent(order.order_noise_ratio[0])} of that over noise and {_percent(order.order_action_ratio[0])} of "
        f"that over other actions {_after(1)}; {_percent(order.order_noise_ratio[step - 1])} and "
        f"{_percent(order.order_action_ratio[step - 1])} {_after(step)}."
    )


def _influence(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.influence
    if found.real is None:
        yield "Influence: unknown, because the environment is not reproducible from its seed."
    elif found.agreement is not None:
        yield (
            f"Influence: the effect of each agent's action on each {SINGULAR[diagnosis.error.main]} feature has a rank "
            f"correlation of {found.agreement:.2f} with the effect in the environment."
        )


def _after(step: int) -> str:
    return f"after {step} step{'s' * (step > 1)}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _with_interval(curve: Curve, step: int) -> str:
    low, high = curve.low[step - 1], curve.high[step - 1]
    return f"{_number(curve.at(step))} ({_number(low)} to {_number(high)})"
