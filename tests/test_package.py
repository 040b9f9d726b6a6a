"""``import dima`` is light, and its names are what they promise, whatever was imported before."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dima


@pytest.mark.parametrize("name", dima.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dima, name) is not None
    assert name in dir(dima)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        dima.trian  # noqa: B018


def test_functions_are_not_hidden_by_modules_of_their_name():
    program = "import dima.train, dima.evaluate, dima; print(callable(dima.train), callable(dima.evaluate))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
    assert importlib.import_module("dima.train").__name__ == "dima.train"


def test_extras_that_are_named_exist():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set()
    for file in (root / "README.md", *(root / "dima").rglob("*.py")):
        named |= set(re.findall(rf"\b{project['name']}\[(\w+)\]", file.read_text(encoding="utf-8")))
    assert named
    assert named <= project["optional-dependencies"].keys()
