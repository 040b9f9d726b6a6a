"""The main results of a diagnosis in words, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dima.analysis.diagnose.bootstrap import Curve
from dima.analysis.diagnose.error import MODEL, OBSERVATIONS, RECONSTRUCTION, STATE, UNCHANGED, HorizonError
from dima.analysis.diagnose.results import Diagnosis

_SOON = 15  # steps within which a world model must be better than expecting that nothing changes


def findings(diagnosis: Diagnosis) -> list[str]:
    """One sentence for each question, its topic before the first colon."""
    parts = (_error, _sources, _calibration, _reward, _value, _termination, _order, _influence)
    return [sentence for part in parts for sentence in part(diagnosis)]


def moments(horizon: int) -> list[int]:
    """The steps that tables and sentences single out."""
    return sorted({step for step in (1, 5, 15, 20, 50, horizon) if step <= horizon})


def _error(diagnosis: Diagnosis) -> Iterator[str]:
    error, soon = diagnosis.error, min(_SOON, diagnosis.horizon)
    for what in (STATE, OBSERVATIONS):
        low = error.advantage[what].low[:soon]
        worse = [step for step, value in enumerate(low, 1) if value is None or value <= 0]
        verdict = (
            f"better than “{UNCHANGED}” at every step up to {soon}"
            if not worse
            else f"not clearly better than “{UNCHANGED}” at any step up to {soon}"
            if len(worse) == soon
            else f"not clearly better than “{UNCHANGED}” at {_steps(worse)} of the first {soon}"
        )
        far = [step for step, high in enumerate(error.advantage[what].high, 1) if step > soon and (high or 0) < 0]
        verdict += f", clearly worse at {_steps(far)}" if far else ""
        growth = error.standardised[what]
        curves = [growth[who].step for who in (MODEL, UNCHANGED, RECONSTRUCTION)]
        numbers = "; ".join(
            f"{step} ahead {told:.2f} (nothing changes {still:.2f})"
            for step in moments(diagnosis.horizon)
            if (told := curves[0].at(step)) is not None and (still := curves[1].at(step)) is not None
        )
        floor = curves[2].at(1)
        seen = f"; looking at the real state instead: {floor:.2f}" if what == OBSERVATIONS and floor is not None else ""
        yield (
            f"{what.capitalize()}: {verdict}{_worse_parts(error, what, soon)}. Mean absolute error in standard "
            f"deviations, by steps: {numbers}{seen}."
        )


def _worse_parts(error: HorizonError, what: str, soon: int) -> str:
    """The groups of features, or the agents, that some step is foretold clearly worse than by expecting no change."""
    worse = [
        name.removeprefix(f"{what}: ")
        for name in error.parts(what)
        if any(error.standardised[name][UNCHANGED].step.mean[:soon])  # what never varies is no reproach
        and any(high is not None and high < 0 for high in error.advantage[name].high[:soon])
    ]
    return f"; worse at some for {', '.join(worse)}" if worse and len(error.parts(what)) > 1 else ""


def _sources(diagnosis: Diagnosis) -> Iterator[str]:
    step = min(_SOON, diagnosis.horizon)
    told = []
    for source in diagnosis.sources:
        curves = diagnosis.error.by_source.get(source.name)
        error = curves[STATE].at(step) if curves else None
        if error is not None:
            told.append(f"{source.name} {error:.2f}")
    yield f"By policy: state error {_ahead(step)}, by whose episodes are foretold: {'; '.join(told)}."


def _calibration(diagnosis: Diagnosis) -> Iterator[str]:
    step = min(_SOON, diagnosis.horizon)
    for what, result in diagnosis.calibration.items():
        covered = ", ".join(
            f"{level} intervals hold {_percent(curve.at(1))} of the truths {_ahead(1)} and "
            f"{_percent(curve.at(step))} {_ahead(step)}"
            for level, curve in result.coverage.items()
        )
        spread, error = result.spread.at(step), result.error.at(step)
        ratio = f"; spread by error {_ahead(step)}: {spread / error:.2f}" if spread is not None and error else ""
        yield f"Calibration of the {what}: {covered}{ratio} (1 is right, less is overconfident)."


def _reward(diagnosis: Diagnosis) -> Iterator[str]:
    reward = diagnosis.reward
    if reward.explained is None:
        yield "Reward: the real reward never varied."
        return
    horizon = diagnosis.horizon
    share = f"{reward.explained:.0%} of a step's variance is foretold over the whole horizon"
    yield (
        f"Reward: {share if reward.explained > 0 else 'foretold worse than by always expecting the mean'}; error of "
        f"the sum over {horizon} steps {_number(reward.cumulative.at(horizon))}, of a constant "
        f"{_number(reward.constant_cumulative.at(horizon))}."
    )


def _value(diagnosis: Diagnosis) -> Iterator[str]:
    step, value = min(_SOON, diagnosis.horizon), diagnosis.value
    apart = "; ".join(f"{name} {_number(curve.at(step))}" for name, curve in value.by_source.items())
    yield (
        f"Value: rank correlation of imagined and real returns over {step} steps "
        f"{_with_interval(value.correlation, step)}; within one policy's episodes: {apart}."
    )


def _termination(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.termination
    if not found.ends:
        false = (
            f", and the model foretold {found.foretold} ends" if found.foretold else ", nor did the model foretell one"
        )
        yield f"Termination: the task never ended in the {found.steps:,} steps looked at{false}."
        return
    yield (
        f"Termination: {found.ends} ends in {found.steps:,} steps, {found.foretold} foretold; precision "
        f"{_number(found.precision)}, recall {_number(found.recall)}."
    )


def _order(diagnosis: Diagnosis) -> Iterator[str]:
    order, step = diagnosis.order, min(_SOON, diagnosis.horizon)
    if order is None:
        yield "Order: this world model takes all agents in at once."
        return
    yield (
        f"Order: {len(order.orders)} orders of the agents spread {_percent(order.share_of_noise[0])} as far as noise "
        f"and {_percent(order.share_of_action[0])} as far as other actions {_ahead(1)}; "
        f"{_percent(order.share_of_noise[step - 1])} and {_percent(order.share_of_action[step - 1])} {_ahead(step)}."
    )


def _influence(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.influence
    if found.real is None:
        yield "Influence: the environment does not repeat itself from its seed, so whose action moves what is unknown."
    elif found.agreement is not None:
        yield (
            "Influence: whose action moves which feature of the next state agrees with the environment by a rank "
            f"correlation of {found.agreement:.2f}."
        )


def _ahead(step: int) -> str:
    return f"{step} step{'s' * (step > 1)} ahead"


def _steps(steps: Sequence[int]) -> str:
    """``step 3``, ``steps 1, 4 to 9``."""
    runs = [[n for _, n in some] for _, some in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    told = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(told)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _with_interval(curve: Curve, step: int) -> str:
    low, high = curve.low[step - 1], curve.high[step - 1]
    return f"{_number(curve.at(step))} ({_number(low)} to {_number(high)})"
