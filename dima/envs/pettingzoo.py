"""Any PettingZoo environment: ``pettingzoo/<family>.<module>``, or what a factory of the user's own makes.

A factory is named ``package.module:factory``, or registered under a task's name.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dima.config import Config, shown
from dima.envs.base import AdapterConfig, TaskInfo
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, EnvError, UserError, nearest, one_line
from dima.registry import load_attribute, load_module, load_name

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

_ENVIRONMENT = re.compile(r"(atari|butterfly|classic|sisl)\.[a-z0-9_]+_v\d+")  # its modules that are environments


@dataclass(frozen=True)
class PettingZooConfig(AdapterConfig):
    """Arguments of the environment's factory, and settings of the adapter."""

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
    task, attribute, factory = find_factory(task)
    env = _call(task, attribute, factory, (), config.keywords(), render_mode)
    if task == "pettingzoo/butterfly.knights_archers_zombies_v11":
        _restart_clock(env.unwrapped)
    return env


def find_factory(task: str) -> tuple[str, str, Callable[..., Any]]:
    """A task's whole name, and the factory of its environment with the name that it has in its module."""
    if ":" in task:
        return task, task.partition(":")[2], load_name(task, EnvError)
    path, task = f"pettingzoo.{task}", f"pettingzoo/{task}"
    _require_environment(path, task)
    module = load_module(path, task, EnvError)
    attribute = "parallel_env" if hasattr(module, "parallel_env") else "env"
    return task, attribute, load_attribute(module, attribute, task, EnvError)


def _restart_clock(env: Any) -> None:
    """Let a reset also restart the clock of new zombies, which decides with the seed when they come."""
    reinit = env.reinit

    def reinit_with_clock() -> None:
        env.zombie_spawn_interval.reset()
        reinit()

    env.reinit = reinit_with_clock


class RegisteredTask:
    """A suite of one task, whose environment a registered factory makes.

    Args:
        name: of the task, ``suite/name``.
        factory: called with an instance of ``config``, or with nothing where that is None.
        config: a settings class.
    """

    def __init__(self, name: str, factory: Callable[..., Any], config: type[Config] | None = None) -> None:
        self.name, self.factory = name, factory
        self.CONFIG: type[Config] = config or AdapterConfig
        self.__qualname__ = getattr(factory, "__qualname__", repr(factory))  # says whether two are the same
        self.scene = scene

    def make(self, name: str, config: Config, render_mode: str | None = None) -> ParallelEnv[Any, Any, Any]:
        """The environment; errors as for those without a name."""
        given = () if self.CONFIG is AdapterConfig else (config,)
        return _call(self.name, self.__qualname__, self.factory, given, {}, render_mode)

    def tasks(self) -> list[TaskInfo]:
        """The one task, with the first line of the factory's docstring."""
        note = (inspect.getdoc(self.factory) or "").partition("\n")[0].rstrip(".")
        return [TaskInfo(self.name, None, note)]


def _call(
    task: str,
    attribute: str,
    factory: Callable[..., Any],
    given: tuple[Any, ...],
    keywords: dict[str, Any],
    render_mode: str | None,
) -> ParallelEnv[Any, Any, Any]:
    """The environment that a factory makes."""
    from pettingzoo import AECEnv, ParallelEnv  # here, so that exported policies act without it
    from pettingzoo.utils.conversions import aec_to_parallel

    if render_mode is not None and takes(factory, "render_mode"):
        keywords.setdefault("render_mode", render_mode)
    try:
        env = factory(*given, **keywords)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        shown_arguments = ", ".join([*map(repr, given), *(f"{name}={value!r}" for name, value in keywords.items())])
        raise EnvError(
            f"{task}: {attribute}({shown_arguments}) raised {one_line(error)}: fix the factory or its arguments"
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
    import pettingzoo

    family, _, name = path.removeprefix("pettingzoo.").rpartition(".")
    folders = [os.path.join(home, family) for home in pettingzoo.__path__ if family.isidentifier()]
    known = [info.name for info in pkgutil.iter_modules(folders) if _ENVIRONMENT.fullmatch(f"{family}.{info.name}")]
    if name not in known:
        hint = nearest(name, known) if known else "write pettingzoo/<family>.<module>, such as sisl.multiwalker_v9"
        raise EnvError(f"{task}: there is no module {path!r} of an environment: {hint}")


def takes(factory: Any, keyword: str) -> bool:
    """Whether a factory takes a keyword argument."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == keyword or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _is_parallel(env: Any) -> bool:
    """By its methods: wrappers of other packages may not derive from PettingZoo's class."""
    names = ("possible_agents", "reset", "step", "observation_space", "action_space")
    return all(hasattr(type(env), name) or hasattr(env, name) for name in names)
