"""Algorithms: how a team's policy is learnt.

Read ``base`` (the training loop's interface), ``objectives`` (returns and losses), ``ppo``, then ``on_policy`` with
``mappo`` and ``happo``, ``hasac``, and ``model_based``: MAPPO in the rollouts of a world model. ``mamba`` and
``marie`` are that with an update of their own, ``feature_ppo``.

An algorithm of your own is a config class that builds it, registered by :func:`register_algorithm` or by an entry point
``dima.algorithms``, or named ``package.module:Name``. Every world model is an algorithm, too.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dima.config import shown
from dima.errors import ConfigError, nearest
from dima.registry import Named, Registry, agreed, load_name, typed_name
from dima.world_models import WORLD_MODELS

if TYPE_CHECKING:
    from dima.algorithms.base import AlgorithmConfig
    from dima.world_models.base import WorldModelConfig

C = TypeVar("C")

ALGORITHMS: Registry[type[AlgorithmConfig]] = Registry(
    "algorithm",
    "dima.algorithms",
    {
        "happo": "dima.algorithms.happo:HappoConfig",
        "hasac": "dima.algorithms.hasac:HasacConfig",
        "mamba": "dima.algorithms.mamba:MambaConfig",
        "mappo": "dima.algorithms.mappo:MappoConfig",
        "marie": "dima.algorithms.marie:MarieConfig",
    },
)


def register_algorithm(name: str) -> Callable[[type[C]], type[C]]:
    """Decorator that registers an :class:`~dima.algorithms.base.AlgorithmConfig` under a name.

    Raises:
        ConfigError: the name is taken.
    """
    if name in WORLD_MODELS:
        raise ConfigError(f"there is a world model {name!r}, which is an algorithm already: choose another name")
    return ALGORITHMS.register(name)


def algorithm_names() -> list[str]:
    """Every algorithm that has a name, the world models among them."""
    return sorted({*ALGORITHMS.names(), *WORLD_MODELS.names()})


def algorithm_class(name: str) -> type[AlgorithmConfig] | type[WorldModelConfig]:
    """The settings class of an algorithm, or of the world model that it learns in.

    Args:
        name: a registered one, or ``package.module:Name``; where that stands in a file, consent is asked for first.

    Raises:
        ConfigError: there is no such algorithm, it cannot be imported, is no settings class, or the user has not agreed
            to a name that stands in a file.
    """
    name = agreed("algorithm", name)
    if ":" in name:
        return _checked_class(name, load_name(name))
    if name in ALGORITHMS:
        if WORLD_MODELS.is_registered(name):
            raise ConfigError(f"a world model was registered as {name!r}, which is an algorithm: choose another name")
        return _checked_class(name, ALGORITHMS.get(name))
    if name in WORLD_MODELS:
        return _checked_class(name, WORLD_MODELS.get(name))
    raise ConfigError(
        f"there is no algorithm {shown(name)}: {nearest(name, algorithm_names())} "
        "(one of your own: package.module:Name)"
    )


def agreed_algorithm(name: str, typed: Named | None = None, where: object = "the file") -> str:
    """The name of an algorithm that may be built, see :func:`dima.registry.agreed`.

    Args:
        name: as read from a file.
        typed: the name that the user typed, if any: the same one, or ``package.module:Name`` of the
            class that is registered under it, which is then imported; or the class itself.
        where: the file, for messages.

    Raises:
        ConfigError: the user has not agreed to the algorithm, or named another.
    """
    typed = typed_name(typed)
    if typed is not None and typed != name and ":" in typed and ":" not in name:
        own = algorithm_class(typed)
        if any(name in registry and registry.get(name) is own for registry in (ALGORITHMS, WORLD_MODELS)):
            return str(name)
    return agreed("algorithm", name, typed, where)


def named_algorithm(algorithm: Named) -> str:
    """The name of an algorithm that the user typed, or whose settings class they gave.

    Raises:
        ConfigError: as :func:`algorithm_class`.
    """
    name = typed_name(algorithm)
    assert name is not None
    algorithm_class(name)
    return name


def algorithm_config(name: str) -> AlgorithmConfig:
    """The default settings of an algorithm; arguments and errors as for :func:`algorithm_class`."""
    from dima.algorithms.base import AlgorithmConfig
    from dima.algorithms.model_based import ModelBasedConfig

    kind = algorithm_class(name)
    try:
        defaults = kind()
    except TypeError as error:
        raise ConfigError(f"{name}: {kind.__name__} has no defaults for all of its fields ({error})") from error
    return defaults if isinstance(defaults, AlgorithmConfig) else ModelBasedConfig(world_model=defaults)


def algorithm_summary(name: str) -> str:
    """One line on an algorithm: the first of its config's docstring; errors as for :func:`algorithm_class`.

    Of the library's the source is read instead of importing PyTorch, which takes seconds.
    """
    text = _docstring(_library()[name]) if in_library(name) else algorithm_class(name).__doc__
    return (text or "").strip().partition("\n")[0]


def in_library(name: str) -> bool:
    """Whether the library itself has an algorithm or a world model of this name."""
    return name in _library()


def _library() -> dict[str, str]:
    return ALGORITHMS.library | WORLD_MODELS.library


def _docstring(path: str) -> str | None:
    """The docstring of a class, ``module:Class``, whose module is read but not imported."""
    module, _, name = path.partition(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    found = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    return ast.get_docstring(found)


def _checked_class(name: str, found: Any) -> type[AlgorithmConfig] | type[WorldModelConfig]:
    """Refuse what is no settings class, or has fields that are none."""
    from dima.algorithms.base import AlgorithmConfig
    from dima.world_models.base import WorldModelConfig

    if not (isinstance(found, type) and issubclass(found, AlgorithmConfig | WorldModelConfig)):
        raise ConfigError(f"{name} is no algorithm: expected a class derived from AlgorithmConfig or WorldModelConfig")
    known, decorated = {field.name for field in dataclasses.fields(found)}, "__dataclass_fields__" in vars(found)
    bare = [field for field in vars(found).get("__annotations__", {}) if field not in known]
    if bare and not decorated:
        raise ConfigError(f"{name}: {bare[0]} is not a field: put @dataclass(frozen=True) above {found.__name__}")
    return found
