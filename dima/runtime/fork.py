"""Work in other processes, on copies of everything this one holds, while it works itself.

A copy is a fork: nothing is sent to it, and all it sends back is its answer. What is drawn at random in it must come
from a seed (:func:`dima.runtime.rng.drawn_from`): then no result depends on who works where.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Generic, NoReturn, TypeVar

import torch

from dima.runtime.failure import Failure, JobError
from dima.runtime.signals import serve

T = TypeVar("T")
Job = Callable[[bool], T]  # told whether it is in a copy, where what it changes is lost but for its answer


def can_copy(gpu: bool = False) -> bool:
    """Whether copies of this process could work beside it: on Linux and with threads to spare.

    Args:
        gpu: whether they may be made while this process uses a GPU, which is of no use to them.
    """
    return sys.platform == "linux" and torch.get_num_threads() > 1 and (gpu or not torch.cuda.is_initialized())


def parallel_map(jobs: Sequence[Job[T]], workers: int) -> list[T]:
    """Do all jobs, each by whoever is free, with a thread each; one after another where there can be no copies.

    Args:
        jobs: the longest first, at most 256.
        workers: processes, this one included.

    Returns:
        Their answers, in order.
    """
    copies = min(workers, len(jobs)) - 1
    if copies < 1 or not can_copy():
        return [job(False) for job in jobs]
    to_do, numbers = os.pipe()
    os.write(numbers, bytes(range(len(jobs))))
    os.close(numbers)

    def work(copy: bool) -> dict[int, T]:
        done = {}
        while taken := os.read(to_do, 1):  # everybody reads from the same pipe
            done[taken[0]] = jobs[taken[0]](copy)
        return done

    with ExitStack() as held:
        held.callback(os.close, to_do)
        others = [held.enter_context(ForkedJob(partial(work, True))) for _ in range(copies)]
        with one_thread():
            done = work(False)
        for other in others:
            done |= other.result()
    return [done[number] for number in range(len(jobs))]


@contextmanager
def in_background(job: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Let a copy of this process do a job that needs no GPU while the block runs; where none can be, do it first.

    Args:
        job: must leave everything here as it was.

    Yields:
        What waits for the answer.
    """
    if can_copy(gpu=True):
        with ForkedJob(job) as other:
            yield other.result
    else:
        answer = job()
        yield lambda: answer


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use a single thread while the block runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ForkedJob(Generic[T]):
    """A job at work in a copy of this process, which ends with it.

    Args:
        job: what to do; its answer is sent back.
    """

    def __init__(self, job: Callable[[], T]) -> None:
        self._ours, theirs = Pipe(duplex=False)
        in_main_thread = threading.current_thread() is threading.main_thread()
        owner = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            serve(owner, in_main_thread)
            _work(job, theirs)
        theirs.close()
        self._waiting = True

    def result(self) -> T:
        """Wait for the answer.

        Raises:
            Exception: whatever the job raised, caused by a :class:`JobError` that holds its traceback and its own
                causes as text. One whose class exists in the copy alone comes as the nearest class it derives from.
            RuntimeError: the process died.
        """
        try:
            words = self._ours.recv_bytes()
        except (EOFError, OSError):  # before it said anything, or in the middle
            raise RuntimeError(f"a process that worked beside this one died{self._death()}") from None
        finally:
            self.close()
        answer, failure = torch.load(io.BytesIO(words), weights_only=False)  # our own words
        if failure is not None:
            raise failure.error() from JobError(failure.trace)
        return answer

    def close(self) -> None:
        """End the process, whether it is done or not."""
        if self._waiting:
            self._waiting = False
            self._ours.close()
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _death(self) -> str:
        """How the process ended, which it is known to do."""
        self._waiting = False
        self._ours.close()
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status >= 0:
            return f" with status {status}"
        name = signal.Signals(-status).name
        return f" of {name}: did memory run out?" if name == "SIGKILL" else f" of {name}"

    def __enter__(self) -> ForkedJob[T]:  # Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(job: Callable[[], Any], theirs: Connection) -> NoReturn:
    """All that the copy does: nothing of what its original would do at its end."""
    try:
        torch.set_num_threads(1)  # the threads of the original were not copied,
        if "torch._dynamo" in sys.modules:
            torch.compiler.set_stance("eager_on_recompile")  # nor the compiler's
        words = io.BytesIO()
        try:
            torch.save((job(), None), words)
        except BaseException as error:
            words = io.BytesIO()  # without what an answer that cannot be sent left there
            torch.save((None, Failure.of(error)), words)
        theirs.send_bytes(words.getbuffer())
    finally:
        os._exit(0)
