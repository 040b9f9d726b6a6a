"""Toy tasks with known dynamics, for tests, demonstrations and checks by hand.

``toy/linear``     linear-Gaussian: the next state's distribution has a closed form; time limit only
``toy/walk``       each agent walks on a line to its target; time limit only; learnt in seconds
``toy/switches``   discrete, with action masks and true terminations: flip the switches in their order
``toy/uneven``     agents of different sizes, different rewards, and no ``state()``
``toy/crossfire``  discrete, with action masks: agents that attack may die, the others go on
``toy/cliff``      continuous, no ``state()``: agents that go too far fall, the others go on
"""

from __future__ import annotations

from collections.abc import Callable

from dima.envs.base import TaskInfo
from dima.envs.toy.mortal import Cliff, Crossfire
from dima.envs.toy.worlds import Linear, Observations, Switches, Toy, ToyConfig, Uneven, Walk
from dima.errors import ConfigError, nearest

__all__ = [
    "CONFIG",
    "WORLDS",
    "Cliff",
    "Crossfire",
    "Linear",
    "Observations",
    "Switches",
    "Toy",
    "ToyConfig",
    "Uneven",
    "Walk",
    "make",
    "tasks",
]

CONFIG = ToyConfig
WORLDS: dict[str, Callable[[ToyConfig], Toy]] = {
    "cliff": Cliff,
    "crossfire": Crossfire,
    "linear": Linear,
    "switches": Switches,
    "uneven": Uneven,
    "walk": Walk,
}


def make(task: str, config: ToyConfig, render_mode: str | None = None) -> Toy:
    """Build ``toy/<task>``; toys cannot be rendered, so ``render_mode`` is ignored.

    Raises:
        ConfigError: there is no such world.
    """
    if task not in WORLDS:
        raise ConfigError(f"toy/{task}: no such world: {nearest(task, WORLDS)}")
    return WORLDS[task](config)


def tasks() -> list[TaskInfo]:
    """The toy tasks."""
    notes = {
        "cliff": "agents may fall, the others go on; no state()",
        "crossfire": "agents may die, the others go on; discrete, action masks",
        "linear": "linear-Gaussian world with a closed form",
        "switches": "discrete, action masks, true terminations",
        "uneven": "agents of different sizes, no state()",
        "walk": "walk to a target, time limit only",
    }
    return [TaskInfo(f"toy/{name}", None, note) for name, note in notes.items()]
