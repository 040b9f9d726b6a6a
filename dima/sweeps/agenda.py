"""What a sweep does next, and what became of everything: the one place that both ways of carrying it out talk to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dima.runtime.signals import Stop
from dima.sweeps.plan import Plan, PlannedRun
from dima.sweeps.process import LOGS, Event, Job
from dima.sweeps.progress import SweepProgress
from dima.sweeps.results import RunOutcome
from dima.sweeps.search import Search


@dataclass(frozen=True)
class Unit:
    """Runs that are carried out one after another in one place.

    Attributes:
        key: unique in a sweep.
        jobs: its runs.
        search: the search that it is a trial of, if any.
        trial: number of the trial.
    """

    key: str
    jobs: Sequence[Job]
    search: Search | None = None
    trial: int = 0


class Agenda:
    """Hands out units and takes in events.

    Args:
        plan: of the sweep.
        searches: of its points, if it has a search.
        progress: display.
        stop: whether the user wants to stop.
    """

    def __init__(self, plan: Plan, searches: Sequence[Search], progress: SweepProgress, stop: Stop) -> None:
        self._plan, self._searches, self._progress, self._stop = plan, searches, progress, stop
        self._home = os.getcwd()
        self._units = self._hand_out()
        self._handed_out: dict[str, Unit] = {}
        self._at_work: set[str] = set()  # names of runs
        self.outcomes: dict[str, RunOutcome] = {
            run.name: RunOutcome(run.name, run.config.folder, "finished", earlier=True)
            for run in plan.runs
            if run.state == "finished"
        }
        for run, status in (one for search in searches for one in search.ended()):
            self.outcomes[run.name] = RunOutcome(run.name, run.config.folder, status, earlier=True)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to begin."""
        return self._stop.requested

    @property
    def busy(self) -> bool:
        """Whether a run is at work."""
        return bool(self._at_work)

    def next(self) -> Unit | None:
        """The next unit, or None: there is none left, or the user wants to stop."""
        if self.stopping or (unit := next(self._units, None)) is None:
            return None
        self._handed_out[unit.key] = unit
        return unit

    def take(self, key: str, event: Event) -> bool:
        """Take in an event of a unit, see :meth:`dima.sweeps.unit.UnitWork.poll`.

        Returns:
            Whether the unit is to be stopped: its trial is poorer than others.
        """
        unit, (kind, name, *rest) = self._handed_out[key], event
        if kind == "outcome":
            self._end(unit, name, *rest)
            return False
        if kind == "begin":
            self._at_work.add(name)
            self._progress.begin(name)
        elif kind == "retry":
            why, left = rest
            self._progress.warn(name, f"{why}; it goes on from its last checkpoint (retries left: {left})")
        elif kind == "show":
            self._progress.show(name, *rest)
            done, _, numbers, _ = rest
            if unit.search is not None and "evaluated_return" in numbers:
                return unit.search.evaluated(unit.trial, name, done, numbers["evaluated_return"])
        elif kind == "warn":
            self._progress.warn(name, *rest)
        return False

    def recover(self, key: str, why: str) -> None:
        """Take in that a unit is started again, since its worker died."""
        self._progress.warn(key, f"{why}; it is started again and goes on from its last checkpoint")

    def lose(self, key: str, why: str) -> None:
        """Take in that a unit is lost for good, such as with its machine."""
        for job in self._handed_out[key].jobs:
            if self._unfinished(job.name):
                self._end(self._handed_out[key], job.name, "failed", why)
                return

    def _unfinished(self, name: str) -> bool:
        return name not in self.outcomes or self.outcomes[name].status not in ("finished", "pruned")

    def _end(self, unit: Unit, name: str, status: str, error: str) -> None:
        pruned = unit.search is not None and unit.search.is_pruned(unit.trial)
        if pruned and status in ("interrupted", "finished"):
            status = "pruned"
        folder = self._plan.sweep.out / name
        self._at_work.discard(name)
        self.outcomes[name] = RunOutcome(name, folder, status, error)  # type: ignore[arg-type]
        if unit.search is not None:
            if status == "finished" and name == unit.jobs[-1].name:
                unit.search.finish(unit.trial, "complete")
            elif status in ("failed", "invalid"):  # one that was interrupted is gone on with the next time
                unit.search.finish(unit.trial, "failed")
        self._progress.end(self.outcomes[name])

    def _hand_out(self) -> Iterator[Unit]:
        for run in self._plan.runs:
            if run.state != "finished":
                yield Unit(run.name, [self._job(run)])
        waiting = list(self._searches)
        while waiting:  # a trial of each in turn
            for search in list(waiting):
                if (found := search.next()) is None:
                    waiting.remove(search)
                    continue
                number, runs = found
                yield Unit(f"{search.point.name}-trial{number}", [self._job(run) for run in runs], search, number)

    def _job(self, run: PlannedRun) -> Job:
        log = Path(self._home, self._plan.sweep.out, LOGS, f"{run.name}.txt")
        return Job(run.name, run.config.to_dict(), self._home, str(log), self._plan.allow)
