"""Tasks that are given as classes, functions or modules instead of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from dima.config import nested
from dima.envs.arguments import is_json
from dima.errors import ConfigError
from dima.registry import give

Task = str | Callable[..., Any] | ModuleType


def named_task(task: Task, overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a task, and the overrides with the arguments that came with it.

    Args:
        task: a name; or what makes its environment, which is remembered by its name: a class, a function, a
            ``functools.partial`` of one, or a module of PettingZoo.
        overrides: by dotted names, or nested.

    Raises:
        ConfigError: it is something else, such as an environment.
    """
    changes = nested(overrides)
    if isinstance(task, str):
        return task, changes
    if isinstance(task, ModuleType):
        if not hasattr(task, "parallel_env"):
            raise ConfigError(f"the module {task.__name__} has no parallel_env: give a class or function of it")
        task = task.parallel_env
    if not callable(task):
        kind = type(task).__name__
        if hasattr(task, "reset") and hasattr(task, "step"):
            raise ConfigError(f"task is an environment: give its class, {kind}, or a function: a run makes several")
        raise ConfigError(f"task is of type {kind}: expected a name, a class or function, or a config")
    if isinstance(task, partial) and not task.args and is_json(task.keywords):
        changes["env"] = {**task.keywords, **changes.get("env", {})}
        task = task.func
    return give(task), changes
