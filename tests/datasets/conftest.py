"""What tests of datasets share: small recordings, one CPU thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dima.recording.config import RecordConfig, record_config


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    return


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., RecordConfig]:
    """Builds the config of a small recording in a temporary folder, from a task and overrides."""

    def build(task: str = "toy/walk", out: str = "data", **overrides: Any) -> RecordConfig:
        fixed = {"out": str(tmp_path / out), "device": "cpu", "steps": 60}
        return record_config(task).override(fixed | overrides)

    return build
