"""Code of the user's own by its name, ``package.module:Name``."""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from dima.errors import ConfigError, UserError, nearest, one_line
from dima.registry.consent import Allowed, AllowedByPattern
from dima.registry.given import given_object, is_local, local_advice


def load_name(name: str, error: type[UserError] = ConfigError) -> Any:
    """Import ``package.module:Name`` from installed packages or, if the user typed it, the working directory.

    An object that the user gave in this process is taken as it is.

    Args:
        name: which the user typed or allowed.
        error: raised where it cannot be imported; suggests the nearest right name.
    """
    if (own := given_object(name)) is not None:
        return own
    path, _, attribute = name.partition(":")
    here = os.getcwd()
    if not isinstance(name, Allowed) and here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # behind installed packages, which a stranger's folder must not replace
    module = load_module(path, name, error)
    if is_local(name) and not hasattr(module, attribute.partition(".")[0]):
        raise error(f"there is no {local_advice(name)}")
    found = load_attribute(module, attribute, name, error)
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
