"""Consent: names in a file are data, names that the user types and objects that the user gives may be used.

A run folder or a dataset may come from a stranger, so a name that stands in one is read as a :class:`FromFile`. It is
imported only when the user repeats it beside the file (``--task NAME``, ``--algorithm NAME``, ``load(run, task=NAME)``,
``load(run, task=MyEnv)``), has given the object of that name in this process, or has allowed it for good in a
configuration of their own::

    # ~/.config/dima/config.yaml ($XDG_CONFIG_HOME/dima/config.yaml)
    allow_tasks: [lab.worlds:make_env, "lab.robots.*"]
    allow_algorithms: ["lab.models:*"]

An entry is a name, or a pattern in which ``*`` stands for anything. What is allowed so is imported from installed
packages or ``PYTHONPATH``, never from the working directory, which may be the stranger's folder; a pattern allows only
what its module itself defines, and no arguments from the file.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from dima.config import read_yaml, shown
from dima.errors import ConfigError
from dima.registry.given import OWN, is_given, is_local, local_advice

Kind = Literal["task", "algorithm"]

_ALLOWED = {"task": "allow_tasks", "algorithm": "allow_algorithms"}  # keys of the user's configuration
_FORM = {"task": "package.module:factory", "algorithm": "package.module:Name"}


class FromFile(str):
    """A name that stands in a file: data until :func:`agreed` makes a plain string of it.

    Whatever imports by name asks for that first.
    """


class Allowed(str):
    """A name from a file that the user's own configuration lists; it is not looked up in the working directory."""


class AllowedByPattern(Allowed):
    """A name from a file that matches a pattern of the user's own configuration; its module must define it."""


def agreed(
    kind: Kind,
    name: str,
    typed: str | None = None,
    where: object = "the file",
    arguments: str = "{}",
    repeat: str | None = None,
) -> str:
    """A name that may be imported, as a plain string; nothing is imported here.

    Args:
        kind: what it names.
        name: one that the user typed passes as it is, a :class:`FromFile` that would run unregistered code is refused.
        typed: the name that the user typed beside the file, if any; it replaces a name that was local to a process.
        where: what the name stands in, for messages.
        arguments: JSON from the same file, which code unknown to this library would be called with.
        repeat: how the user repeats the name, for messages; by default ``--task NAME``, ``--algorithm NAME``.

    Raises:
        ConfigError: consent is missing, or was given for another name; or a name with a colon is not of the form
            ``package.module:Name``.
    """
    if typed is not None and typed != name:
        if is_local(name) and OWN.fullmatch(typed):
            return typed
        raise ConfigError(f"{kind} = {shown(typed)} does not fit: {where} is of {shown(str(name))}")
    if (own := ":" in name) and not OWN.fullmatch(name):
        raise ConfigError(f"{kind} {shown(str(name))} is not of the form {_FORM[kind]}")
    if isinstance(name, Allowed) and typed is None:
        return name
    if not isinstance(name, FromFile) or typed is not None or not (own or arguments != "{}"):
        return str(name)
    if is_given(name, arguments):
        return str(name)
    if is_local(name):
        raise ConfigError(f"{where} names the {kind} {local_advice(str(name))}")
    if name in (allowed := _allowed(kind)):
        return Allowed(name)
    if arguments == "{}" and any(fnmatchcase(name, entry) for entry in allowed):
        return AllowedByPattern(name)
    called_with = "" if arguments == "{}" else f" with the arguments {shown(arguments)}"
    repeat = repeat or f"--{kind} {name} (in Python {kind}={str(name)!r})"
    raise ConfigError(
        f"{where} names the {kind} {name}, which would run code of that name{called_with}: if you trust it, repeat it, "
        f"{repeat}, or list it under {_ALLOWED[kind]} in {_path()}"
    )


def _path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(home if os.path.isabs(home) else Path.home() / ".config") / "dima" / "config.yaml"


def _allowed(kind: Kind) -> list[str]:
    """The entries that the user allowed for good.

    Raises:
        ConfigError: the configuration holds something else than lists of names.
    """
    path = _path()
    content = read_yaml(path) if path.is_file() else {}
    for key, entries in content.items():
        if key not in _ALLOWED.values():
            raise ConfigError(f"{path}: {shown(key)} is not known: expected {' or '.join(_ALLOWED.values())}")
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ConfigError(f"{path}: {key} = {shown(entries)} does not fit: expected a list of names or patterns")
    return content.get(_ALLOWED[kind], [])
