"""Run folders without the running: the library's own writer, fed with made-up iterations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dima.storage.run_folder import RunFolder
from dima.training.run_config import build_config


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run folder of iterations of 100 steps, evaluated after each; returns its path."""

    def write(
        root: Path,
        name: str,
        returns: Sequence[float | None],
        *,
        task: str = "toy/walk",
        algorithm: str = "mappo",
        seed: int = 0,
        steps: int | None = None,
        first: int = 100,
        event: dict[str, Any] | None = None,
        protocol: dict[str, Any] | None = None,
        success: Sequence[float] = (),
        **overrides: Any,
    ) -> Path:
        target = 100 * (len(returns) or 1) if steps is None else steps
        fixed = {"seed": seed, "steps": target, "tensorboard": False}
        config = build_config(task, algorithm, "debug", fixed | overrides)
        path = root / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dima.runtime.provenance._git", lambda *command: None)  # the commit is made up below
            folder = RunFolder.create(path, config.to_dict())
        with folder:
            for number, value in enumerate(returns):
                record = {"step": first + 100 * number, "iteration": number + 1, "collect/return": 0.0}
                record |= {"evaluate/success": success[number], "evaluate/std": 0.1} if success else {}
                clock = {"time/iteration": 2.0, "time/collect": 0.5, "time/update": 1.0, "updates/update": 4}
                folder.log(record | ({} if value is None else {"evaluate/return": value}) | clock)
            if event is not None:
                folder.log(event)
        facts = json.loads((path / "protocol.json").read_text())
        facts |= {"commit": {"id": "0123456789abcdef", "dirty": False}} | (protocol or {})
        (path / "protocol.json").write_text(json.dumps(facts))
        return path

    return write


@pytest.fixture
def make_run(write_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """The same in this test's own folder ``runs``."""
    return partial(write_run, tmp_path / "runs")
