"""Presets: short files of differences from the Python defaults, ``<algorithm>/<preset>.yaml``.

A file holds fields of the run's config. Two sections narrow further differences down: ``suites`` (by the part of the
task's name before the slash) and ``tasks`` (by its full name). ``published`` is the defaults and needs no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dima.config import read_yaml
from dima.errors import ConfigError, nearest

PUBLISHED = "published"
_SECTIONS = ("suites", "tasks")


def preset_names(algorithm: str) -> list[str]:
    """The presets an algorithm has, ``published`` first."""
    found = sorted(path.stem for path in (_home() / algorithm).glob("*.yaml"))
    return [PUBLISHED, *(name for name in found if name != PUBLISHED)]


def preset_changes(algorithm: str, preset: str, task: str) -> list[Mapping[str, Any]]:
    """The differences a preset makes for a task, the narrower after the wider.

    Raises:
        ConfigError: there is no such preset, or its file is not valid.
    """
    if preset not in preset_names(algorithm):
        hint = nearest(preset, preset_names(algorithm))
        raise ConfigError(f"the algorithm {algorithm!r} has no preset {preset!r}: {hint}")
    content = read_preset(algorithm, preset)
    sections = [content.pop(name, None) or {} for name in _SECTIONS]
    keys = (task.split("/")[0], task)
    return [content, *(section[key] for section, key in zip(sections, keys, strict=True) if section.get(key))]


def read_preset(algorithm: str, preset: str) -> dict[str, Any]:
    """A preset's file as it stands; empty when it has none.

    Raises:
        ConfigError: it is not valid YAML.
    """
    path = _home() / algorithm / f"{preset}.yaml"
    return read_yaml(path) if path.is_file() else {}


def _home() -> Path:
    return Path(__file__).parent
