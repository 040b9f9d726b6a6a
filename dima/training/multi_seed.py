"""The same run under several seeds at once: a process each, seen together."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from dima.errors import ConfigError, UserError
from dima.runtime.progress import Progress, Together
from dima.runtime.signals import Stop, graceful_stop
from dima.runtime.summary import Summary
from dima.training.run_config import TrainConfig

_LOOK = 0.2  # seconds between two looks at whether an end was asked for


@dataclass(frozen=True)
class Outcome:
    """How one of several runs ended."""

    seed: int
    summary: Summary | None = None
    error: str = ""  # why there is none


def train_seeds(
    config: TrainConfig, seeds: Sequence[int], *, overwrite: bool = False, progress: Together | None = None
) -> list[Outcome]:
    """Carry a run under each seed to its last step, side by side; each result is that of the run alone.

    Args:
        config: every choice of the runs but the seed; to a folder it names, ``-seed<seed>`` is added.
        seeds: at least one, all different.
        overwrite: replace earlier runs in the same folders.
        progress: told of the iterations of every run; silent by default.

    Returns:
        In the order of ``seeds``. One run's mistake does not stop the others. The first Ctrl-C or SIGTERM lets all
        finish their iteration and save, the second one stops them at once, as in a run alone.

    Raises:
        ConfigError: the seeds are not usable.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {list(seeds)}: give one or more, none of them twice")
    runs, progress = [one_of(config, seed) for seed in seeds], progress or Together()
    with graceful_stop() as stop, ExitStack() as held, progress.watching([_name(seed) for seed in seeds]):
        workers = {}
        for run in runs:
            connection, process = _begin(run, overwrite)
            held.callback(process.terminate)  # where we are stopped at once, so are they
            workers[connection] = (run.seed, process)
        outcomes = _follow(workers, stop, progress)
        held.pop_all()
    return [outcomes[seed] for seed in seeds]


def one_of(config: TrainConfig, seed: int) -> TrainConfig:
    """The run of one seed."""
    return config.override({"seed": seed, "run": None if config.run is None else f"{config.run}-seed{seed}"})


def _begin(config: TrainConfig, overwrite: bool) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(config, overwrite, theirs), name=_name(config.seed))
    process.start()
    theirs.close()
    return ours, process


def _follow(workers: dict[Connection, tuple[int, SpawnProcess]], stop: Stop, progress: Together) -> dict[int, Outcome]:
    """Listen to all of them until the last one is done."""
    outcomes: dict[int, Outcome] = {}
    asked = False
    while workers:
        if stop.requested and not asked:
            asked = True
            for _, process in workers.values():
                process.terminate()  # SIGTERM, upon which it finishes its iteration
        for connection in wait(list(workers), timeout=_LOOK):
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
                progress.show(_name(seed), *message)
    return outcomes


class _Relay(Progress):
    """Tells another process of the iterations."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def _tell(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self._connection.send((done, total, numbers, left))


def _work(config: TrainConfig, overwrite: bool, connection: Connection) -> None:
    """One run, in a process of its own."""
    from dima.training.online import train

    os.setsid()  # a Ctrl-C at the terminal reaches the parent, which passes it on
    try:
        outcome = Outcome(config.seed, train(config, overwrite=overwrite, progress=_Relay(connection)))
    except UserError as error:
        outcome = Outcome(config.seed, error=" ".join(str(error).split()))
    connection.send(outcome)


def _name(seed: int) -> str:
    return f"seed {seed}"
