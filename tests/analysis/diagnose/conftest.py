"""Segments of toy tasks, cut once for all tests, which do not change them."""

from __future__ import annotations

import pytest

from dima.data import EnvSpec
from dima.envs import make_env
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


@pytest.fixture(scope="session")
def spec() -> EnvSpec:
    """Of toy/walk."""
    return make_env("toy/walk").spec
