"""A sweep on Ray Tune, on this machine or a cluster: each unit is a trial.

Ray decides what runs where, gives each trial its cores and its share of a GPU, and starts a trial again whose worker or
machine died; what to try, and what is poor, the agenda says. Ray's own files stay in ``.ray`` in the sweep's folder and
in a folder for temporary files, and are removed at the end.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from dima.errors import ConfigError, one_line
from dima.runtime.machine import cores
from dima.storage.atomic import write_errors
from dima.sweeps.agenda import Agenda, Unit
from dima.sweeps.plan import Plan
from dima.sweeps.process import Job
from dima.sweeps.progress import SweepProgress
from dima.sweeps.spec import Resources, Sweep
from dima.sweeps.unit import UnitWork

FILES = ".ray"  # Ray's own files, and requests to stop
_STOP_ALL = "stop"
_TOKEN = secrets.token_hex(32)  # of a Ray of this machine
_POLL_SECONDS = 1.0  # between two results of a trial, unless there is something to decide
_ANSWER_SECONDS = 10.0  # of a cluster
_OBJECT_STORE_BYTES = 100 << 20  # nothing but settings and metrics passes through it
_PENDING = {False: "16", True: "1"}  # trials that wait for a place; those of a search are drawn as late as possible
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a run without a share of a GPU sees none
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command's own handler lets runs save
    "TUNE_WARN_THRESHOLD_S": "1000000",
}


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
        with _quiet(sweep.search is not None), _connected(sweep):
            needs = {"cpu": sweep.spec.resources.cpus, "gpu": _gpu_share(plan, sweep.spec.resources)}
            _require_room(needs, sweep.spec.address is not None, progress)
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
        events = self._work.poll(_POLL_SECONDS)
        return {"events": json.dumps(events), "done": self._work.done}

    def cleanup(self) -> None:
        self._work.close()

    def _begin(self, config: dict[str, Any]) -> None:
        unit = json.loads(config["unit"])
        self._key, self._files = config["key"], Path(unit["files"])
        self._work = UnitWork([Job(**job) for job in unit["jobs"]], unit["retries"])


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


# -- Ray itself -------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet(search: bool) -> Iterator[None]:
    """No statistics of usage, no files of Ray's loggers, no lines but our own."""
    changes = _ENVIRONMENT | {"TUNE_MAX_PENDING_TRIALS_PG": _PENDING[search]}
    before = {name: os.environ.get(name) for name in (*changes, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train")]
    levels = [logger.level for logger in loggers]
    os.environ.update(changes)
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def _connected(sweep: Sweep) -> Iterator[None]:
    """A connection to the cluster, or a Ray of this machine that ends with the sweep."""
    address = sweep.spec.address
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is not None:
            _require_answer(address)
            ray.init(address=address, **common)
        else:
            # others on this machine cannot use it; without a token given, Ray would write one to the home folder
            os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
            folder = tempfile.mkdtemp(prefix="dima-ray-")  # paths of sockets must be short: not in the sweep's folder
            ray.init(
                address="local",
                num_cpus=cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **common,
            )
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own would end the command at once
                signal.signal(number, handler)
        yield
    except (ConnectionError, ValueError) as error:
        if ray.is_initialized():
            raise
        place = "started" if address is None else f"reached at {address} (with a token? see RAY_AUTH_MODE)"
        raise ConfigError(f"Ray cannot be {place}: {one_line(error)[:300]}") from error
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _require_answer(address: str) -> None:
    """Raise ConnectionError if nobody answers at ``host:port``, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()


def _gpu_share(plan: Plan, resources: Resources) -> float:
    """The share of a GPU that each run gets."""
    if resources.gpus is not None:
        return resources.gpus
    configs = [run.config for point in plan.points for run in point.runs(_any_values(plan.sweep))]
    may_use_one = any(config.device != "cpu" for config in configs)
    return 1.0 if may_use_one and ray.cluster_resources().get("GPU", 0) else 0.0


def _any_values(sweep: Sweep) -> dict[str, Any]:
    return {name: drawn.samples[0] for name, drawn in sweep.space.items()}


def _require_room(needs: dict[str, float], cluster: bool, progress: SweepProgress) -> None:
    """Refuse a run that this machine can never hold; a cluster may grow."""
    for kind, amount in needs.items():
        found = max((node["Resources"].get(kind.upper(), 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if amount > found:
            text = f"resources.{kind}s = {amount:g} is more than the {found:g} of "
            if not cluster:
                raise ConfigError(f"{text}this machine: lower it")
            progress.message(f"{text}any machine of the cluster: runs wait until it has a larger one")
