"""Random episodes of toy worlds, cut into segments once for all tests, which do not change them."""

from __future__ import annotations

import pytest

from tests.analysis.diagnose.worlds import Case


@pytest.fixture(scope="session")
def walk() -> Case:
    return Case("toy/walk")


@pytest.fixture(scope="session")
def linear() -> Case:
    return Case("toy/linear")


@pytest.fixture(scope="session")
def trio() -> Case:
    return Case("toy/linear", episodes=8, count=30, n_agents=3)
