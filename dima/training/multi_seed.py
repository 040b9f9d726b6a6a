"""Train several seeds at once, a process each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from dima.errors import ConfigError, UserError
from dima.runtime.multi_progress import Relay, RunsProgress
from dima.runtime.signals import Stop, graceful_stop
from dima.runtime.summary import Summary
from dima.training.run_config import TrainConfig

_POLL_SECONDS = 0.2  # between two checks whether a stop was requested


@dataclass(frozen=True)
class Outcome:
    """Outcome of one of several runs."""

    seed: int
    summary: Summary | None = None
    error: str = ""  # why there is no summary


def train_seeds(
    config: TrainConfig, seeds: Sequence[int], *, overwrite: bool = False, progress: RunsProgress | None = None
) -> list[Outcome]:
    """Train one run per seed in parallel; each result equals that of the run alone.

    The first SIGINT or SIGTERM lets all runs finish their iteration and save, the second stops them at once.

    Args:
        config: of the runs, except for the seed; ``-seed<seed>`` is appended to a run folder it names.
        seeds: at least one, all different.
        overwrite: replace earlier runs in the same folders.
        progress: displays the iterations of every run; by default nothing is displayed.

    Returns:
        In the order of ``seeds``. An error of one run does not stop the others.

    Raises:
        ConfigError: the seeds are not usable.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {list(seeds)}: give at least one, each of them once")
    runs, progress = [seed_config(config, seed) for seed in seeds], progress or RunsProgress()
    with graceful_stop() as stop, ExitStack() as cleanup, progress.displaying([_name(seed) for seed in seeds]):
        workers = {}
        for run in runs:
            connection, process = _start(run, overwrite)
            cleanup.callback(process.terminate)  # when this process is stopped at once
            workers[connection] = (run.seed, process)
        outcomes = _watch(workers, stop, progress)
        cleanup.pop_all()
    return [outcomes[seed] for seed in seeds]


def seed_config(config: TrainConfig, seed: int) -> TrainConfig:
    """The config of one seed's run."""
    return config.override({"seed": seed, "run": None if config.run is None else f"{config.run}-seed{seed}"})


def _start(config: TrainConfig, overwrite: bool) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(config, overwrite, sender), name=_name(config.seed))
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


def _work(config: TrainConfig, overwrite: bool, connection: Connection) -> None:
    """Train one run in a process of its own."""
    from dima.training.online import train

    os.setsid()  # a Ctrl-C at the terminal reaches the parent, which passes it on
    try:
        outcome = Outcome(config.seed, train(config, overwrite=overwrite, progress=Relay(connection.send)))
    except UserError as error:
        outcome = Outcome(config.seed, error=" ".join(str(error).split()))
    connection.send(outcome)


def _name(seed: int) -> str:
    return f"seed {seed}"
