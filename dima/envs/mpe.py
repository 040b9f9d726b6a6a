"""Cooperative particle tasks of MPE (package mpe2): small teams on an unbounded plane.

Episodes never terminate: ``max_cycles`` is a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from dima.config import Config, EpisodeSteps
from dima.envs.base import TaskInfo
from dima.errors import ConfigError, EnvError, nearest

if TYPE_CHECKING:
    from dima.envs.render.mpe import PlaneScene

MODULES = {
    "simple_reference": ("mpe2.simple_reference_v3", 2, "tell the other which landmark is its target"),
    "simple_speaker_listener": ("mpe2.simple_speaker_listener_v4", 2, "one speaks, one moves; sizes differ"),
    "simple_spread": ("mpe2.simple_spread_v3", 3, "cover all landmarks without colliding"),
}


@dataclass(frozen=True)
class MpeConfig(Config):
    """Action space and length of episodes."""

    continuous_actions: bool = False  # a Box in place of a choice between directions
    max_cycles: EpisodeSteps = 25  # steps until truncation


CONFIG = MpeConfig


def make(task: str, config: MpeConfig, render_mode: str | None = None) -> Any:
    """Build the PettingZoo environment of ``mpe/<task>``.

    Raises:
        ConfigError: there is no such task.
        EnvError: mpe2 is not installed.
    """
    if task not in MODULES:
        raise ConfigError(f"mpe/{task}: no such task: {nearest(task, MODULES)}")
    try:
        module = import_module(MODULES[task][0])
    except ImportError as error:
        raise EnvError(f"mpe/{task} needs the package mpe2 ({error}): pip install mpe2") from error
    env = module.parallel_env(
        max_cycles=config.max_cycles, continuous_actions=config.continuous_actions, render_mode=render_mode
    )
    env.state_names = partial(_state_names, task, env.possible_agents)  # for errors by kind of feature
    return env


def _state_names(task: str, agents: Sequence[str]) -> list[str]:
    """Names of the state features: mpe2's observations of all agents."""
    names = []
    for me in agents:
        others = [agent for agent in agents if agent != me]
        vectors = [f"landmarks: {landmark} from {me}" for landmark in range(3)]
        if task == "simple_spread":
            vectors = [f"positions: {me}", *vectors, *(f"others: {other} from {me}" for other in others)]
        if me != "speaker_0":
            names += [f"{vector} {axis}" for vector in (f"velocities: {me}", *vectors) for axis in "xy"]
        if task == "simple_reference" or me == "speaker_0":
            names += [f"goals: {color} for {me}" for color in ("red", "green", "blue")]
        words = {"simple_spread": 2, "simple_reference": 10, "simple_speaker_listener": 3}[task]
        if me != "speaker_0":
            names += [f"messages: {word} from {other} to {me}" for other in others for word in range(words)]
    return names


def scene(parallel_env: Any, width: int, height: int) -> PlaneScene:
    """A scene of the particles of an environment from :func:`make`; width and height in pixels."""
    from dima.envs.render.mpe import READERS, WITH_TARGETS, PlaneScene

    inner = parallel_env.unwrapped
    task = inner.metadata["name"].rpartition("_v")[0]
    return PlaneScene(inner.world, READERS[task], task in WITH_TARGETS, width, height)


def tasks() -> list[TaskInfo]:
    """The cooperative tasks."""
    return [TaskInfo(f"mpe/{name}", n, note) for name, (_, n, note) in MODULES.items()]


def greedy_spread(obs: np.ndarray) -> np.ndarray:
    """Scripted policy for ``simple_spread`` with discrete actions, as a reference.

    Landmarks are assigned to agents so that the total distance is smallest; each agent then moves along the axis with
    the larger distance to its landmark.

    Args:
        obs: (N, O) observations: own velocity and position, landmarks relative to it, and the rest.

    Returns:
        (N, 5) one-hot actions: wait, left, right, down, up.
    """
    n = len(obs)
    offsets = obs[:, 4 : 4 + 2 * n].reshape(n, n, 2)  # agent, landmark, axis
    distance = np.linalg.norm(offsets, axis=-1)
    assignment = min(permutations(range(n)), key=lambda order: sum(distance[i, k] for i, k in enumerate(order)))
    actions = np.zeros((n, 5), dtype=np.float32)
    for i, landmark in enumerate(assignment):
        x, y = offsets[i, landmark] - 0.5 * obs[i, :2]  # brake: account for the velocity it has
        if max(abs(x), abs(y)) < 0.05:
            choice = 0
        elif abs(x) > abs(y):
            choice = 2 if x > 0 else 1
        else:
            choice = 4 if y > 0 else 3
        actions[i, choice] = 1
    return actions
