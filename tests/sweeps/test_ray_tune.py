"""A sweep on a local Ray: kills lose nothing, and only our own lines are seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

import dima
from dima.errors import ConfigError
from dima.sweeps.plan import make_plan
from dima.sweeps.spec import read_sweep
from tests.sweeps.conftest import at_work, numbers

pytest.importorskip("ray.tune")


def test_kills_of_workers_and_of_the_command_lose_nothing(content, tmp_path, started) -> None:
    """Two algorithms, three seeds, two runs at a time: a run, a worker of Ray and the command are killed."""
    swept = content({"steps": 600, "evaluate_every": 300}, algorithms=["mappo", "happo"], seeds=[0, 1, 2])
    dima.sweep(swept | {"out": str(tmp_path / "whole")})
    runs = [run.name for run in make_plan(read_sweep(swept)).runs]
    swept |= {"backend": "ray"}
    told: list[str] = []

    def read_until(text: str) -> None:
        line = ""
        while text not in line:
            line = command.stderr.readline()
            assert line, told
            told.append(line)

    command = started(swept)
    first = at_work(tmp_path / "out")
    os.kill(first, signal.SIGKILL)
    read_until("its process was killed by SIGKILL")
    os.kill(owner(at_work(tmp_path / "out", but=first)), signal.SIGKILL)
    read_until("its worker died; it is started again")
    at_work(tmp_path / "out", but=first)
    command.kill()
    command.wait()

    command = started(swept)
    read_until("begins")
    command.terminate()
    _, err = command.communicate(timeout=300)
    assert command.returncode == 130, err
    said = ("stopping as soon as", "dima: stopped and saved: run the same command to go on")
    assert not [line for line in [*told, *err.splitlines()] if not line.startswith(("toy/walk/", *said))]
    result = dima.sweep(swept | {"backend": "serial"})
    assert [run.status for run in result.runs] == ["finished"] * 6
    for name in runs:
        assert numbers(tmp_path / "out" / name) == numbers(tmp_path / "whole" / name)
    assert not {".ray", "ray_results"} & {child.name for child in (tmp_path / "home").iterdir()}
    names = {"logs", "report.html", "report.csv", "run.lock", "sweep.yaml", "toy"}
    assert {child.name for child in (tmp_path / "out").iterdir()} <= names


def owner(run: int) -> int:
    """The worker of Ray that a run belongs to: the parent of the server that it was forked from."""
    return psutil.Process(run).parent().parent().pid  # type: ignore[union-attr]


def test_trials_that_wait_for_a_place_do_not_keep_a_stopped_sweep() -> None:
    from types import SimpleNamespace

    from dima.sweeps.ray_tune import _Stopped

    for stopping, busy, ends in ((False, False, False), (True, True, False), (True, False, True)):
        assert _Stopped(SimpleNamespace(stopping=stopping, busy=busy)).stop_all() is ends  # type: ignore[arg-type]


def test_what_a_machine_can_never_hold_is_refused(monkeypatch) -> None:
    from dima.sweeps import ray_cluster
    from dima.sweeps.progress import SweepProgress

    told: list[str] = []
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}])
    monkeypatch.setattr(SweepProgress, "message", lambda self, text: told.append(text))
    ray_cluster.require_room({"cpu": 2, "gpu": 0.25}, False, SweepProgress())
    with pytest.raises(ConfigError, match=r"resources\.cpus = 8 is more than the 2 of this machine"):
        ray_cluster.require_room({"cpu": 8, "gpu": 0}, False, SweepProgress())
    ray_cluster.require_room({"cpu": 1, "gpu": 4}, True, SweepProgress())
    assert "resources.gpus = 4 is more than the 1 of any machine of the cluster" in told[0]


def test_a_run_gets_a_gpu_where_there_is_one_and_it_may_use_it(monkeypatch, content) -> None:
    from dima.sweeps import ray_cluster

    def share(resources: dict[str, float], device: str, gpus: int) -> float:
        monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(gpus)})
        read = read_sweep(content({"device": device}, resources=resources))
        return ray_cluster.gpu_share(make_plan(read), read.spec.resources)

    assert share({}, "cpu", 1) == 0 and share({}, "auto", 1) == 1 and share({}, "auto", 0) == 0
    assert share({"gpus": 0.25}, "auto", 1) == 0.25 and share({"gpus": 0}, "auto", 1) == 0


def test_a_cluster_that_is_not_there_is_one_line(content, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Ray cannot be reached at 127\.0\.0\.1:1 .*refused"):
        dima.sweep(content(backend="ray", address="127.0.0.1:1"))
    assert not (tmp_path / "out" / ".ray").exists()
