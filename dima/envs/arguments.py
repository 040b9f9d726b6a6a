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
    kept, own = split_arguments(settings, type(config))
    if not own:
        return kept
    # a name with a colon as it is: it may remember that it must not be looked up in the working directory
    _, attribute, factory = find_factory(task if ":" in task else task.removeprefix("pettingzoo/"))
    for name, value in own.items():
        if not takes(factory, name):
            known = {*_parameters(factory), *(field.name for field in dataclasses.fields(config))}
            hint = nearest(name, known - {"arguments", "render_mode"})
            raise ConfigError(f"env.{name} is neither an argument of {attribute} nor a setting of its adapter: {hint}")
        if not is_json(value):
            raise ConfigError(
                f"env.{name} = {shown(value)} cannot be kept in config.yaml: give finite numbers, text, lists or "
                "dictionaries, or a function that makes the environment and needs no such argument"
            )
    earlier = PettingZooConfig(arguments=kept["arguments"]) if isinstance(kept.get("arguments"), str) else config
    return kept | {"arguments": json.dumps(earlier.keywords() | own, default=_plain)}


def split_arguments(
    settings: Mapping[str, Any], config: type[PettingZooConfig] = PettingZooConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of an adapter, and what is none of them: arguments of the factory.

    Args:
        settings: by name; a mapping of ``arguments`` belongs to the second.
        config: of the adapter.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    kept = {name: value for name, value in settings.items() if name in fields}
    own = {name: value for name, value in settings.items() if name not in fields}
    if isinstance(kept.get("arguments"), Mapping):
        own = {**kept.pop("arguments"), **own}
    return kept, own


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
