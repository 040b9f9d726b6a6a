"""Run jobs in forked child processes.

A child starts with a copy of this process's memory and sends back only its job's result. A job must draw random
numbers from a seed (:func:`dima.runtime.rng.drawn_from`), so that results do not depend on which process runs it.
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
from dima.runtime.signals import become_worker

T = TypeVar("T")
Job = Callable[[bool], T]  # of whether it runs in a child, where all it changes is lost except for its result


def can_fork(gpu: bool = False) -> bool:
    """Whether jobs can run in child processes: on Linux and with more than one thread.

    Args:
        gpu: whether to fork while this process uses a GPU, which children cannot use.
    """
    return sys.platform == "linux" and torch.get_num_threads() > 1 and (gpu or not torch.cuda.is_initialized())


def parallel_map(jobs: Sequence[Job[T]], workers: int) -> list[T]:
    """Run jobs on a pool of single-threaded processes, or serially where this process cannot fork.

    Args:
        jobs: the longest first, at most 256.
        workers: processes, this one included.

    Returns:
        Their results, in order.
    """
    children = min(workers, len(jobs)) - 1
    if children < 1 or not can_fork():
        return [job(False) for job in jobs]
    queue, numbers = os.pipe()
    os.write(numbers, bytes(range(len(jobs))))
    os.close(numbers)

    def work(forked: bool) -> dict[int, T]:
        done = {}
        while taken := os.read(queue, 1):  # all processes read from the same pipe
            done[taken[0]] = jobs[taken[0]](forked)
        return done

    with ExitStack() as held:
        held.callback(os.close, queue)
        pool = [held.enter_context(ForkedJob(partial(work, True))) for _ in range(children)]
        with one_thread():
            done = work(False)
        for child in pool:
            done |= child.result()
    return [done[number] for number in range(len(jobs))]


@contextmanager
def in_background(job: Callable[[], T], forkable: bool = True) -> Iterator[Callable[[], T]]:
    """Run a job that needs no GPU in a child process while the block runs; before it where this process cannot fork.

    Args:
        job: must have no side effects.
        forkable: whether the job works in a forked process.

    Yields:
        A function that waits for the result.
    """
    if forkable and can_fork(gpu=True):
        with ForkedJob(job) as child:
            yield child.result
    else:
        result = job()
        yield lambda: result


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
    """A job running in a child process, which dies with this one.

    Args:
        job: its result is sent back.
    """

    def __init__(self, job: Callable[[], T]) -> None:
        self._receiver, sender = Pipe(duplex=False)
        in_main_thread = threading.current_thread() is threading.main_thread()
        owner = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            become_worker(owner, in_main_thread)
            _work(job, sender)
        sender.close()
        self._waiting = True

    def result(self) -> T:
        """Wait for the result.

        Raises:
            Exception: the job's exception, caused by a :class:`JobError` that holds its traceback and its own causes
                as text. One whose class exists only in the child becomes its nearest base class.
            RuntimeError: the process died.
        """
        try:
            message = self._receiver.recv_bytes()
        except (EOFError, OSError):  # before or while it sent its result
            raise RuntimeError(f"a worker process died{self._death()}") from None
        finally:
            self.close()
        result, failure = torch.load(io.BytesIO(message), weights_only=False)  # written by this program
        if failure is not None:
            raise failure.error() from JobError(failure.trace)
        return result

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self._waiting:
            self._waiting = False
            self._receiver.close()
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _death(self) -> str:
        """Describe how the process ended."""
        self._waiting = False
        self._receiver.close()
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status >= 0:
            return f" with status {status}"
        name = signal.Signals(-status).name
        return f" of {name}: did memory run out?" if name == "SIGKILL" else f" of {name}"

    def __enter__(self) -> ForkedJob[T]:  # Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(job: Callable[[], Any], sender: Connection) -> NoReturn:
    """Run the job in the child and exit without the parent's exit handlers."""
    try:
        torch.set_num_threads(1)  # a fork copies no threads,
        if "torch._dynamo" in sys.modules:
            torch.compiler.set_stance("eager_on_recompile")  # the compiler's neither
        message = io.BytesIO()
        try:
            torch.save((job(), None), message)
        except BaseException as error:
            message = io.BytesIO()  # drop the part of a result that cannot be pickled
            torch.save((None, Failure.of(error)), message)
        sender.send_bytes(message.getbuffer())
    finally:
        os._exit(0)
