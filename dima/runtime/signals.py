"""Graceful stop: the first SIGINT or SIGTERM ends collecting or finishes the iteration, the second stops at once.

Worker processes leave both to their owner.
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

announces = True  # whether this process says that it stops


class Interrupted(Exception):
    """A stop was requested while experience was collected."""


class Stop:
    """Whether a stop was requested."""

    def __init__(self) -> None:
        self.requested = False

    def heed(self) -> None:
        """Raise :class:`Interrupted` if a stop was requested."""
        if self.requested:
            raise Interrupted


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM while the block runs; outside the main thread, handle nothing.

    Enter it before worker processes are started: they inherit the handlers, so a Ctrl-C that reaches the whole
    process group leaves them running until the iteration is over.

    Raises:
        KeyboardInterrupt: a second signal arrived.
    """
    stop, owner = Stop(), os.getpid()

    def request_stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker process: only its owner may end it
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            return
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        if announces:
            print(
                "stopping as soon as the work is saved (a second signal stops at once)",
                file=sys.stderr,
                flush=True,
            )

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def become_worker(owner: int, in_main_thread: bool) -> None:
    """Ignore SIGINT and SIGTERM in this worker process, and die with its owner.

    The owner finishes its iteration after either signal, for which it needs its workers. If the owner is killed, Linux
    kills the worker; requested only if the owner's main thread forked it, since Linux watches the thread.

    Args:
        owner: process id of the parent.
        in_main_thread: whether the parent's main thread forked this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux" and in_main_thread:
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != owner:  # it died before the line above
            os._exit(1)
