"""Objects that the user gave in Python, by name: a class of a module, a script or a notebook's cell.

What can be imported again is named ``package.module:qualname``, and any process finds it. Everything else, such as a
class of a notebook, a lambda or a class within a function, is named ``__main__:Name``: this process knows it, another
one must be given it again.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from dima.config import shown
from dima.errors import ConfigError

Named = str | Callable[..., Any]  # a name that the user typed, or the object itself
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")  # package.module:Name
_LOCAL = "__main__:"
_GIVEN: dict[str, Any] = {}
_ARGUMENTS: dict[str, set[str]] = {}  # JSON that the user gave along, by the object's name


def give(value: Any, arguments: str = "{}") -> str:
    """Remember an object that the user gave; returns its name.

    A class or function of a notebook that was defined anew takes the place of the former one; lambdas and the like,
    which cannot be told apart by name, are numbered.

    Args:
        value: a class or function.
        arguments: JSON that it is to be called with.
    """
    name = _importable_name(value) or _local_name(value)
    _GIVEN[name] = value
    _ARGUMENTS.setdefault(name, {"{}"}).add(arguments)
    return name


def keep(name: str, value: Any) -> None:
    """Remember an object by the name that another process gave it."""
    _GIVEN[name] = value
    _ARGUMENTS.setdefault(name, {"{}"})


def typed_name(typed: Named | None) -> str | None:
    """The name of what the user typed or gave, if anything.

    Raises:
        ConfigError: it is neither a name nor a class or function.
    """
    if typed is None or isinstance(typed, str):
        return typed
    if not callable(typed):
        raise ConfigError(f"{shown(typed)} is of type {type(typed).__name__}: expected a name, a class or a function")
    return give(typed)


def given_object(name: str) -> Any:
    """The object of a name that :func:`give` told, in its newest definition; None if there is none."""
    value = _GIVEN.get(name)
    now = _attribute(*name.split(":", 1)) if value is not None else None
    return now if now is not None and _redefines(now, value) else value


def is_given(name: str, arguments: str = "{}") -> bool:
    """Whether the user gave the object of a name in this process, and these arguments with it."""
    return name in _GIVEN and arguments in _ARGUMENTS[name]


def is_local(name: str) -> bool:
    """Whether a name is one of a process, which cannot be imported."""
    return name.startswith(_LOCAL)


def local_advice(name: str) -> str:
    """What to do about a local name of another process."""
    return (
        f"{name}, which was defined in a notebook, a function or an interactive process and cannot be imported: give "
        "the class or function again (in Python), or move it to a module and give its name, package.module:Name"
    )


def _importable_name(value: Any) -> str | None:
    """``package.module:qualname`` under which any process finds an object."""
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and _attribute(module, qualname) is value:
        found = _public_name(sys.modules[module])
        return f"{found}:{qualname}" if found and OWN.fullmatch(f"{found}:{qualname}") else None
    return min(_aliases(value), key=lambda name: (len(name), name), default=None)


def _aliases(value: Any) -> Iterator[str]:
    """Names of an object that does not know its own, such as PettingZoo's ``parallel_env``."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            for attribute, found in list(vars(module).items()):
                if found is value and not attribute.startswith("_") and (public := _public_name(module)):
                    name = f"{public}:{attribute}"
                    if OWN.fullmatch(name) and "._" not in name:
                        yield name


def _public_name(module: ModuleType) -> str | None:
    """The name by which another process imports a module; of the main module, that of its script if it has one."""
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if module.__name__ != "__main__" or spec is not None:
        return spec.name if spec is not None else None
    if file is None:
        return None
    stem = Path(file).stem
    try:
        found = find_spec(stem)
    except (ImportError, ValueError):
        return None
    same = found is not None and found.origin is not None and os.path.exists(found.origin)
    return stem if same and os.path.samefile(str(found.origin), file) else None  # type: ignore[union-attr]


def _local_name(value: Any) -> str:
    base = re.sub(r"\W", "", str(getattr(value, "__name__", type(value).__name__))).lstrip("0123456789") or "object"
    name, number = _LOCAL + base, 1
    while (known := _GIVEN.get(name)) is not None and known is not value and not _redefines(value, known):
        number += 1
        name = f"{_LOCAL}{base}_{number}"
    return name


def _redefines(value: Any, known: Any) -> bool:
    """Whether an object is another definition of a global class or function."""
    place, other = ((getattr(one, "__module__", None), getattr(one, "__qualname__", None)) for one in (value, known))
    return place == other and place[1] is not None and "<" not in place[1]


def _attribute(module: str, qualname: str) -> Any:
    """What a module that is imported has under a name; None if it is not, or has none."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
