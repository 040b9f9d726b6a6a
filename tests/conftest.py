"""What tests of whole runs share: runs small enough for seconds, one CPU thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dima.algorithms import ALGORITHMS, algorithm_names
from dima.recording.config import RecordConfig, record_config
from dima.training.run_config import TrainConfig, build_config
from dima.world_models import WORLD_MODELS

EXAMPLES = Path(__file__).parents[1] / "examples"
ON_ANY_TASK = sorted(set(algorithm_names()) - {"oracle"})  # that one needs a simulator whose state can be set


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., TrainConfig]:
    """Builds the config of a tiny run in a temporary folder, from a task, an algorithm and overrides."""

    def build(task: str = "toy/walk", algorithm: str = "dima", run: str = "run", **overrides: Any) -> TrainConfig:
        fixed = {"run": str(tmp_path / run), "device": "cpu", "threads": 1, "tensorboard": False}
        fixed |= {"checkpoint_budget": 1.0}  # every iteration is saved, however slow the machine is
        return build_config(task, algorithm, "debug", fixed | overrides)

    return build


@pytest.fixture
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples can be imported; afterwards nobody knows of them."""
    before = [(registry, dict(registry._registered)) for registry in (ALGORITHMS, WORLD_MODELS)]
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for registry, names in before:
        registry._registered = names
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., RecordConfig]:
    """Builds the config of a small recording in a temporary folder, from a task and overrides."""

    def build(task: str = "toy/walk", out: str = "data", **overrides: Any) -> RecordConfig:
        return record_config(task).override({"out": str(tmp_path / out), "device": "cpu", "steps": 60, **overrides})

    return build


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are fastest on one thread, and results do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Copies of the process may work beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
