"""Names of tasks, world models and algorithms: where they are found, and which of them may be imported.

A name is looked up in a :class:`Registry`: among what was registered by decorator, in the library, among the entry
points of installed packages. Nothing is imported before it is asked for.

``package.module:Name`` is code of the user's own that is not registered. Names in a file are data; names that the user
types are consent. A run folder or a dataset may come from a stranger, so a name that stands in one is read as a
:class:`FromFile`. It is imported only when the user repeats it beside the file (``--task NAME``, ``--algorithm NAME``,
``load(run, task=NAME)``) or has allowed it for good in a configuration of their own::

    # ~/.config/dima/config.yaml ($XDG_CONFIG_HOME/dima/config.yaml)
    allow_tasks: [lab.worlds:make_env, "lab.robots.*"]
    allow_algorithms: ["lab.models:*"]

An entry is a name, or a pattern in which ``*`` stands for anything. What is allowed so is imported from installed
packages or ``PYTHONPATH``, never from the working directory, which may be the stranger's folder; a pattern allows only
what its module itself defines, and no arguments from the file.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

from dima.config import read_yaml, shown
from dima.errors import ConfigError, UserError, nearest, one_line

T = TypeVar("T")
R = TypeVar("R")
Kind = Literal["task", "algorithm"]

_ALLOWED = {"task": "allow_tasks", "algorithm": "allow_algorithms"}  # keys of the user's configuration
_FORM = {"task": "package.module:factory", "algorithm": "package.module:Name"}
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class Registry(Generic[T]):
    """Objects by name.

    Args:
        kind: what they are, for messages.
        group: of the entry points that extend the registry.
        library: ``module:attribute``, or a module, of each name that the library itself has; no package replaces these.
    """

    def __init__(self, kind: str, group: str, library: Mapping[str, str]) -> None:
        self.kind, self.group, self.library = kind, group, dict(library)
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[R], R]:
        """Decorator that registers a class or a function under a name.

        Raises:
            ConfigError: the name is taken by something else, or has a colon.
        """
        if ":" in name:
            raise ConfigError(f"the {self.kind} {name!r} has a colon: choose another name")

        def decorate(value: R) -> R:
            known = self._registered.get(name)
            if name in self.library or (known is not None and not _same(known, value)):
                raise ConfigError(f"there is a {self.kind} {name!r} already: choose another name")
            self._registered[name] = value  # type: ignore[assignment]
            return value

        return decorate

    def is_registered(self, name: str) -> bool:
        """Whether a decorator registered the name, besides the library and installed packages."""
        return name in self._registered

    def names(self) -> list[str]:
        """Every name, in order; nothing is imported."""
        return sorted({*self._registered, *self.library, *self._entry_points()})

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self.library or name in self._entry_points()

    def get(self, name: str) -> T:
        """The object of a name.

        Raises:
            ConfigError: there is none (the nearest right name is suggested), or its package cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self.library:
            found: T = _load(self.library[name])
            return found
        if name not in (installed := self._entry_points()):
            raise ConfigError(f"there is no {self.kind} {shown(str(name))}: {nearest(name, self.names())}")
        try:
            found = installed[name].load()
        except Exception as error:  # whatever a package of somebody else raises when it is imported
            raise ConfigError(
                f"the {self.kind} {name!r}, {installed[name].value}, cannot be loaded: {one_line(error)}"
            ) from error
        return self._registered.get(name, found)  # a decorator there may know more of it

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group) if ":" not in entry.name}


def _load(path: str) -> T:  # type: ignore[type-var]
    module, _, attribute = path.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found  # type: ignore[return-value]


def _same(one: object, other: object) -> bool:
    """Whether a module that is run twice registered the same thing again."""
    return getattr(one, "__qualname__", one) == getattr(other, "__qualname__", other)


# -- names of the form package.module:Name ----------------------------------------------------------------------------


def load_name(name: str, error: type[UserError] = ConfigError) -> Any:
    """Import ``package.module:Name`` from installed packages or, if the user typed it, the working directory.

    Args:
        name: which the user typed or allowed.
        error: raised where it cannot be imported; suggests the nearest right name.
    """
    path, _, attribute = name.partition(":")
    here = os.getcwd()
    if not isinstance(name, Allowed) and here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # behind installed packages, which a stranger's folder must not replace
    found = load_attribute(load_module(path, name, error), attribute, name, error)
    if isinstance(name, AllowedByPattern) and getattr(found, "__module__", None) != path:
        raise error(f"{name} is not defined in {path}, so a pattern does not allow it: list the name itself")
    return found


def load_module(path: str, name: str, error: type[UserError] = ConfigError) -> ModuleType:
    """Import a module; ``name`` is how messages call it, other arguments as for :func:`load_name`."""
    try:
        return import_module(path)
    except ModuleNotFoundError as missing:
        if missing.name and (path == missing.name or path.startswith(missing.name + ".")):
            raise error(f"{name}: there is no module {missing.name!r}: {_siblings(missing.name)}") from missing
        raise error(f"{name}: {path} needs the module {missing.name!r}, which is not installed") from missing
    except Exception as raised:
        raise error(f"{name}: importing {path} raised {one_line(raised)}: fix the module") from raised


def load_attribute(module: ModuleType, attribute: str, name: str, error: type[UserError] = ConfigError) -> Any:
    """A function or a class of a module, ``a`` or ``a.b``; other arguments as for :func:`load_module`."""
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [one for one in dir(found) if callable(getattr(found, one)) and not one.startswith("_")]
            raise error(f"{name}: {module.__name__} has no {attribute!r}: {nearest(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise error(f"{name}: {attribute} is a {type(found).__name__}: expected a function or class")
    return found


def _siblings(path: str) -> str:
    """A hint at the modules next to a missing one."""
    parent, _, name = path.rpartition(".")
    if not parent:
        return "install it, or run from the folder it lies in"
    package = import_module(parent)
    return nearest(name, (info.name for info in pkgutil.iter_modules(getattr(package, "__path__", []))))


# -- consent ----------------------------------------------------------------------------------------------------------


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
        typed: the name that the user typed beside the file, if any.
        where: what the name stands in, for messages.
        arguments: JSON from the same file, which code unknown to this library would be called with.
        repeat: how the user repeats the name, for messages; by default ``--task NAME``, ``--algorithm NAME``.

    Raises:
        ConfigError: consent is missing, or was given for another name; or a name with a colon is not of the form
            ``package.module:Name``.
    """
    if typed is not None and typed != name:
        raise ConfigError(f"{kind} = {shown(typed)} does not fit: {where} is of {shown(str(name))}")
    if (own := ":" in name) and not _OWN.fullmatch(name):
        raise ConfigError(f"{kind} {shown(str(name))} is not of the form {_FORM[kind]}")
    if isinstance(name, Allowed) and typed is None:
        return name
    if not isinstance(name, FromFile) or typed is not None or not (own or arguments != "{}"):
        return str(name)
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
