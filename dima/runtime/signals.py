"""Stopping politely: the first Ctrl-C or SIGTERM asks for an end of the iteration, the second one stops at once.

Processes that work for another leave both to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether an end was asked for."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Watch for SIGINT and SIGTERM while the block runs. Outside the main thread nothing is watched.

    Enter it before worker processes are started: they inherit the handlers, so a Ctrl-C that reaches the whole
    terminal group leaves them at work until the iteration is over.

    Raises:
        KeyboardInterrupt: a second signal arrived.
    """
    stop, owner = Stop(), os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker process: only its owner may end it
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            return
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        print(
            "stopping: the iteration is finished and saved first (once more stops at once)", file=sys.stderr, flush=True
        )

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(owner: int, in_main_thread: bool) -> None:
    """What a process that works for another needs to outlive signals sent to the whole group, but not its owner.

    Ctrl-C and SIGTERM ask the owner to finish its iteration, for which it needs its workers. Should the owner be
    killed, Linux ends the process with it; asked for only if the owner's main thread started it, since Linux minds
    the end of the thread.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux" and in_main_thread:
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != owner:  # it died before the line above
            os._exit(1)
