"""Arguments of a factory among the settings of its environment."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dima.config import shown
from dima.envs.pettingzoo import PettingZooConfig, find_factory, takes
from dima.errors import ConfigError, nearest


def gather_arguments(task: str, config: PettingZooConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the config has them: what is no field of it is an argument of the factory.

    Args:
        task: ``package.module:factory`` or ``pettingzoo/<family>.<module>``; its factory is imported.
        config: whose ``arguments`` are kept where the settings name no others.
        settings: by name; ``arguments`` may be a mapping.

    Raises:
        ConfigError: the factory takes no such argument (the nearest right name is suggested), or a value is none that
            config.yaml can keep.
        EnvError: the factory cannot be imported.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    own = {name: value for name, value in settings.items() if name not in fields}
    kept = {name: value for name, value in settings.items() if name in fields}
    if isinstance(kept.get("arguments"), Mapping):
        own = {**kept.pop("arguments"), **own}
    if not own:
        return kept
    _, attribute, factory = find_factory(task.removeprefix("pettingzoo/"))
    for name, value in own.items():
        if not takes(factory, name):
            hint = nearest(name, {*_parameters(factory), *fields} - {"arguments", "render_mode"})
            raise ConfigError(f"env.{name} is neither an argument of {attribute} nor a setting of its adapter: {hint}")
        if not is_json(value):
            raise ConfigError(
                f"env.{name} = {shown(value)} cannot be kept in config.yaml: give finite numbers, text, lists or "
                "dictionaries, or a function that makes the environment and needs no such argument"
            )
    earlier = PettingZooConfig(arguments=kept["arguments"]) if isinstance(kept.get("arguments"), str) else config
    return kept | {"arguments": json.dumps(earlier.keywords() | own, default=_plain)}


def is_json(value: Any) -> bool:
    """Whether a value can be kept as JSON; tuples become lists."""
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    """A NumPy scalar as a number, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError


def _parameters(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
