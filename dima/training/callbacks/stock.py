"""Callbacks that come along: stop a run early, keep its best policy."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dima.config import shown
from dima.errors import ConfigError
from dima.training.callbacks.base import Callback, Status

BEST = "best_policy"  # entry of a callback's state that holds weights for `dima.load(run, best=True)`


class StopAtReturn(Callback):
    """Stop when the mean team return of an evaluation reaches a value.

    Args:
        value: to be reached.
        evaluations: number of evaluations in a row that must reach it.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, value: float, evaluations: int = 1) -> None:
        self.value, self.evaluations = _finite("value", value), _count("evaluations", evaluations)
        self.reached = 0

    def on_evaluation(self, status: Status) -> None:
        if not status.returns or status.score is None:
            raise ConfigError("a run of `dima fit` has no returns: use StopOnPlateau")
        self.reached = self.reached + 1 if status.score >= self.value else 0
        if self.reached >= self.evaluations:
            status.stop(f"team return {status.score:,.1f} reached {self.value:,.1f}")

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reached = int(state["reached"])


class StopOnPlateau(Callback):
    """Stop when evaluations have not improved for a while.

    Args:
        patience: evaluations without improvement after which the run stops.
        min_gain: the least gain over the best score so far that counts as improvement.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, patience: int = 10, min_gain: float = 0.0) -> None:
        self.patience, self.min_gain = _count("patience", patience), _finite("min_gain", min_gain)
        self.best: float | None = None
        self.waited = 0  # evaluations since the best one

    def on_evaluation(self, status: Status) -> None:
        assert status.score is not None
        if status.better(status.score, self.best, by=self.min_gain):
            self.best, self.waited = status.score, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            status.stop(f"no better than {self.best:,.6g} for {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], int(state["waited"])


class KeepBest(Callback):
    """Keep the policy of the best evaluation in the run's checkpoint, for ``dima.load(run, best=True)``.

    Attributes:
        score: mean team return of that evaluation; None before the first.
        steps: environment steps at that time.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.steps = 0
        self._weights: dict[str, Tensor] = {}

    def on_evaluation(self, status: Status) -> None:
        if not status.returns or status.score is None:
            raise ConfigError("a run of `dima fit` trains no policy that could be kept")
        if status.better(status.score, self.score):
            self.score, self.steps = status.score, status.steps
            self._weights = {name: value.detach().cpu().clone() for name, value in status.policy.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "steps": self.steps, BEST: self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score, self.steps, self._weights = state["score"], int(state["steps"]), dict(state[BEST])


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} = {shown(value)} does not fit: expected a whole number, at least 1")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} = {shown(value)} does not fit: expected a finite number")
    return float(value)
