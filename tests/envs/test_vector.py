"""Vectorised environments, in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dima
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.check import random_action
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.errors import EnvError

BOTH = pytest.mark.parametrize("processes", [False, True])


def walk():
    return make_env("toy/walk", ToyConfig(episode_limit=4))


def switches():
    return make_env("toy/switches", ToyConfig(n_agents=3))


@BOTH
@pytest.mark.parametrize("make", [walk, switches, lambda: make_env("toy/uneven")])
def test_it_gives_what_single_copies_give(make, processes):
    singles, rng, everyone = [make() for _ in range(3)], np.random.default_rng(0), np.ones(3, dtype=bool)
    with VectorEnv(make, 3, processes) as envs:
        now = envs.reset([4, 5, 6], everyone)
        alone = [env.reset(seed=seed)[0] for env, seed in zip(singles, [4, 5, 6], strict=True)]
        ended = np.zeros(3, dtype=bool)
        for _ in range(6):
            for name, dtype in (("obs", np.float32), ("state", np.float32), ("action_mask", np.bool_)):
                assert np.array_equal(now[name], np.stack([joint[name] for joint in alone]))
                assert now[name].dtype == dtype
            if ended.any():
                now = envs.reset([9, 9, 9], ended)
                for i in np.flatnonzero(ended):
                    alone[i] = singles[i].reset(seed=9)[0]
            action = np.stack([random_action(envs.spec, joint["action_mask"], rng) for joint in alone])
            now, reward, terminated, truncated = envs.step(action, everyone)
            steps = [env.step(a) for env, a in zip(singles, action, strict=True)]
            alone = [step[0] for step in steps]
            assert reward.tolist() == [step[1] for step in steps]
            assert reward.dtype == np.float64
            assert terminated.tolist() == [step[2] for step in steps]
            assert truncated.tolist() == [step[3] for step in steps]
            ended = terminated | truncated


@BOTH
def test_inactive_copies_pause(processes):
    with VectorEnv(walk, 3, processes) as envs:
        start = envs.reset([1, 2, 3], np.array([True, True, False]))
        assert not start["obs"][2].any()  # it has not begun
        action = np.ones((3, 2, 1), dtype=np.float32)
        for step in range(6):
            active = np.array([step < 4, step in (2, 5), False])
            now, reward, terminated, truncated = envs.step(action, active)
            assert (reward[~active] == 0).all()
            assert not (terminated | truncated)[~active].any()
            assert truncated[0] == (step == 3)
            if step == 1:
                assert np.array_equal(now["obs"][1], start["obs"][1])
        twice = walk()
        twice.reset(seed=2)
        twice.step(action[0])
        assert np.array_equal(now["obs"][1], twice.step(action[0])[0]["obs"])


@BOTH
def test_a_reset_of_some_leaves_the_others_alone(processes):
    with VectorEnv(walk, 2, processes) as envs:
        envs.reset([1, 2], np.ones(2, dtype=bool))
        moved, *_ = envs.step(np.ones((2, 2, 1)), np.ones(2, dtype=bool))
        now = envs.reset([7, None], np.array([True, False]))
        assert np.array_equal(now["obs"][1], moved["obs"][1])
        assert np.array_equal(now["obs"][0], walk().reset(seed=7)[0]["obs"])


@BOTH
def test_returned_arrays_are_not_written_again(processes):
    with VectorEnv(walk, 2, processes) as envs:
        first = envs.reset([1, 2], np.ones(2, dtype=bool))
        kept = {name: values.copy() for name, values in first.items()}
        envs.step(np.ones((2, 2, 1)), np.ones(2, dtype=bool))
        assert all(np.array_equal(first[name], kept[name]) for name in kept)


@BOTH
def test_faults_surface_as_the_same_one_line(puppet, processes, capfd):
    def broken():
        return JointEnv(puppet(rewards=lambda t, r: r | {"right": np.nan} if t == 2 else r), name="my/task")

    with VectorEnv(broken, 2, processes) as envs:
        envs.reset([3, 4], np.ones(2, dtype=bool))
        envs.step(np.zeros((2, 2, 1)), np.array([True, False]))
        with pytest.raises(EnvError, match="my/task: step 2 of the episode with seed 3: rewards must be finite"):
            envs.step(np.zeros((2, 2, 1)), np.ones(2, dtype=bool))
    assert capfd.readouterr().err == ""


@BOTH
def test_faults_of_reset_and_of_building(puppet, processes):
    def fail(step, value):
        if fail.armed:
            raise RuntimeError("out of levels")

    fail.armed = False
    envs = VectorEnv(lambda: JointEnv(puppet(reset=fail), name="my/task"), 1, processes=False)
    fail.armed = True
    with pytest.raises(EnvError, match=r"seed 8: reset.. raised RuntimeError: out of levels"):
        envs.reset([8], np.ones(1, dtype=bool))
    with pytest.raises(EnvError, match="out of levels"):
        VectorEnv(lambda: JointEnv(puppet(reset=fail), name="my/task"), 2, processes)


def test_a_process_that_dies_is_an_error(puppet):
    def crash(step, value):
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    envs = VectorEnv(lambda: JointEnv(puppet(step=crash), name="my/task"), 2, processes=True)
    envs.reset([1, 2], np.ones(2, dtype=bool))
    with pytest.raises(EnvError, match="an environment's process died"):
        envs.step(np.zeros((2, 2, 1)), np.array([True, False]))
    envs.close()
    assert all(not process.is_alive() for process in envs._vector.processes)


OWNER = """
import os, signal, sys, time
import numpy as np
from dima.envs import make_env
from dima.envs.vector import VectorEnv

envs = VectorEnv(lambda: make_env("toy/walk"), 2, processes=True)
workers = [process.pid for process in envs._vector.processes]
for worker in workers:
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGINT)
envs.reset([1, 2], np.ones(2, dtype=bool))
print(*workers, flush=True)
time.sleep(float(sys.argv[1]))
"""


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")
@pytest.mark.parametrize("killed", [True, False])
def test_processes_outlive_polite_signals_but_not_their_owner(killed):
    """Signals to the whole group leave them at work; their owner's death, or its exit without close, ends them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(dima.__file__).parents[1])}
    command = [sys.executable, "-c", OWNER, "60" if killed else "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        workers = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(workers) == 2
        if killed:
            owner.kill()
        try:
            assert owner.wait(timeout=30) == (-signal.SIGKILL if killed else 0)
        except subprocess.TimeoutExpired:
            for pid in (owner.pid, *workers):
                os.kill(pid, signal.SIGKILL)
            raise
        assert owner.stderr.read() == ""  # nor do the processes, which write there too, die with complaints
    deadline = time.monotonic() + 10
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(map(gone, workers))


def test_closing_twice_is_fine():
    envs = VectorEnv(walk, 1, processes=True)
    envs.close()
    envs.close()
    assert not any(process.is_alive() for process in envs._vector.processes)


def test_processes_survive_the_thread_that_started_them():
    made = []
    thread = threading.Thread(target=lambda: made.append(VectorEnv(walk, 1, processes=True)))
    thread.start()
    thread.join()
    with made[0] as envs:
        time.sleep(0.05)  # the thread that started the process is gone
        assert envs.reset([1], np.ones(1, dtype=bool))["obs"].any()
