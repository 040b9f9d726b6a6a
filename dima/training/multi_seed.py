"""Train several seeds at once, a process each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NoReturn

from dima.errors import ConfigError, UserError
from dima.runtime.multi_progress import Relay, RunsProgress
from dima.runtime.signals import Stop, graceful_stop
from dima.runtime.summary import Summary
from dima.training.callbacks import load_callbacks
from dima.training.run_config import TrainConfig

_POLL_SECONDS = 0.2  # between two checks whether a stop was requested
_UNWIND_SECONDS = 3.0  # in which processes that are stopped at once may end their own children
_STOPS = {signal.SIGINT, signal.SIGTERM}
NOT_BEGUN = "stopped before it began"


@dataclass(frozen=True)
class Outcome:
    """Outcome of one of several runs."""

    seed: int
    summary: Summary | None = None
    error: str = ""  # why there is no summary
    stopped: bool = False  # a stop was requested before the run began


def train_seeds(
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    overwrite: bool = False,
    callbacks: Sequence[str] = (),
    progress: RunsProgress | None = None,
) -> list[Outcome]:
    """Train one run per seed in parallel; each result equals that of the run alone.

    The first SIGINT or SIGTERM lets all runs finish their iteration and save, the second stops them at once.

    Args:
        config: of the runs, except for the seed; ``-seed<seed>`` is appended to a run folder it names.
        seeds: at least one, all different.
        overwrite: replace earlier runs in the same folders.
        callbacks: ``package.module:Name`` of each; every run has its own.
        progress: displays the iterations of every run; by default nothing is displayed.

    Returns:
        In the order of ``seeds``. An error of one run does not stop the others.

    Raises:
        ConfigError: the seeds are not usable.
        CallbackError: a callback is not.
    """
    load_callbacks(callbacks)  # what is wrong with them is said once
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {list(seeds)}: give at least one, each of them once")
    runs, progress = [seed_config(config, seed) for seed in seeds], progress or RunsProgress()
    with graceful_stop() as stop, ExitStack() as cleanup, progress.displaying([_name(seed) for seed in seeds]):
        workers: dict[Connection, tuple[int, SpawnProcess]] = {}
        cleanup.callback(_end, workers)  # when this process is stopped at once
        for run in runs:
            connection, process = _start(run, overwrite, callbacks)
            workers[connection] = (run.seed, process)
        outcomes = _watch(workers, stop, progress)
        cleanup.pop_all()
    return [outcomes[seed] for seed in seeds]


def seed_config(config: TrainConfig, seed: int) -> TrainConfig:
    """The config of one seed's run."""
    return config.override({"seed": seed, "run": None if config.run is None else f"{config.run}-seed{seed}"})


def _start(config: TrainConfig, overwrite: bool, callbacks: Sequence[str]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(config, overwrite, callbacks, sender), name=_name(config.seed))
    with _no_stops():  # the process inherits this until it can handle them
        process.start()
    sender.close()
    return receiver, process


def _watch(
    workers: dict[Connection, tuple[int, SpawnProcess]], stop: Stop, progress: RunsProgress
) -> dict[int, Outcome]:
    """Display progress and collect outcomes until the last run ends."""
    outcomes: dict[int, Outcome] = {}
    terminated = False
    while workers:
        if stop.requested and not terminated:
            terminated = True
            for _, process in workers.values():
                process.terminate()  # SIGTERM: it finishes its iteration
        for connection in wait(list(workers), timeout=_POLL_SECONDS):
            assert isinstance(connection, Connection)
            seed, process = workers[connection]
            try:
                message = connection.recv()
            except EOFError:
                process.join()
                outcomes.setdefault(seed, Outcome(seed, error=f"its process ended with status {process.exitcode}"))
                del workers[connection]
                continue
            if isinstance(message, Outcome):
                outcomes[seed] = message
            else:
                display, *shown = message
                getattr(progress, display)(_name(seed), *shown)
    return outcomes


def _work(config: TrainConfig, overwrite: bool, callbacks: Sequence[str], connection: Connection) -> None:
    """Train one run in a process of its own."""
    from dima.runtime import signals
    from dima.training.online import train

    signals.announces = False  # the parent says it, once
    os.setsid()  # a Ctrl-C at the terminal reaches the parent, which passes it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)  # until training handles it
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        calls, relay = load_callbacks(callbacks), Relay(connection.send)
        outcome = Outcome(config.seed, train(config, overwrite=overwrite, progress=relay, callbacks=calls))
    except UserError as error:
        outcome = Outcome(config.seed, error=" ".join(str(error).split()))
    except _NotBegun:
        outcome = Outcome(config.seed, error=NOT_BEGUN, stopped=True)
    except (KeyboardInterrupt, BrokenPipeError):  # a second signal; or the parent is gone
        raise SystemExit(128 + signal.SIGTERM) from None
    connection.send(outcome)


class _NotBegun(BaseException):
    """A stop was requested before training could handle it."""


def _stop(*_: object) -> NoReturn:
    raise _NotBegun


@contextmanager
def _no_stops() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while the block runs."""
    resource_tracker.ensure_running()  # which lets them through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(workers: dict[Connection, tuple[int, SpawnProcess]]) -> None:
    """Stop processes at once; kill those that do not follow."""
    processes = [process for _, process in workers.values()]
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _UNWIND_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also after yet another signal
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _name(seed: int) -> str:
    return f"seed {seed}"
