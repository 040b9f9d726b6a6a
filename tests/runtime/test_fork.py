"""Jobs in forked child processes: results, exceptions, deaths."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import threading
import time
from functools import partial

import pytest
import torch

from dima.errors import ConfigError
from dima.runtime.failure import JobError
from dima.runtime.fork import ForkedJob, can_fork, one_thread, parallel_map
from dima.runtime.rng import drawn_from


def draw(seed: int, forked: bool) -> tuple[torch.Tensor, bool, int]:
    with drawn_from("cpu", seed):
        return torch.randn(3), forked, os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_results_do_not_depend_on_the_number_of_workers(workers: int, two_threads) -> None:
    jobs = [partial(draw, seed) for seed in range(4)]
    results = parallel_map(jobs, workers)
    for seed, (drawn, forked, process) in enumerate(results):
        assert torch.equal(drawn, draw(seed, False)[0])
        assert forked == (process != os.getpid())
    assert len({process for *_, process in results}) <= workers
    assert torch.get_num_threads() == 2


def test_every_worker_takes_a_job(two_threads) -> None:
    def slow(forked: bool) -> int:
        time.sleep(0.3)
        return os.getpid()

    assert len(set(parallel_map([slow] * 3, 3))) == 3


def test_with_a_single_thread_all_jobs_run_in_this_process(one_thread) -> None:
    assert not can_fork()
    assert {process for *_, process in parallel_map([partial(draw, 0)] * 3, 3)} == {os.getpid()}


def test_changes_in_a_child_stay_there() -> None:
    held = torch.zeros(2)
    assert ForkedJob(lambda: held.add_(1)).result().tolist() == [1, 1]
    assert held.tolist() == [0, 0]


def test_an_exception_in_a_child_is_raised_here() -> None:
    def fail() -> None:
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        ForkedJob(fail).result()


class OtherArguments(ConfigError):
    """Pickle would call it with its message alone."""

    def __init__(self, field: str, value: int) -> None:
        super().__init__(f"{field} = {value} is wrong")
        self.field, self.value = field, value


class Repeats(ConfigError):
    """Pickle would make a message of its message."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is damaged")


class HoldsALock(ValueError):
    def __init__(self, message: str) -> None:
        super().__init__(message, threading.Lock())
        self.lock, self.code = threading.Lock(), 7

    def __str__(self) -> str:
        return str(self.args[0])


class KeywordOnly(RuntimeError):
    def __init__(self, *, what: str) -> None:
        self.what = what

    def __str__(self) -> str:
        return f"no {self.what}"


class Unpicklable(KeyError):
    def __reduce__(self) -> str:
        raise TypeError("never")


class Wordless(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


NASTY = [
    OtherArguments("clip", 3),
    Repeats("run/checkpoint"),
    HoldsALock("locked"),
    KeywordOnly(what="time"),
    Unpicklable("name"),
    Wordless(),
    FileNotFoundError(2, "No such file", "here"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    SystemExit(3),
]


@pytest.mark.parametrize("error", NASTY, ids=lambda error: type(error).__name__)
def test_type_and_message_come_back_whatever_the_class(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ForkedJob(fail).result()
    assert type(caught.value) is type(error)
    if not isinstance(error, Wordless):
        assert str(caught.value) == str(error)
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int)}
    assert plain.items() <= vars(caught.value).items()


def test_a_class_that_only_the_child_knows_becomes_its_base_class() -> None:
    def fail() -> None:
        class Local(ConfigError):
            def __init__(self, a: int, b: int) -> None:
                super().__init__(f"{a} is not {b}")

        raise Local(1, 2)

    with pytest.raises(ConfigError, match=r"^1 is not 2$") as caught:
        ForkedJob(fail).result()
    assert "Local: 1 is not 2" in str(caught.value.__cause__)

    def fail_above_all() -> None:
        class Bare(BaseException):
            pass

        raise Bare("no exception")

    with pytest.raises(RuntimeError, match=r"^no exception$"):
        ForkedJob(fail_above_all).result()

    def fail_by_a_new_name() -> None:
        class Late(ConfigError):
            pass

        Late.__qualname__ = "Late"
        globals()["Late"] = Late
        raise Late("too late")

    with pytest.raises(RuntimeError, match=r"^too late$"):
        ForkedJob(fail_by_a_new_name).result()


def test_causes_notes_and_traceback_are_kept(two_threads) -> None:
    def open_file(forked: bool) -> None:
        raise HoldsALock("disk is locked")

    def fail(forked: bool) -> None:
        try:
            open_file(forked)
        except ValueError as error:
            failure = OtherArguments("path", 1)
            failure.__notes__ = ["seen at night"]
            raise failure from error

    with pytest.raises(OtherArguments) as caught, ForkedJob(partial(fail, True)) as other:
        other.result()
    assert isinstance(caught.value.__cause__, JobError)
    text = str(caught.value.__cause__)
    assert text.index("HoldsALock: disk is locked") < text.index("direct cause") < text.index("path = 1 is wrong")
    assert "in open_file" in text
    assert caught.value.__notes__ == ["seen at night"]


def test_a_result_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError), match="pickle") as caught:
        ForkedJob(lambda: [1, threading.Lock()]).result()
    assert isinstance(caught.value.__cause__, JobError)


def die(number: int) -> None:
    faulthandler.disable()  # which would print where it happened
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "died of SIGKILL: did memory run out"),
        (signal.SIGSEGV, "died of SIGSEGV$"),
        (signal.SIGABRT, "died of SIGABRT$"),
    ],
)
def test_a_death_names_the_signal(number: signal.Signals, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ForkedJob(partial(die, number)).result()


def test_a_death_while_sending_and_an_exit_are_errors() -> None:
    def exit_at_once() -> None:
        os._exit(9)

    with pytest.raises(RuntimeError, match="died with status 9"):
        ForkedJob(exit_at_once).result()

    other = ForkedJob(lambda: torch.zeros(10_000_000))  # more than a pipe holds
    time.sleep(0.5)
    os.kill(other._pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="died of SIGKILL"):
        other.result()
    with pytest.raises(ChildProcessError):
        os.waitpid(other._pid, 0)


def test_a_child_that_is_not_awaited_is_killed(two_threads) -> None:
    def sleep() -> None:
        time.sleep(60)

    began = time.monotonic()
    with ForkedJob(sleep) as other:
        process = other._pid
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)

    def fail_here(forked: bool) -> None:
        if forked:
            time.sleep(60)
        raise ConfigError("enough")

    with pytest.raises(ConfigError):
        parallel_map([fail_here] * 2, 2)
    assert time.monotonic() - began < 30


def test_a_child_ignores_stop_signals() -> None:
    def signalled() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return "done"

    assert ForkedJob(signalled).result() == "done"


def test_one_thread_lasts_for_the_block(two_threads) -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
