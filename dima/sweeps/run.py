"""Carry out a sweep: in parallel with Ray, or one run after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dima.analysis.report.build import Report, report
from dima.errors import ConfigError, RunFolderError
from dima.runtime.signals import graceful_stop
from dima.storage.atomic import write_errors, write_text
from dima.storage.lock import FolderLock
from dima.sweeps.agenda import Agenda
from dima.sweeps.existing import state_of
from dima.sweeps.plan import Plan, make_plan
from dima.sweeps.process import LOGS
from dima.sweeps.progress import SweepProgress
from dima.sweeps.results import SweepResult
from dima.sweeps.search import Search, require_optuna
from dima.sweeps.serial import carry_out_serially
from dima.sweeps.spec import Backend, Sweep, read_sweep

COPY = "sweep.yaml"  # of the file, in the sweep's folder
_INSTALL = "pip install 'dima-marl[ray]'"
NO_RAY = f"dima: Ray is not installed, so the runs follow one another (side by side: {_INSTALL})"


def sweep(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    backend: Backend | None = None,
    address: str | None = None,
    allow: Sequence[str] = (),
    progress: SweepProgress | None = None,
) -> SweepResult:
    """Carry out a sweep, or go on with it: finished runs are skipped, unfinished ones resumed.

    A run that fails stops no other. The first SIGINT or SIGTERM lets the runs at work finish their iteration and save,
    the second stops them at once. In a script, call this under ``if __name__ == "__main__"``: runs are processes.

    Args:
        spec: a YAML file or its content, see docs/sweeps.md.
        out, backend, address: in place of the file's fields.
        allow: names ``package.module:Name`` in a file that may be imported; those of a mapping are allowed already.
        progress: display; none by default.

    Raises:
        UserError: before anything starts: the sweep is not valid, a folder holds a run of other settings, or what it
            needs is not installed.
    """
    read = read_sweep(spec, out=None if out is None else str(out), backend=backend, address=address)
    progress = progress or SweepProgress()
    if read.where is None:
        allow = [*allow, *read.tasks, *read.algorithms]
    plan = make_plan(read, allow)
    on_ray = _choose_backend(read, progress)
    searches = open_searches(plan)
    with _opened(read), graceful_stop() as stop:
        agenda = Agenda(plan, searches, progress, stop)
        with progress.displaying(plan.total, len(agenda.outcomes)):
            if on_ray is not None:
                on_ray(agenda, plan, progress)
            else:
                carry_out_serially(agenda, read.spec.retries)
        runs = list(agenda.outcomes.values())
        best = {search.point.name: found for search in searches if (found := search.best) is not None}
        whole = [run for run in runs if run.status != "pruned"]  # others would lower the steps to compare at
        written = _report([run.folder for run in whole], read.out)
        return SweepResult(read.out, runs, plan.total, best, written, interrupted=stop.requested)


def open_searches(plan: Plan) -> list[Search]:
    """The searches of a plan, with the trials that they made already.

    Raises:
        ConfigError: Optuna is not installed, or an earlier search or one of its runs has other settings.
    """
    if plan.sweep.search is None:
        return []
    require_optuna()
    searches = [Search(point) for point in plan.points]
    for run in (run for search in searches for number in search.numbers for run in search.runs(number)):
        state_of(run.config)
    return searches


def _choose_backend(sweep: Sweep, progress: SweepProgress) -> Callable[[Agenda, Plan, SweepProgress], None] | None:
    """What carries the sweep out on Ray; None for one run after another."""
    backend, address = sweep.spec.backend, sweep.spec.address
    if backend == "serial":
        if address is not None:
            raise ConfigError(f"address = {address} is of a Ray cluster, which backend = serial does not use")
        return None
    if find_spec("ray") is None and backend == "auto" and address is None:
        progress.message(NO_RAY)
        return None
    try:
        from dima.sweeps.ray_tune import carry_out_on_ray
    except ImportError as error:
        raise ConfigError(f"Ray Tune cannot be used ({error}): {_INSTALL}, or take --serial") from None
    return carry_out_on_ray


@contextmanager
def _opened(sweep: Sweep) -> Iterator[None]:
    """Create and lock the sweep's folder, with a copy of its file in it."""
    with write_errors(sweep.out):
        sweep.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(sweep.out)
    try:
        if sweep.where is not None:
            with write_errors(sweep.out):
                write_text(sweep.out / COPY, sweep.where.read_text(encoding="utf-8"))
        yield
    finally:
        _remove_empty(sweep.out / LOGS)
        lock.close()


def _remove_empty(folder: Path) -> None:
    """Remove folders in which no run printed anything."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def _report(folders: Sequence[Path], out: Path) -> Report | None:
    """A page over all runs; None if none of them has anything to report yet."""
    try:
        return report([folder for folder in folders if folder.is_dir()], out)
    except RunFolderError:
        return None
