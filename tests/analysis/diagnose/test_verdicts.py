"""Verdicts of a diagnosis, on either side of every threshold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dima.analysis.diagnose.bootstrap import Curve
from dima.analysis.diagnose.calibration import Calibration, TerminationError
from dima.analysis.diagnose.error import (
    MODEL,
    PERSISTENCE,
    RECONSTRUCTION,
    ErrorCurves,
    HorizonError,
    ReturnRanking,
    RewardError,
)
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.reveal import OrderSensitivity
from dima.analysis.diagnose.verdicts import judge
from dima.analysis.targets import OBSERVATIONS, STATE
from dima.runtime.verdicts import LAST_STATE, Verdict

STEPS = 20
LIMITS = f"within 0.5 standard deviations and closer than {LAST_STATE}"


def flat(value: float | None, width: float = 0.0) -> Curve:
    ends = [None if value is None else value + side for side in (-width, width)]
    return Curve([value] * STEPS, [ends[0]] * STEPS, [ends[1]] * STEPS)


def errors(model: Curve, advantage: Curve, **parts: Curve) -> HorizonError:
    """Of the state; the observations are perfect. ``parts`` are the advantages of kinds of features."""
    advantages = {STATE: advantage, OBSERVATIONS: flat(1.0)} | {f"{STATE}: {name}": c for name, c in parts.items()}
    table = {
        name: {
            MODEL: ErrorCurves(model if name == STATE else flat(0.0), model),
            PERSISTENCE: ErrorCurves(flat(1.0), model),
        }
        for name in advantages
    }
    return HorizonError(table, table, advantages, {}, [8] * STEPS)


GOOD = {
    "error": errors(flat(0.1), flat(0.5, 0.1)),
    "calibration": {STATE: Calibration(32, [], [], {"50%": flat(0.52)}, flat(1.0), flat(1.0), None)},
    "reward": RewardError(flat(0.1), flat(0.1), flat(1.0), flat(1.0), flat(0.0, 0.1), 0.99, 0.95, [], []),
    "returns": ReturnRanking(flat(0.9), {}, [], [], []),
    "termination": TerminationError(1000, 10, 10, 9, 0.9, 0.9, 0.01, []),
    "order": OrderSensitivity(orders=[], variants=2, order=flat(0.1), noise=flat(0.1), action=flat(1.0),
                              order_noise_ratio=[1.0] * STEPS, order_action_ratio=[0.1] * STEPS),
    "influence": Influence(agents=["a", "b"], features=["x", "y"], kinds=["x", "y"], time_steps=4,
                           imagined=[[1.0, 0.0], [0.0, 1.0]], real=[[0.9, 0.0], [0.1, 1.0]], agreement=0.2),
    "episodes": 24,
}  # fmt: skip


def judged(**changes: object) -> list[Verdict]:
    """Verdicts that differ from those of a good model."""
    good = judge(**GOOD)
    return [verdict for verdict in judge(**(GOOD | changes)) if verdict not in good]


def test_a_good_model_is_praised() -> None:
    assert [str(verdict) for verdict in judge(**GOOD)] == [
        f"✓ State: follows reality for all 20 steps, {LIMITS}",
        f"✓ Observations: follows reality for all 20 steps, {LIMITS}",
        "✓ State: calibrated, 50 % intervals cover 52 % after 1 step",
        "✓ Reward: 95 % of its variance is predicted",
        "✓ Return: behaviours are ranked as reality ranks them, rank correlation 0.90 over 15 steps",
        "✓ Termination: 9 of 10 are predicted",
        "✓ Order: that of the agents matters 10 % as much as their actions",
        "✓ Influence: which agent moves what is known, correlation 0.99",
    ]


@pytest.mark.parametrize(
    ("good", "severity", "sentence"),
    [
        (16, "good", f"State: follows reality for 16 of 20 steps, {LIMITS}"),
        (3, "warning", f"State: follows reality for 3 of 20 steps, {LIMITS}"),
        (0, "grave", f"State: does not follow reality for a step {LIMITS}"),
    ],
)
def test_how_long_a_forecast_follows_reality(good: int, severity: str, sentence: str) -> None:
    model = replace(flat(0.1), mean=[0.1] * good + [0.6] * (STEPS - good))
    assert judged(error=errors(model, flat(0.5, 0.1))) == [Verdict(severity, sentence)]
    level = replace(flat(0.5), low=[0.1] * good + [-0.1] * (STEPS - good))  # no longer significantly better
    assert judged(error=errors(flat(0.1), level)) == [Verdict(severity, sentence)]


def test_worse_than_the_last_state_is_grave_in_the_near_future() -> None:
    late = replace(flat(0.5, 0.1), low=[0.4] * 15 + [-0.6] * 5, high=[0.6] * 15 + [-0.4] * 5)
    assert judged(error=errors(flat(0.1), late)) == [
        Verdict("warning", f"State: worse than {LAST_STATE} at steps 16 to 20"),
        Verdict("good", f"State: follows reality for 15 of 20 steps, {LIMITS}"),
    ]
    at = (1, 3, 4, 5)
    patchy = Curve([0.5] * STEPS, [0.4] * STEPS, [-0.1 if step in at else 0.6 for step in range(1, STEPS + 1)])
    patchy = replace(patchy, low=[-0.2 if step in at else 0.4 for step in range(1, STEPS + 1)])
    assert judged(error=errors(flat(0.1), patchy)) == [
        Verdict("grave", f"State: worse than {LAST_STATE} at steps 1, 3 to 5")
    ]


def test_a_decoder_that_loses_what_states_hold() -> None:
    found = errors(flat(0.1), flat(0.5, 0.1))
    for lost, verdicts in (
        (0.2, []),
        (0.4, [Verdict("warning", "Observations: decoding true states errs by 0.40 standard deviations")]),
        (0.8, [Verdict("grave", "Observations: decoding true states errs by 0.80 standard deviations")]),
    ):
        table = found.standardised | {
            OBSERVATIONS: found.standardised[OBSERVATIONS] | {RECONSTRUCTION: ErrorCurves(flat(lost), flat(lost))}
        }
        assert judged(error=replace(found, standardised=table)) == verdicts


def test_worse_kinds_of_features_are_named() -> None:
    found = judged(error=errors(flat(0.1), flat(0.5, 0.1), hips=flat(0.5, 0.1), knees=flat(-0.5, 0.1)))
    assert found == [Verdict("warning", f"State: worse than {LAST_STATE} at some steps for knees")]


@pytest.mark.parametrize(
    ("covered", "severity", "sentence"),
    [
        (0.06, "grave", "State: overconfident, 50 % intervals cover 6 % after 1 step"),
        (0.30, "warning", "State: overconfident, 50 % intervals cover 30 % after 1 step"),
        (0.41, "good", "State: calibrated, 50 % intervals cover 41 % after 1 step"),
        (0.70, "warning", "State: underconfident, 50 % intervals cover 70 % after 1 step"),
    ],
)
def test_calibration(covered: float, severity: str, sentence: str) -> None:
    changed = replace(GOOD["calibration"][STATE], coverage={"50%": flat(covered), "90%": flat(0.9)})
    assert judged(calibration={STATE: changed}) == [Verdict(severity, sentence)]


def test_calibration_is_judged_where_it_is_worst() -> None:
    falling = replace(flat(0.5), mean=[0.5] * 14 + [0.1] * 6)
    changed = replace(GOOD["calibration"][STATE], coverage={"50%": falling})
    (verdict,) = judged(calibration={STATE: changed})
    assert verdict == Verdict("grave", "State: overconfident, 50 % intervals cover 10 % after 15 steps")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"r2": -0.1}, Verdict("grave", "Reward: predicted no better than by its mean, R² -0.10")),
        ({"r2": 0.4}, Verdict("warning", "Reward: only 40 % of its variance is predicted")),
        ({"bias": flat(0.2, 0.1)}, Verdict("warning", "Reward: optimistic, off by +0.2 on average after 15 steps")),
        ({"bias": flat(-0.2, 0.1)}, Verdict("warning", "Reward: pessimistic, off by -0.2 on average after 15 steps")),
        ({"bias": flat(0.2, 0.3)}, None),  # not significant
        ({"bias": flat(0.05, 0.01)}, None),  # small
    ],
)
def test_reward(changes: dict, verdict: Verdict | None) -> None:
    assert judged(reward=replace(GOOD["reward"], **changes)) == ([] if verdict is None else [verdict])


@pytest.mark.parametrize(("value", "severity"), [(0.1, "grave"), (0.5, "warning")])
def test_ranking_and_influence(value: float, severity: str) -> None:
    (verdict,) = judged(returns=replace(GOOD["returns"], correlation=flat(value)))
    assert verdict.severity == severity and f"{value:.2f} over 15 steps" in verdict.sentence
    mixed = [[value, (1 - value**2) ** 0.5], [-value, -((1 - value**2) ** 0.5)]]
    (verdict,) = judged(influence=replace(GOOD["influence"], imagined=mixed, real=[[1.0, 0.0], [-1.0, 0.0]]))
    assert verdict.severity == severity and f"correlation {value:.2f}" in verdict.sentence


def test_terminations() -> None:
    missed = TerminationError(1000, 58, 2, 2, 1.0, 2 / 58, 0.1, [])
    assert judged(termination=missed) == [Verdict("grave", "Termination: only 2 of 58 are predicted")]
    invented = TerminationError(1000, 0, 4, 0, 0.0, None, 0.1, [])
    assert judged(termination=invented) == [Verdict("grave", "Termination: 4 of 4 predicted ones do not happen")]


def test_what_is_unknown_is_not_judged() -> None:
    unknown = {
        "calibration": {},
        "reward": replace(GOOD["reward"], r2=None),
        "returns": replace(GOOD["returns"], correlation=flat(None)),
        "termination": TerminationError(1000, 0, 0, 0, None, None, 0.0, []),
        "order": None,
        "influence": replace(GOOD["influence"], real=None, agreement=None),
    }
    assert len(judge(**(GOOD | unknown))) == 2
    assert judged(**unknown) == []


def test_order_and_few_episodes() -> None:
    order = replace(GOOD["order"], order_action_ratio=[0.8] * STEPS)
    assert judged(order=order) == [
        Verdict("warning", "Order: that of the agents matters 80 % as much as their actions")
    ]
    (verdict,) = judged(episodes=9)
    assert verdict == Verdict("warning", "Intervals: too narrow, for 9 episodes are few: raise --episodes")
