"""Sweeps small enough for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dima.storage.run_folder import RunFolder

SETTINGS = {"steps": 200, "evaluate_every": 100, "evaluation_episodes": 1, "threads": 1, "device": "cpu"}
SETTINGS |= {"tensorboard": False, "checkpoint_budget": 1.0}


@pytest.fixture
def content(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The content of a sweep's file: one run of `mappo`, with changes; settings are added to those of a tiny run."""

    def build(settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        base = {"tasks": ["toy/walk"], "algorithms": ["mappo"], "presets": ["debug"], "out": str(tmp_path / "out")}
        return base | {"backend": "serial", "settings": SETTINGS | (settings or {})} | changes

    return build


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, apart from clocks and events."""
    records = RunFolder.open(folder).records()
    plain = [record for record in records if "event" not in record]
    return [{name: value for name, value in one.items() if not name.startswith("time/")} for one in plain]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command on a sweep's content, in a session of its own."""
    running = []

    def start(content: dict[str, Any], *args: str) -> subprocess.Popen[str]:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [sys.executable, "-m", "dima", "sweep", str(path), *args]
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | {"HOME": str(home)}}
        running.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def at_work(out: Path, but: int = 0) -> int:
    """Process id of a run that has saved an iteration and is at work, other than that of ``but``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for lock in out.glob("toy/walk/*/run.lock"):
            text = lock.read_text() if (lock.parent / "checkpoint").exists() else ""
            if text and int(text) != but and psutil.pid_exists(int(text)):
                return int(text)
        time.sleep(0.02)
    raise AssertionError("no run began")


def iterations(folder: Path) -> int:
    return max((one.get("iteration", 0) for one in RunFolder.open(folder).records()), default=0)
