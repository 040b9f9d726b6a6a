"""Fixtures for tests of storage: a run folder with three iterations."""

from __future__ import annotations

import shutil

import pytest

from dima.storage.run_folder import RunFolder
from tests.storage.runs import CONFIG, chunk, state


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with three finished iterations; iteration i has chunk i - 1."""
    path = tmp_path_factory.mktemp("template") / "run"
    with RunFolder.create(path, CONFIG) as folder:
        for i in (1, 2, 3):
            folder.log({"step": 10 * i, "iteration": i})
            folder.save(state(i), [chunk(i)])
    return path


@pytest.fixture
def run(template, tmp_path):
    """A copy of the template to do harm to."""
    return shutil.copytree(template, tmp_path / "run")
