"""A sweep on Ray Tune, on this machine or a cluster: each unit is a trial.

Ray decides what runs where, gives each trial its cores and its share of a GPU, and starts a trial again whose worker or
machine died; what to try, and what is poor, the agenda says. Ray's own files stay in ``.ray`` in the sweep's folder and
in a folder for temporary files, and are removed at the end.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from dima.errors import one_line
from dima.storage.atomic import write_errors
from dima.sweeps.agenda import Agenda, Unit
from dima.sweeps.plan import Plan
from dima.sweeps.process import Event, Job
from dima.sweeps.progress import SweepProgress
from dima.sweeps.ray_cluster import connected, gpu_share, quiet, require_room
from dima.sweeps.spec import Sweep
from dima.sweeps.unit import UnitWork

FILES = ".ray"  # Ray's own files, and requests to stop
_STOP_ALL = "stop"
_POLL_SECONDS = 1.0  # between two results of a trial, unless something happened


def carry_out_on_ray(agenda: Agenda, plan: Plan, progress: SweepProgress) -> None:
    """Carry out what is on the agenda as trials of Ray Tune.

    Args:
        agenda: of the sweep.
        plan: of the sweep.
        progress: display.

    Raises:
        ConfigError: the cluster cannot be reached, or this machine has less than a run asks for.
    """
    sweep = plan.sweep
    files = sweep.out.absolute() / FILES
    with write_errors(files):
        shutil.rmtree(files, ignore_errors=True)  # of a sweep that was killed
        files.mkdir()
    try:
        with quiet(sweep.search is not None), connected(sweep):
            needs = {"cpu": sweep.spec.resources.cpus, "gpu": gpu_share(plan, sweep.spec.resources)}
            require_room(needs, sweep.spec.address is not None, progress)
            _tune(agenda, sweep, files, {kind: amount for kind, amount in needs.items() if amount})
    finally:
        shutil.rmtree(files, ignore_errors=True)


def _tune(agenda: Agenda, sweep: Sweep, files: Path, needs: dict[str, float]) -> None:
    callback = _Events(agenda, files)
    tuner = tune.Tuner(
        tune.with_resources(UnitTrial, needs),
        tune_config=tune.TuneConfig(
            search_alg=_Units(agenda, sweep.spec.retries, files),
            num_samples=-1,  # until the agenda has nothing left
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(files),
            callbacks=[callback],
            stop=_Stopped(agenda),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.spec.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    if callback.error is not None:
        raise callback.error


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


class UnitTrial(tune.Trainable):
    """A trial: polls the runs of a unit, which are processes of their own, and passes on what they tell."""

    def setup(self, config: dict[str, Any]) -> None:
        import sys

        # otherwise each process of a run would first import Ray's own script, which is the main module here
        sys.modules["__main__"].__dict__.pop("__file__", None)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._work.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if any((self._files / name).exists() for name in (_STOP_ALL, self._key)):
            self._work.stop()
        events, until = list[Event](), time.monotonic() + _POLL_SECONDS
        while (left := until - time.monotonic()) > 0 and not self._work.done and all(map(_can_wait, events)):
            events += self._work.poll(left)
        return {"events": json.dumps(events), "done": self._work.done}

    def cleanup(self) -> None:
        self._work.close()

    def _begin(self, config: dict[str, Any]) -> None:
        unit = json.loads(config["unit"])
        self._key, self._files = config["key"], Path(unit["files"])
        self._work = UnitWork([Job(**job) for job in unit["jobs"]], unit["retries"])


def _can_wait(event: Event) -> bool:
    """Whether an event is mere progress."""
    kind, *rest = event
    return kind in ("message", "show") and not (kind == "show" and "evaluated_return" in rest[3])


class _Unsaved:
    """An object whose state stays here where Ray Tune saves its own: a sweep goes on from its run folders."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Units(_Unsaved, Searcher):
    """Gives Ray Tune the units of an agenda."""

    def __init__(self, agenda: Agenda, retries: int, files: Path) -> None:
        super().__init__(metric="done", mode="max")
        self._agenda, self._retries, self._files = agenda, retries, files
        self.units: dict[str, Unit] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        unit = self._agenda.next()
        if unit is None:
            nothing_left: Any = Searcher.FINISHED
            return nothing_left
        jobs = [job.to_dict() for job in unit.jobs]
        content = {"files": str(self._files), "jobs": jobs, "retries": self._retries}
        return {"key": trial_id, "unit": json.dumps(content), "name": unit.key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the agenda was told by the events."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, see :class:`_Unsaved`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class _Events(_Unsaved, tune.Callback):
    """Passes the events of trials on to an agenda, and requests to stop back."""

    def __init__(self, agenda: Agenda, files: Path) -> None:
        self._agenda, self._files = agenda, files
        self.error: Exception | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._agenda.stopping:
            (self._files / _STOP_ALL).touch()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for event in json.loads(result["events"]):
            if self._agenda.take(trial.config["name"], tuple(event)):
                (self._files / str(trial.trial_id)).touch()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._agenda.recover(trial.config["name"], _why(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._agenda.lose(trial.config["name"], _why(trial))


class _Stopped(_Unsaved, tune.Stopper):
    """Ends Ray Tune once the user wants to stop and no run is at work, even if trials still wait for a place."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._agenda.stopping and not self._agenda.busy


def _why(trial: Any) -> str:
    """Why a trial's worker is lost, in a line."""
    with suppress(Exception):  # whatever cannot be unpickled here
        error = trial.get_pickled_error()
        if error is not None and not isinstance(error, ray.exceptions.RayActorError):
            return one_line(error)[:200]
    return "its worker died"
