"""Environments: ``make_env("suite/name")`` gives any of them as one team, a :class:`~dima.envs.base.JointEnv`.

A suite is a module with ``CONFIG`` (its settings class), ``make(task, config, render_mode)``, ``tasks()`` and, where
its states can be drawn, ``scene(parallel_env, width, height)``; a new one is a file here and a row in ``SUITES``.
``package.module:factory`` names an environment of the user's own. A name that stands in a file is data until the user
agrees, see :mod:`dima.envs.consent`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from dima.config import Config, shown
from dima.envs.base import JointEnv, TaskInfo
from dima.envs.consent import agreed
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, EnvError, nearest

SUITES = {  # imported when first used: simulators are heavy
    "mamujoco": "dima.envs.mujoco.env",
    "mpe": "dima.envs.mpe",
    "pettingzoo": "dima.envs.pettingzoo",
    "toy": "dima.envs.toy",
}


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
    return JointEnv(make_parallel_env(task, config, render_mode=render_mode), name=task)


def make_parallel_env(task: str, config: Config | None = None, *, render_mode: str | None = None) -> Any:
    """The PettingZoo ``ParallelEnv`` of a task, before any adaptation; arguments as for :func:`make_env`."""
    suite, name = _split(task)
    module = _module(suite)
    if config is not None and not isinstance(config, module.CONFIG):
        raise ConfigError(
            f"{task} takes settings of type {module.CONFIG.__name__}, not {type(config).__name__}: "
            "see dima.envs.suite_config"
        )
    config = module.CONFIG() if config is None else config
    agreed(task, config.to_dict())
    return module.make(name, config, render_mode)


def make_scene(task: str, env: JointEnv, width: int = 320, height: int = 240) -> Scene[Any]:
    """Draws an environment, as it is and as states describe it, real or imagined.

    Args:
        task: its name.
        env: made by :func:`make_env`; it is looked at, never stepped.
        width: of a picture in pixels.
        height: likewise.

    Raises:
        EnvError: its states cannot be drawn, or this machine has nothing to draw with.
    """
    module = _module(_split(task)[0])
    scene: Scene[Any] | None = module.scene(env.parallel_env, width, height) if hasattr(module, "scene") else None
    if scene is None:
        raise EnvError(f"{task}: its states cannot be drawn: give its environment a method scene(width, height)")
    return scene


def suite_config(task: str) -> type[Config]:
    """The settings class of the suite a task belongs to.

    Raises:
        ConfigError: there is no such suite.
    """
    kind: type[Config] = _module(_split(task)[0]).CONFIG
    return kind


def all_tasks() -> list[TaskInfo]:
    """Every task that has a name here. PettingZoo's own and the user's are beyond counting."""
    return [info for suite in SUITES for info in _module(suite).tasks()]


def _module(suite: str) -> ModuleType:
    """A suite's module.

    Raises:
        EnvError: its simulator cannot be imported, such as MuJoCo where ``MUJOCO_GL`` asks for what is not there.
    """
    try:
        return import_module(SUITES[suite])
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise EnvError(f"the tasks {suite}/... cannot be used here: {why}") from error


def _split(task: str) -> tuple[str, str]:
    """The suite of a task, and its name within the suite."""
    if ":" in task:
        return "pettingzoo", str(task)
    suite, slash, name = task.partition("/")
    if not slash:
        known = [info.name for info in all_tasks()]
        raise ConfigError(
            f"task {shown(str(task))} is neither suite/name nor package.module:factory: {nearest(task, known)}"
        )
    if suite not in SUITES:
        raise ConfigError(f"task {shown(str(task))}: no suite {shown(suite)}: {nearest(suite, SUITES)}")
    return suite, name
