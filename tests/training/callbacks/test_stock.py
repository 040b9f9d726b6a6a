"""The callbacks that come along: when they stop, what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import dima
from dima.errors import ConfigError
from dima.training.callbacks import Calls
from dima.training.online import resume, train
from tests.reliability.test_resume import Interrupted, Power, pull_plug

pytestmark = pytest.mark.usefixtures("one_thread")


def stopped_at(callback: Any, scores: Sequence[float], lower_is_better: bool = False) -> tuple[int | None, str]:
    """After how many evaluations with these scores a callback stops, and why; its state is restored in between."""
    state: dict[str, Any] = {}
    for number, score in enumerate(scores, 1):
        if state:
            callback.load_state_dict(state)
        calls = Calls([callback])
        policy = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(policy.weight, score)

        def status(stop: Any, score: float = score, number: int = number, policy: Any = policy) -> dima.Status:
            returns = () if lower_is_better else (score - 1, score + 1)
            live: Any = {"config": None, "policy": policy, "_make_team": None, "folder": Path()}
            return dima.Status(number, 99, number, {}, score, lower_is_better, returns, _stop=stop, **live)

        calls.report({"metrics": {}, "returns": [], "evaluated": True}, status)
        if calls.stopped:
            return number, calls.stopped
        state = calls.checkpoint()["callbacks"]["states"][0][1]
    return None, ""


@pytest.mark.parametrize(
    ("arguments", "scores", "at"),
    [
        ((10,), [3, 9.9, 10, 12], 3),
        ((10,), [3, 9.9], None),
        ((-5,), [-7, -4], 2),
        ((10, 2), [11, 9, 11, 12], 4),
    ],
)
def test_it_stops_at_a_return(arguments: Any, scores: list[float], at: int | None) -> None:
    when, why = stopped_at(dima.StopAtReturn(*arguments), scores)
    assert when == at
    assert why == (f"StopAtReturn: team return {scores[at - 1]:,.1f} reached {arguments[0]:,.1f}" if at else "")


@pytest.mark.parametrize(
    ("arguments", "scores", "lower_is_better", "at"),
    [
        ((2,), [1, 2, 1, 2], False, 4),  # as good as the best is no gain
        ((2,), [1, 2, 1, 3, 2, 1], False, 6),
        ((2, 0.5), [1, 1.4, 1.8, 2.2, 2.3], False, 5),  # small gains add up, as they are measured from the best
        ((2,), [5, 4, 3, 3.5, 3.2], True, 5),
        ((3,), [1, 1, 1], False, None),
    ],
)
def test_it_stops_on_a_plateau(arguments: Any, scores: list[float], lower_is_better: bool, at: int | None) -> None:
    when, why = stopped_at(dima.StopOnPlateau(*arguments), scores, lower_is_better)
    assert when == at
    assert why.startswith("StopOnPlateau: no better than " if at else "")


def test_the_best_is_kept() -> None:
    callback = dima.KeepBest()
    stopped_at(callback, [1.0, 3.0, 2.0])
    assert (callback.score, callback.steps) == (3.0, 2)
    assert callback.state_dict()["best_policy"]["weight"].item() == 3.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dima.StopAtReturn(float("nan")), "value = nan does not fit: expected a finite number"),
        (lambda: dima.StopAtReturn("high"), "value = 'high' does not fit"),  # type: ignore[arg-type]
        (lambda: dima.StopAtReturn(1, 0), "evaluations = 0 does not fit: expected a whole number, at least 1"),
        (lambda: dima.StopOnPlateau(2.5), "patience = 2.5 does not fit"),  # type: ignore[arg-type]
        (lambda: dima.StopOnPlateau(2, float("inf")), "min_gain = inf does not fit"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("algorithm", ["mappo", "mamba"])
def test_the_best_policy_acts_after_a_crash(tiny, algorithm: str) -> None:
    """Its return is that of its evaluation, though the run went on, crashed and was resumed."""
    config = tiny(algorithm=algorithm, steps=240, evaluate_every=40, evaluation_episodes=3)
    with pytest.raises(Power):
        train(config, callbacks=[dima.KeepBest()], progress=Interrupted("save", 3, pull_plug))
    best = dima.KeepBest()
    summary = resume(config.folder, callbacks=[best])
    assert (best.steps, best.score) == max(summary.evaluations, key=lambda pair: pair[1])
    agent = dima.load(config.folder, device="cpu", best=True)
    assert agent.steps == best.steps
    kept = agent.algorithm.policy.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in best.state_dict()["best_policy"].items())
    assert agent.evaluate(episodes=3, seed=config.seed).mean == pytest.approx(best.score)
    last = dima.load(config.folder, device="cpu")
    assert last.evaluate(episodes=3, seed=config.seed).mean == pytest.approx(summary.evaluations[-1][1])
