"""Names in a file are data; names that the user types are consent.

A run folder or a dataset may come from a stranger, so a task that stands in one is read as a :class:`FromFile`. Tasks
of this library are built from it as from any other name. Whatever would import the user's code, or hand arguments to
code that this library does not know, is built only when the user repeats the name beside the file (``--task NAME``,
``load(run, task=NAME)``) or has allowed it for good in a configuration of their own::

    # ~/.config/dima/config.yaml ($XDG_CONFIG_HOME/dima/config.yaml)
    allow_tasks: [lab.worlds:make_env, "lab.robots.*"]

An entry is a name, or a pattern in which ``*`` stands for anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from dima.config import read_yaml, shown
from dima.errors import ConfigError

_KEY = "allow_tasks"
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class FromFile(str):
    """A task's name that stands in a file: data until :func:`agreed` makes a plain string of it.

    :func:`dima.envs.make_env` asks for that before anything is imported.
    """


def agreed(task: str, env: Mapping[str, object], typed: str | None = None, where: object = "the file") -> str:
    """The name of a task whose environment may be built.

    Args:
        task: the name; one that the user typed passes as it is, a :class:`FromFile` is asked for consent.
        env: settings of its environment, out of the same file.
        typed: the name that the user typed beside the file, if any.
        where: what the name stands in, for messages.

    Raises:
        ConfigError: consent is missing, or was given for another task; or a name with a colon is not of the form
            ``package.module:factory``. Nothing was imported.
    """
    if typed is not None and typed != task:
        raise ConfigError(f"task = {shown(typed)} does not fit: {where} is of {shown(str(task))}")
    if (own := ":" in task) and not _OWN.fullmatch(task):
        raise ConfigError(f"task {shown(str(task))} is not of the form package.module:factory")
    arguments = env.get("arguments", "{}")
    if not isinstance(task, FromFile) or typed is not None or not (own or arguments != "{}"):
        return str(task)
    if any(fnmatchcase(task, entry) for entry in _allowed()):
        return str(task)
    told = "" if arguments == "{}" else f" with the arguments {shown(arguments)}"
    raise ConfigError(
        f"{where} names the task {task}, which would run code of that name{told}: if you trust it, repeat it, "
        f"--task {task} (in Python task={str(task)!r}), or list it under {_KEY} in {_path()}"
    )


def _path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(home if os.path.isabs(home) else Path.home() / ".config") / "dima" / "config.yaml"


def _allowed() -> list[str]:
    """What the user allowed for good.

    Raises:
        ConfigError: the configuration holds something else than a list of names.
    """
    path = _path()
    content = read_yaml(path) if path.is_file() else {}
    entries = content.pop(_KEY, [])
    if content:
        raise ConfigError(f"{path}: {shown(next(iter(content)))} is not known: expected {_KEY}")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{path}: {_KEY} = {shown(entries)} does not fit: expected a list of names or patterns")
    return entries
