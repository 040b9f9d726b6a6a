"""Rooms stand in the order in which data flows: a file imports from its own room or from rooms above it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dima"
ROOMS = (
    *("errors", "version", "config", "registry", "data", "runtime", "nn", "envs", "policies", "experience"),
    *("world_models", "algorithms", "presets", "storage", "datasets", "training", "agent", "sharing", "recording"),
    *("analysis", "sweeps", "__init__", "cli", "__main__"),
)


def name_of(path: Path) -> str:
    """``dima.envs.base`` of a file; a package's name for its ``__init__``."""
    parts = ["dima", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def room(module: str) -> str:
    return (*module.split("."), "__init__")[1]


def imported(path: Path) -> set[str]:
    """Modules of the library that a file imports anywhere, also for type checkers."""
    named = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by full names"
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in named:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found |= {name} - {""}
    return found - {name_of(path)}


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in MODULES} == set(ROOMS)
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("of", ROOMS)
def test_a_room_imports_from_itself_and_rooms_above(of: str) -> None:
    allowed = ROOMS[: ROOMS.index(of) + 1]
    against = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if room(module) == of and room(other) not in allowed
    ]
    assert not against


def test_no_files_import_each_other() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
