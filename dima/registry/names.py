"""Registries of what has a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from dima.config import shown
from dima.errors import ConfigError, nearest, one_line

T = TypeVar("T")
R = TypeVar("R")


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
