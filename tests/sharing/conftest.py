"""A run to share, and cards to forge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, safe_open, save_file

from dima.training.online import train


@pytest.fixture
def walker(tiny) -> Path:
    """The folder of a short run on toy/walk."""
    return train(tiny(algorithm="mappo", steps=120, evaluate_every=60)).folder


@pytest.fixture
def change() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Rewrites a safetensors file with another card."""

    def rewrite(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
        with safe_open(file, "pt") as held:
            card = json.loads(held.metadata()["dima"])
        edit(card)
        save_file(load_file(file), file, {"dima": json.dumps(card)})

    return rewrite
