"""A run in a process of its own, which finishes its iteration and saves when its owner asks for that, or dies.

The process belongs to whoever carries out the sweep: the command itself, or a worker of Ray. Nothing that is loaded
there, no thread and no handler of signals, comes near the run; and a run that crashes takes nothing else along.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dima.config import user_path
from dima.errors import UserError, one_line

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from dima.runtime.progress import Progress
    from dima.runtime.summary import Summary

Status = Literal["finished", "interrupted", "failed", "invalid"]
Event = tuple[Any, ...]  # its kind and arguments: those of a display, or ("outcome", status, error), ("died", why)
LOGS = "logs"  # folder of what runs print
_PRELOAD = ["dima.training.online", "torch._dynamo"]  # imported once, by the server that runs are forked from
_ORPHAN_SECONDS = 600.0  # in which a run must finish its iteration once its owner is dead
_LOCK_SECONDS = 900.0  # to wait for a run whose owner died, and that still saves
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """A run as plain data, which can be sent to another machine.

    Attributes:
        name: path of the run folder below the sweep's.
        config: the whole configuration.
        home: working directory, which relative paths start from.
        log: file for what the run prints.
        allow: names ``package.module:Name`` that the user agreed to; others are asked of the user's configuration.
    """

    name: str
    config: Mapping[str, Any]
    home: str
    log: str
    allow: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class RunProcess:
    """A run at work.

    Args:
        job: is trained, or resumed where its folder holds a part of it.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self._log = Path(job.log)
        self._connection, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(target=_work, args=(job, theirs), name=job.name)
        self._process.start()
        theirs.close()
        self._stopping = False

    def events(self, seconds: float) -> list[Event]:
        """What the run told since the last call; waits for the first.

        Args:
            seconds: to wait at most.

        Returns:
            Events; the last one of a run is its outcome, or that its process died.
        """
        found: list[Event] = []
        with suppress(EOFError, OSError):
            while wait([self._connection], timeout=0 if found else seconds):
                found.append(self._connection.recv())
                if found[-1][0] == "outcome":
                    self._process.join()
                    return found
            return found
        self._process.join()
        return [*found, ("died", _death(self._process.exitcode))]

    def stop(self) -> None:
        """Ask the run to finish its iteration and save; its outcome follows."""
        if not self._stopping:
            self._stopping = True
            with suppress(OSError):
                self._connection.send("stop")

    def close(self) -> None:
        """End the process at once if it still runs; what it saved is kept."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with status {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}" + (": did memory run out?" if name == "SIGKILL" else "")


# -- in the process of the run ----------------------------------------------------------------------------------------


def _work(job: Job, connection: Connection) -> None:
    os.setsid()  # a Ctrl-C at the terminal reaches the owner, which passes it on
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()

    def send(event: Event) -> None:
        with suppress(OSError):  # the owner died: finish the iteration, save, and end
            connection.send(event)

    try:
        os.chdir(job.home)
        _redirect_output(Path(job.log))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        text = f"{job.home} cannot be used here ({why}): runs of a cluster need a shared file system"
        send(("outcome", "invalid", text))
        return
    try:
        from dima.runtime.multi_progress import Relay

        summary = carry_out(job, Relay(send))
        send(("outcome", "finished" if summary.finished else "interrupted", ""))
    except UserError as error:
        send(("outcome", "invalid", " ".join(str(error).split())))
    except KeyboardInterrupt:
        send(("outcome", "interrupted", ""))
    except BaseException as error:
        traceback.print_exc()
        send(("outcome", "failed", f"{one_line(error)} (traceback in {job.log})"))


def _obey(connection: Connection) -> None:
    """Request a stop when the owner asks for it, or dies; the handler of SIGTERM does the rest."""
    with suppress(EOFError, OSError):
        connection.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    with suppress(EOFError, OSError):
        connection.recv()  # until the owner dies
    time.sleep(_ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _redirect_output(log: Path) -> None:
    """Append what the process prints to a file: warnings, tracebacks, whatever a simulator says."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def carry_out(job: Job, progress: Progress) -> Summary:
    """Train a run, or resume what its folder holds of it, in this process.

    Args:
        job: the run.
        progress: display of phases and iterations.

    Raises:
        UserError: as :func:`dima.train` and :func:`dima.resume`.
    """
    from dima.storage.layout import CONFIG
    from dima.storage.lock import FolderInUse
    from dima.training.online import resume, train
    from dima.training.run_config import RunConfig, TrainConfig

    task, algorithm = (_typed(job, str(job.config[name])) for name in ("task", "algorithm"))
    config = RunConfig.from_dict(job.config, algorithm=algorithm, where=job.name).agreed(task, job.name)
    assert isinstance(config, TrainConfig)
    patience = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            if (user_path(config.folder) / CONFIG).exists():
                return resume(config.folder, task=task, algorithm=algorithm, progress=progress)
            return train(config, progress=progress)
        except FolderInUse:
            if time.monotonic() > patience:
                raise
            time.sleep(_POLL_SECONDS)


def _typed(job: Job, name: str) -> str | None:
    return name if name in job.allow else None
