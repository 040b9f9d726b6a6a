"""``import dima`` is light, and its names are what they promise, whatever was imported before."""

import re
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


def test_extras_that_are_named_exist():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set()
    for file in (root / "README.md", *(root / "dima").rglob("*.py")):
        named |= set(re.findall(rf"\b{project['name']}\[(\w+)\]", file.read_text(encoding="utf-8")))
    assert named
    assert named <= project["optional-dependencies"].keys()
