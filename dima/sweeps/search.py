"""A search of settings with Optuna, continued from a file after any interruption.

Its file, ``<point>-search.json``, holds the ranges and every trial, and is replaced whenever one begins, is evaluated
or ends: a search that is killed knows which trials were at work, and goes on with them. What a trial draws depends on
the search's seed, the trial's number and what was known when it began, so that a search whose trials follow one
another equals another that was interrupted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dima.errors import ConfigError
from dima.storage.run_folder import RunFolder
from dima.sweeps.plan import PlannedRun, Point
from dima.sweeps.spec import SearchSpec
from dima.sweeps.trials import read_trials, write_trials

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

TrialEnd = Literal["complete", "pruned", "failed"]
_GRACE_SHARE = 0.1  # of a run, before which no trial is stopped
_INSTALL = "a search needs the package optuna: pip install 'dima-marl[ray]'"


@dataclass(frozen=True)
class Best:
    """The best trial of a search.

    Attributes:
        number: of the trial.
        value: the objective, a team return.
        settings: what was drawn, by dotted field.
        runs: names of its run folders.
    """

    number: int
    value: float
    settings: Mapping[str, Any]
    runs: Sequence[str]


class Search:
    """The trials of one point.

    Args:
        point: whose settings are searched.

    Raises:
        ConfigError: Optuna is not installed, or the file is of a search with other ranges.
        RunFolderError: the file is damaged.
    """

    def __init__(self, point: Point) -> None:
        assert point.sweep.search is not None
        self.point, self.spec, self.space = point, point.sweep.search, point.sweep.space
        self.path = point.sweep.out / f"{point.name}-search.json"
        self._distributions = {name: drawn.distribution() for name, drawn in self.space.items()}
        self._trials: dict[int, Trial] = {}  # at work, or to be gone on with
        known = read_trials(self.path, point.sweep)
        self.numbers = range(len(known))  # of the trials that an earlier call began
        config = point.runs(point.sweep.any_values, 0)[0].config
        self._steps, self._every = config.steps, config.evaluate_every
        self._study = _new_study(self.spec, config.steps)
        for number, facts in enumerate(known):
            self._restore(number, facts)
        self._waiting = list(self._trials)

    def next(self) -> tuple[int, list[PlannedRun]] | None:
        """Number and runs of the next trial, one that was interrupted first; None if there is none left."""
        if self._waiting:
            number = self._waiting.pop(0)
        elif (number := len(self._study.trials)) < self.spec.trials:
            self._study.sampler = _sampler(self.spec, number)
            self._trials[number] = self._study.ask(self._distributions)
            self._write()
        else:
            return None
        return number, self.runs(number)

    def runs(self, number: int) -> list[PlannedRun]:
        """The runs of a trial, one for each seed."""
        return self.point.runs(self.settings(number), number)

    def settings(self, number: int) -> dict[str, Any]:
        """What a trial drew, by dotted field."""
        drawn = self._study.trials[number].params
        return {name: self.space[name].value(value) for name, value in drawn.items()}

    def evaluated(self, number: int, run: str, step: int, value: float) -> bool:
        """Take in an evaluation.

        Args:
            number: of the trial.
            run: name of the run.
            step: environment steps of the run.
            value: the team return.

        Returns:
            Whether the trial is to be stopped.
        """
        if self.spec.prune == "none" or step >= self._steps:
            return False
        if (trial := self._trials.get(number)) is None:  # pruned: the run is about to end
            return True
        runs = self.runs(number)
        before = [one.name for one in runs].index(run)
        # as multiples of the steps between evaluations, since episodes of different trials end at different steps
        at = before * self._steps + step // self._every * self._every
        if at not in self._study.trials[number].intermediate_values:  # it is, where an iteration is repeated
            finished = [self.objective(one) for one in runs[:before]]
            trial.report(statistics.fmean([*finished, value]), at)
        stop: bool = trial.should_prune()
        if stop:
            self.finish(number, "pruned")
        self._write()
        return stop

    def finish(self, number: int, state: TrialEnd) -> None:
        """Record how a trial ended; a complete one has evaluations in its run folders."""
        from optuna.trial import TrialState

        trial = self._trials.get(number)
        if trial is None:  # pruned before
            return
        if state == "complete":
            self._study.tell(trial, statistics.fmean(self.objective(run) for run in self.runs(number)))
        else:
            self._study.tell(trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        del self._trials[number]
        self._write()

    def ended(self) -> Iterator[tuple[PlannedRun, Literal["finished", "pruned"]]]:
        """Runs of trials that are complete or were stopped early, with how they ended."""
        words: dict[str, Literal["finished", "pruned"]] = {"COMPLETE": "finished", "PRUNED": "pruned"}
        for trial in (one for one in self._study.trials if one.state.name in words):
            runs = (run for run in self.runs(trial.number) if run.config.folder.is_dir())
            yield from ((run, words[trial.state.name]) for run in runs)

    def is_pruned(self, number: int) -> bool:
        """Whether a trial was stopped early."""
        return self._study.trials[number].state.name == "PRUNED"

    def objective(self, run: PlannedRun) -> float:
        """The measure of a finished run, from its metrics."""
        records = RunFolder.open(run.config.folder).records()
        returns = [one["evaluate/return"] for one in records if one.get("evaluate/return") is not None]
        if not returns:
            raise ConfigError(f"{run.config.folder} has no evaluation to judge its settings by")
        return float(returns[-1] if self.spec.objective == "last" else statistics.fmean(returns))

    @property
    def best(self) -> Best | None:
        """The best complete trial."""
        trials = [one for one in self._study.trials if one.state.name == "COMPLETE"]
        done = [(one.value, -one.number) for one in trials if one.value is not None]
        if not done:
            return None
        value, number = max(done)
        return Best(-number, value, self.settings(-number), [run.name for run in self.runs(-number)])

    # -- the file -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        write_trials(self.path, self.point.sweep, [_record(trial) for trial in self._study.trials])

    def _restore(self, number: int, facts: Mapping[str, Any]) -> None:
        """Tell a new study of a trial; one that was interrupted or failed is gone on with."""
        from optuna.trial import TrialState, create_trial

        values = {int(step): value for step, value in facts["evaluations"].items()}
        if facts["state"] in ("running", "failed"):
            self._study.enqueue_trial(dict(facts["params"]))
            trial = self._study.ask(self._distributions)
            for step, value in values.items():
                trial.report(value, step)
                trial.should_prune()  # it passed then; how far it got is known to the others again
            self._trials[number] = trial
            return
        self._study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if facts["state"] == "complete" else TrialState.PRUNED,
                value=facts["value"],
                params=dict(facts["params"]),
                distributions=dict(self._distributions),
                intermediate_values=values,
                system_attrs=dict(facts["rungs"]),
            )
        )


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(_INSTALL) from None


def _new_study(spec: SearchSpec, steps: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", pruner=_pruner(spec, steps))


def _pruner(spec: SearchSpec, steps: int) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    grace = spec.grace or max(1, math.floor(_GRACE_SHARE * steps))
    if spec.prune == "asha":
        return SuccessiveHalvingPruner(min_resource=grace)
    return MedianPruner(n_warmup_steps=grace) if spec.prune == "median" else NopPruner()


def _sampler(spec: SearchSpec, number: int) -> Any:
    """Draws of one trial: what is drawn does not depend on how many were drawn since the command began."""
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence((spec.seed, number)).generate_state(1)[0])
    return TPESampler(n_startup_trials=spec.startup, seed=seed)


def _record(trial: FrozenTrial) -> dict[str, Any]:
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")
    rungs = {name: value for name, value in trial.system_attrs.items() if name.startswith("completed_rung_")}
    return {
        "number": trial.number,
        "state": state,
        "value": trial.value if state == "complete" else None,
        "params": trial.params,
        "evaluations": {str(step): value for step, value in trial.intermediate_values.items()},
        "rungs": rungs,
    }
