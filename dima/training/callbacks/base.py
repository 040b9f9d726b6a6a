"""What a callback is, and what it sees of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dima.experience.team import Team
from dima.policies.base import Policy
from dima.training.run_config import RunConfig


@dataclass(frozen=True)
class Status:
    """A run after one of its iterations.

    Attributes:
        steps: environment steps so far; iterations, in a run of `dima fit`.
        target: steps of the whole run.
        iteration: number of the iteration, from 1.
        metrics: of the iteration and its evaluation, by their names in ``metrics.jsonl``.
        score: what the last evaluation measured: the mean team return, or the held-out error of a run of `dima fit`;
            None before the first.
        lower_is_better: of the score.
        returns: team return of each episode of this iteration's evaluation; empty without one.
        folder: of the run.
        config: of the run.
        policy: the live policy, on the run's device: to be read, not changed.
    """

    steps: int
    target: int
    iteration: int
    metrics: Mapping[str, float]
    score: float | None
    lower_is_better: bool
    returns: tuple[float, ...]
    folder: Path
    config: RunConfig = field(repr=False)
    policy: Policy = field(repr=False)
    _make_team: Callable[[], Team] = field(repr=False)
    _stop: Callable[[str], None] = field(repr=False)

    @property
    def agent(self) -> Team:
        """The live policy in the task's own spaces, ``status.agent.act(observations)``, at an episode's start."""
        return self._make_team()

    def stop(self, reason: str = "") -> None:
        """Stop the run after this iteration; it counts as finished, and its summary says why."""
        self._stop(reason)

    def better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        """Whether a score is better than another by more than ``by``; any is better than None."""
        if than is None:
            return True
        return than - score > by if self.lower_is_better else score - than > by


class Callback:
    """Base of callbacks; what has the same methods will do."""

    def on_evaluation(self, status: Status) -> None:
        """Called after every evaluation."""

    def on_iteration(self, status: Status) -> None:
        """Called after every iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs: numbers, text, lists, dictionaries, tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` told."""
