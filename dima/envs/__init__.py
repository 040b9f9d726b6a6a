"""Environments: ``make_env("suite/name")`` gives any of them as one team, a :class:`~dima.envs.base.JointEnv`.

A suite is a module or an object with ``CONFIG`` (its settings class), ``make(name, config, render_mode)``, ``tasks()``
and, where its states can be drawn, ``scene(parallel_env, width, height)``; a new one is a row in ``TASKS``, or an entry
point ``dima.tasks`` of a package. :func:`register_task` names a single environment. ``package.module:factory`` is an
environment of the user's own without a name; in a file that is data until the user agrees, see :mod:`dima.registry`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from dima.config import Config, shown
from dima.envs.base import AdapterConfig, JointEnv, TaskInfo
from dima.envs.pettingzoo import RegisteredTask
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, EnvError, nearest, one_line
from dima.registry import Named, Registry, agreed, given_object, keep, typed_name

F = TypeVar("F", bound=Callable[..., Any])


class Suite(Protocol):
    """Tasks of one kind; a module will do."""

    CONFIG: type[Config]  # the settings of its environments

    def make(self, name: str, config: Any, render_mode: str | None) -> Any:
        """The PettingZoo environment of a task, whose name is that behind the slash."""

    def tasks(self) -> list[TaskInfo]:
        """Its tasks, for `dima tasks`."""


TASKS: Registry[Suite] = Registry(  # imported when first used: simulators are heavy
    "suite",
    "dima.tasks",
    {
        "dexhands": "dima.envs.dexhands.env",
        "mamujoco": "dima.envs.mujoco.env",
        "mpe": "dima.envs.mpe",
        "pettingzoo": "dima.envs.pettingzoo",
        "smax": "dima.envs.smax",
        "toy": "dima.envs.toy",
    },
)


def register_task(name: str, *, config: type[Config] | None = None) -> Callable[[F], F]:
    """Decorator that registers a function or class that makes a PettingZoo environment.

    Args:
        name: of the task, such as ``lab/maze``.
        config: a settings class, whose fields become flags (``--env.size 3``). The factory is called with an instance
            of it; without one, with nothing. One that derives from :class:`~dima.envs.base.AdapterConfig` also has the
            adapter's, such as ``--env.episode-limit``. The factory is also given ``render_mode`` if it takes that.

    Raises:
        ConfigError: the name is taken, or is not of the form suite/name.
    """
    suite, _, rest = name.partition("/")
    if not (suite and rest):
        raise ConfigError(f"task {name!r} is not of the form suite/name")
    if suite in TASKS.library:
        raise ConfigError(f"task {name!r}: the suite {suite!r} is the library's: choose another")

    def decorate(factory: F) -> F:
        TASKS.register(name)(RegisteredTask(name, factory, config))
        return factory

    return decorate


def make_env(task: str, config: Config | None = None, *, render_mode: str | None = None) -> JointEnv:
    """The environment of a task, as padded arrays of a team.

    Args:
        task: ``suite/name``, or ``package.module:factory``; where it stands in a file, consent is asked for first.
        config: settings of the suite's own class, see :func:`suite_config`; None for its defaults.
        render_mode: how it draws, as in Gymnasium; ``rgb_array`` for videos.

    Raises:
        ConfigError: the task does not exist (the nearest right name is told), the settings are another suite's, or the
            user has not agreed to a name that stands in a file.
        EnvError: the environment cannot be built or handled.
    """
    parallel_env = make_parallel_env(task, config, render_mode=render_mode)
    return JointEnv(
        parallel_env,
        name=task,
        config=config if isinstance(config, AdapterConfig) else None,
        make=partial(make_env, task, config),
    )


def env_maker(task: str, config: Config | None = None) -> Callable[[], JointEnv]:
    """What makes environments of a task, also in processes that do not know an object that the user gave here."""
    value = given_object(task)
    return partial(make_env, task, config) if value is None else partial(_make_given, value, task, config)


def _make_given(value: Any, task: str, config: Config | None) -> JointEnv:
    if given_object(task) is None:
        keep(task, value)
    return make_env(task, config)


def make_parallel_env(task: str, config: Config | None = None, *, render_mode: str | None = None) -> Any:
    """The PettingZoo ``ParallelEnv`` of a task, before any adaptation; arguments as for :func:`make_env`."""
    suite, name = _find(task)
    if config is not None and not isinstance(config, suite.CONFIG):
        raise ConfigError(
            f"{task} takes settings of type {suite.CONFIG.__name__}, not {type(config).__name__}: "
            "see dima.envs.suite_config"
        )
    config = suite.CONFIG() if config is None else config
    agreed_name = agreed_task(task, config.to_dict())
    return suite.make(agreed_name if ":" in task else name, config, render_mode)


def agreed_task(
    task: str,
    env: Mapping[str, object],
    typed: Named | None = None,
    where: object = "the file",
    repeat: str | None = None,
) -> str:
    """The name of a task whose environment may be built, see :func:`dima.registry.agreed`.

    Args:
        task: the name.
        env: settings of its environment, out of the same file.
        typed: the name that the user typed, or the object that they gave, beside the file, if any.
        where: what the name stands in, for messages.
        repeat: how the user repeats the name, for messages.

    Raises:
        ConfigError: the user has not agreed to it. Nothing was imported.
    """
    passes_arguments = ":" in task or task.startswith("pettingzoo/")
    arguments = str(env.get("arguments", "{}")) if passes_arguments else "{}"
    return agreed("task", task, typed_name(typed), where, arguments, repeat)


def make_scene(task: str, env: JointEnv, width: int = 320, height: int = 240) -> Scene[Any]:
    """Draws an environment, as it is and as states describe it, real or imagined.

    Args:
        task: its name.
        env: made by :func:`make_env`; it is looked at, never stepped.
        width: of a picture in pixels.
        height: likewise.

    Raises:
        EnvError: there is no scene of it, or this machine has nothing to draw with.
    """
    suite = _find(task)[0]
    scene: Scene[Any] | None = suite.scene(env.parallel_env, width, height) if hasattr(suite, "scene") else None
    if scene is None:
        raise EnvError(f"{task}: its states cannot be drawn: give its environment a method scene(width, height)")
    return scene


def suite_config(task: str) -> type[Config]:
    """The settings class of the suite a task belongs to.

    Raises:
        ConfigError: there is no such suite.
    """
    return _find(task)[0].CONFIG


def all_tasks() -> list[TaskInfo]:
    """Every task that has a name here. PettingZoo's own and the user's are beyond counting.

    A package whose suite fails is left out, with a line on standard error.
    """
    found: list[TaskInfo] = []
    for name in TASKS.names():
        try:
            tasks = [info for info in _load(name).tasks() if isinstance(info, TaskInfo)]
        except Exception as error:  # whatever a package of somebody else raises
            if name in TASKS.library:
                raise
            why = str(error) if isinstance(error, ConfigError) else one_line(error)
            print(f"dima: the tasks of {name} are left out: {why}", file=sys.stderr)
        else:
            found += tasks
    return found


def _find(task: str) -> tuple[Suite, str]:
    """The suite of a task, and the task's name within it."""
    if ":" in task:
        return _load("pettingzoo"), str(task)
    suite, slash, name = task.partition("/")
    if slash and suite not in TASKS.library and task in TASKS:  # registered by itself
        return _load(str(task)), name
    if not slash:
        known = [info.name for info in all_tasks()]
        raise ConfigError(
            f"task {shown(str(task))} is neither suite/name nor package.module:factory: {nearest(task, known)}"
        )
    if suite not in TASKS:
        raise ConfigError(f"task {shown(str(task))}: no suite {shown(suite)}: {nearest(suite, _suites())}")
    return _load(suite), name


def _suites() -> set[str]:
    return {name.partition("/")[0] for name in TASKS.names()}


def _load(name: str) -> Suite:
    """What a registered name stands for.

    Raises:
        ConfigError: a package's suite cannot be imported, or is none.
        EnvError: a simulator cannot be imported, such as MuJoCo where ``MUJOCO_GL`` asks for what is not there.
    """
    try:
        suite = TASKS.get(name)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise EnvError(f"the tasks {name}/... cannot be used here: {why}") from error
    if "/" in name and callable(suite):  # an entry point that names a factory
        return RegisteredTask(name, suite)
    if missing := [part for part in ("CONFIG", "make", "tasks") if not hasattr(suite, part)]:
        raise ConfigError(f"the suite {name!r} has no {' and no '.join(missing)}: see dima.envs")
    return suite
