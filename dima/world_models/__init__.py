"""World models: learnt simulators that policies are trained in.

Read ``base`` (the interface: ``start``, ``observe``, ``step``, ``objectives``), ``rollout`` (a policy in a model),
``fitting`` (gradient steps), then ``dima`` (the paper), ``ensemble`` (the plain alternative) or ``oracle`` (the
simulator itself, as a yardstick); ``marie`` and ``mamba`` model each agent's observations. ``state_based`` and
``observation_decoder`` are shared by models of the global state; ``feature_copies`` finds what state and observations
have in common; ``imagined`` and ``env`` make a model an environment.

A model of your own is a config class that builds it, registered by :func:`register_world_model` or by an entry point
``dima.world_models``; its name is then an algorithm, MAPPO in its rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dima.registry import Registry

if TYPE_CHECKING:
    from dima.world_models.base import WorldModelConfig

C = TypeVar("C")

WORLD_MODELS: Registry[type[WorldModelConfig]] = Registry(
    "world model",
    "dima.world_models",
    {
        "dima": "dima.world_models.dima.model:DimaModelConfig",
        "ensemble": "dima.world_models.ensemble:EnsembleModelConfig",
        "oracle": "dima.world_models.oracle:OracleModelConfig",
    },
)


def register_world_model(name: str) -> Callable[[type[C]], type[C]]:
    """Decorator that registers a :class:`~dima.world_models.base.WorldModelConfig` under a name.

    Raises:
        ConfigError: the name is taken.
    """
    return WORLD_MODELS.register(name)
