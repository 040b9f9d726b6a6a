"""Algorithms: how a team's policy is learnt.

Read ``base`` (the training loop's interface), ``objectives`` (returns and losses), ``ppo``, then ``on_policy`` with
``mappo`` and ``happo``, ``hasac``, and ``model_based``: MAPPO in the rollouts of a world model.

An algorithm of your own is a config class that builds it, registered by :func:`register_algorithm` or by an entry point
``dima.algorithms``. The name of every world model is an algorithm, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dima.errors import ConfigError, nearest
from dima.registry import Registry
from dima.world_models import WORLD_MODELS

if TYPE_CHECKING:
    from dima.algorithms.base import AlgorithmConfig

C = TypeVar("C")

ALGORITHMS: Registry[type[AlgorithmConfig]] = Registry(
    "algorithm",
    "dima.algorithms",
    {
        "happo": "dima.algorithms.happo:HappoConfig",
        "hasac": "dima.algorithms.hasac:HasacConfig",
        "mappo": "dima.algorithms.mappo:MappoConfig",
    },
)


def register_algorithm(name: str) -> Callable[[type[C]], type[C]]:
    """Decorator that registers an :class:`~dima.algorithms.base.AlgorithmConfig` under a name.

    Raises:
        ConfigError: the name is taken.
    """
    return ALGORITHMS.register(name)


def algorithm_names() -> list[str]:
    """Every algorithm, the world models among them."""
    return sorted({*ALGORITHMS.names(), *WORLD_MODELS.names()})


def algorithm_config(name: str) -> AlgorithmConfig:
    """The default settings of an algorithm.

    Raises:
        ConfigError: there is no such algorithm, or its package cannot be imported.
    """
    if name in ALGORITHMS:
        return ALGORITHMS.get(name)()
    if name in WORLD_MODELS:
        from dima.algorithms.model_based import ModelBasedConfig

        return ModelBasedConfig(world_model=WORLD_MODELS.get(name)())
    raise ConfigError(f"there is no algorithm {name!r}: {nearest(name, algorithm_names())}")


def algorithm_summary(name: str) -> str:
    """One line on an algorithm: the first of its config's docstring."""
    kind = ALGORITHMS.get(name) if name in ALGORITHMS else WORLD_MODELS.get(name)
    return (kind.__doc__ or "").strip().splitlines()[0]
