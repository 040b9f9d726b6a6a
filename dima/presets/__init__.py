"""Presets: short files of differences from the Python defaults, ``<algorithm>/<preset>.yaml``.

A file holds fields of the run's config. Two sections narrow further differences down: ``suites`` (by the part of the
task's name before the slash) and ``tasks`` (by its full name). World models share the files of ``model_based``, which
their own refine; so a registered model of the user's own has these presets, too. A registered config class may bring
presets of its own as ``presets``, a mapping of names to such differences. ``published`` is the defaults and needs no
file. A preset that ``extends`` another states what differs from that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dima.algorithms import algorithm_class, in_library
from dima.config import read_yaml
from dima.errors import ConfigError, nearest
from dima.world_models import WORLD_MODELS

PUBLISHED, SMALL, QUICK = "published", "small", "quick"
GPU_SIZED = (PUBLISHED, "sharp", "lean")  # presets that take days without one
MODEL_BASED = "model_based"
_SMALLER = {**dict.fromkeys(GPU_SIZED, SMALL), SMALL: QUICK}
_SECTIONS, _EXTENDS = ("suites", "tasks"), "extends"
_HOME = Path(__file__).parent


def preset_names(algorithm: str) -> list[str]:
    """The presets an algorithm has, ``published`` first."""
    found = {path.stem for folder in _folders(algorithm) for path in (_HOME / folder).glob("*.yaml")}
    return [PUBLISHED, *sorted({*found, *_own(algorithm)} - {PUBLISHED})]


def default_preset(algorithm: str) -> str:
    """``small``, or the defaults of an algorithm that has no such preset."""
    return SMALL if SMALL in preset_names(algorithm) else PUBLISHED


def smaller_preset(algorithm: str, preset: str) -> str | None:
    """The next smaller preset that still learns, if the algorithm has one."""
    smaller = _SMALLER.get(preset)
    return smaller if smaller in preset_names(algorithm) else None


def preset_changes(algorithm: str, preset: str, task: str) -> list[Mapping[str, Any]]:
    """The differences a preset makes for a task, the narrower after the wider.

    Raises:
        ConfigError: there is no such preset, or its file is not valid.
    """
    if preset not in (names := preset_names(algorithm)):
        raise ConfigError(f"the algorithm {algorithm!r} has no preset {preset!r}: {nearest(preset, names)}")
    changes: list[Mapping[str, Any]] = []
    for content in read_preset(algorithm, preset):
        sections = [dict(content.get(name) or {}) for name in _SECTIONS]
        changes.append({name: value for name, value in content.items() if name not in (*_SECTIONS, _EXTENDS)})
        keys = (task.split("/")[0], task)
        changes += [section[key] for section, key in zip(sections, keys, strict=True) if section.get(key)]
    return changes


def read_preset(algorithm: str, preset: str, extending: tuple[str, ...] = ()) -> list[Mapping[str, Any]]:
    """A preset's contents as they stand, the narrower after the wider, those of a preset it extends first.

    Args:
        algorithm: whose preset it is.
        preset: its name.
        extending: presets that extend it.

    Raises:
        ConfigError: a file is not valid YAML, or what it extends does not exist or extends it.
    """
    paths = [_HOME / folder / f"{preset}.yaml" for folder in _folders(algorithm)]
    contents: list[Mapping[str, Any]] = [read_yaml(path) for path in paths if path.is_file()]
    contents += [own[preset]] if preset in (own := _own(algorithm)) else []
    extending, extended = (*extending, preset), list[Mapping[str, Any]]()
    for base in dict.fromkeys(content[_EXTENDS] for content in contents if _EXTENDS in content):
        if base in extending or base not in preset_names(algorithm):
            why = "which extends it" if base in extending else "which does not exist"
            raise ConfigError(f"the preset {preset!r} of {algorithm!r} extends {base!r}, {why}")
        extended += read_preset(algorithm, base, extending)
    return extended + contents


def _folders(algorithm: str) -> list[str]:
    own = [] if ":" in algorithm else [algorithm]  # files are for names
    return [MODEL_BASED, *own] if _is_world_model(algorithm) else own


def _is_world_model(algorithm: str) -> bool:
    """Whether a name is that of a world model; the library's are known without importing them."""
    if in_library(algorithm):
        return algorithm in WORLD_MODELS.library
    from dima.world_models.base import WorldModelConfig

    return issubclass(algorithm_class(algorithm), WorldModelConfig)


def _own(algorithm: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets that the config class brings itself; the library's are files."""
    return {} if in_library(algorithm) else getattr(algorithm_class(algorithm), "presets", {})
