"""Jobs in copies of the process: their answers, their mistakes, their ends."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
import torch

from dima.errors import ConfigError
from dima.runtime.fork import ForkedJob, can_copy, one_thread, parallel_map
from dima.runtime.rng import drawn_from


def draw(seed: int, copy: bool) -> tuple[torch.Tensor, bool, int]:
    with drawn_from("cpu", seed):
        return torch.randn(3), copy, os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_answers_do_not_depend_on_who_works(workers: int, two_threads) -> None:
    jobs = [partial(draw, seed) for seed in range(4)]
    answers = parallel_map(jobs, workers)
    for seed, (drawn, copy, process) in enumerate(answers):
        assert torch.equal(drawn, draw(seed, False)[0])
        assert copy == (process != os.getpid())
    assert len({process for *_, process in answers}) <= workers
    assert torch.get_num_threads() == 2


def test_a_copy_takes_what_is_left(two_threads) -> None:
    def slow(copy: bool) -> int:
        time.sleep(0.3)
        return os.getpid()

    assert len(set(parallel_map([slow] * 3, 3))) == 3


def test_without_threads_to_spare_everything_happens_here(one_thread) -> None:
    assert not can_copy()
    assert {process for *_, process in parallel_map([partial(draw, 0)] * 3, 3)} == {os.getpid()}


def test_what_a_copy_changes_stays_there() -> None:
    held = torch.zeros(2)
    assert ForkedJob(lambda: held.add_(1)).result().tolist() == [1, 1]
    assert held.tolist() == [0, 0]


def test_a_copys_mistake_is_raised_here() -> None:
    def fail() -> None:
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        ForkedJob(fail).result()


def test_a_death_is_told() -> None:
    with pytest.raises(RuntimeError, match="died"):
        ForkedJob(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()


def test_who_is_not_waited_for_is_ended(two_threads) -> None:
    def sleep() -> None:
        time.sleep(60)

    began = time.monotonic()
    with ForkedJob(sleep) as other:
        process = other._pid
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)

    def fail_here(copy: bool) -> None:
        if copy:
            time.sleep(60)
        raise ConfigError("enough")

    with pytest.raises(ConfigError):
        parallel_map([fail_here] * 2, 2)
    assert time.monotonic() - began < 30


def test_a_copy_leaves_signals_to_its_owner() -> None:
    def disturbed() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return "done"

    assert ForkedJob(disturbed).result() == "done"


def test_one_thread_is_for_a_while(two_threads) -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
