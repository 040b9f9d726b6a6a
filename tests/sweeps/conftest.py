"""Sweeps small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {"steps": 200, "evaluate_every": 100, "evaluation_episodes": 1, "threads": 1, "device": "cpu"}
SETTINGS |= {"tensorboard": False, "checkpoint_budget": 1.0}


@pytest.fixture
def content(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The content of a sweep's file: one run of `mappo`, with changes; settings are added to those of a tiny run."""

    def build(settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        base = {"tasks": ["toy/walk"], "algorithms": ["mappo"], "presets": ["debug"], "out": str(tmp_path / "out")}
        return base | {"backend": "serial", "settings": SETTINGS | (settings or {})} | changes

    return build
