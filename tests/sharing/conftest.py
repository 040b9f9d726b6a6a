"""A run to share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dima.training.online import train


@pytest.fixture
def walker(tiny) -> Path:
    """The folder of a short run on toy/walk."""
    return train(tiny(algorithm="mappo", steps=120, evaluate_every=60)).folder
