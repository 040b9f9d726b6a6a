"""Any PettingZoo environment: ``pettingzoo/<family>.<module>`` or the user's own ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pettingzoo
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from dima.config import Config, shown
from dima.envs.base import TaskInfo
from dima.envs.checked import one_line
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, EnvError, UserError, nearest

_ENVIRONMENT = re.compile(r"(atari|butterfly|classic|sisl)\.[a-z0-9_]+_v\d+")  # its modules that are environments


@dataclass(frozen=True)
class PettingZooConfig(Config):
    """Arguments of the environment's factory."""

    arguments: str = "{}"  # keyword arguments of the factory, a JSON object such as {"n_walkers": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keywords()

    def keywords(self) -> dict[str, Any]:
        """``arguments`` as a dictionary."""
        try:
            keywords = json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"arguments = {shown(self.arguments)} is not JSON ({error})") from None
        if not isinstance(keywords, dict):
            raise ConfigError(f"arguments = {shown(self.arguments)} does not fit: expected a JSON object such as {{}}")
        return keywords


CONFIG = PettingZooConfig


def make(task: str, config: PettingZooConfig, render_mode: str | None = None) -> ParallelEnv[Any, Any, Any]:
    """Build ``pettingzoo/<task>``, or ``package.module:factory``.

    A factory is a function or class that takes ``arguments`` and returns a ``ParallelEnv`` or ``AECEnv``.
    ``render_mode`` is passed if it takes one.

    Raises:
        EnvError: it cannot be imported (with the closest name), raises, or returns something else.
    """
    if ":" in task:
        path, _, attribute = task.partition(":")
        _search_working_directory()
        module = _module(path, task)
    else:
        path, task = f"pettingzoo.{task}", f"pettingzoo/{task}"
        _require_environment(path, task)
        module = _module(path, task)
        attribute = "parallel_env" if hasattr(module, "parallel_env") else "env"
    factory = _attribute(module, attribute, task)
    keywords = config.keywords()
    if render_mode is not None and _takes(factory, "render_mode"):
        keywords.setdefault("render_mode", render_mode)
    try:
        env = factory(**keywords)
    except UserError:
        raise
    except Exception as error:
        raise EnvError(
            f"{task}: {attribute}({_shown(keywords)}) raised {one_line(error)}: fix the factory or its arguments"
        ) from error
    if isinstance(env, AECEnv):
        try:
            converted: ParallelEnv[Any, Any, Any] = aec_to_parallel(env)
            return converted
        except Exception as error:
            raise EnvError(
                f"{task} is turn-based (AECEnv) and cannot be played in parallel ({one_line(error)}): "
                "only environments whose metadata say is_parallelizable can"
            ) from error
    if isinstance(env, ParallelEnv) or _is_parallel(env):
        parallel: ParallelEnv[Any, Any, Any] = env
        return parallel
    raise EnvError(
        f"{task}: {attribute}() returned a {type(env).__name__}: expected a PettingZoo ParallelEnv or AECEnv"
    )


def scene(parallel_env: Any, width: int, height: int) -> Scene[Any] | None:
    """Call the environment's own method ``scene(width, height)``; None if it has none."""
    if not hasattr(parallel_env, "scene"):
        return None
    own = parallel_env.scene(width, height)
    if not isinstance(own, Scene):
        raise EnvError(
            f"scene() returned a {type(own).__name__}: return a dima.envs.render.scene.Scene, or drop the method"
        )
    return own


def tasks() -> list[TaskInfo]:
    """The forms of names in this suite, whose environments are not listed."""
    return [
        TaskInfo("pettingzoo/<family>.<module>", None, "PettingZoo's own, such as pettingzoo/sisl.multiwalker_v9"),
        TaskInfo("<package>.<module>:<factory>", None, "your own: a function or class that returns a ParallelEnv"),
    ]


def _require_environment(path: str, task: str) -> None:
    """Refuse modules that are not PettingZoo environments, without importing them."""
    family, _, name = path.removeprefix("pettingzoo.").rpartition(".")
    folders = [os.path.join(home, family) for home in pettingzoo.__path__ if family.isidentifier()]
    known = [info.name for info in pkgutil.iter_modules(folders) if _ENVIRONMENT.fullmatch(f"{family}.{info.name}")]
    if name not in known:
        hint = nearest(name, known) if known else "write pettingzoo/<family>.<module>, such as sisl.multiwalker_v9"
        raise EnvError(f"{task}: there is no module {path!r} of an environment: {hint}")


def _search_working_directory() -> None:
    """Also import the user's modules from the working directory."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _module(path: str, task: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(error.name + ".")):
            raise EnvError(f"{task}: there is no module {error.name!r}: {_module_hint(error.name)}") from error
        raise EnvError(f"{task}: {path} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:
        raise EnvError(f"{task}: importing {path} raised {one_line(error)}: fix the module") from error


def _module_hint(path: str) -> str:
    """Hint at the modules next to a missing one."""
    parent, _, name = path.rpartition(".")
    if not parent:
        return "install it, or run from the folder it lies in"
    package = importlib.import_module(parent)
    return nearest(name, (info.name for info in pkgutil.iter_modules(getattr(package, "__path__", []))))


def _attribute(module: ModuleType, attribute: str, task: str) -> Any:
    factory: Any = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            known = [name for name in dir(factory) if callable(getattr(factory, name)) and not name.startswith("_")]
            raise EnvError(f"{task}: {module.__name__} has no {attribute!r}: {nearest(part, known)}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise EnvError(f"{task}: {attribute} is a {type(factory).__name__}: expected a function or class")
    return factory


def _takes(factory: Any, keyword: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == keyword or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _is_parallel(env: Any) -> bool:
    """By its methods: wrappers of other packages may not derive from PettingZoo's class."""
    return all(hasattr(env, name) for name in ("possible_agents", "reset", "step", "observation_space", "action_space"))


def _shown(keywords: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in keywords.items())
