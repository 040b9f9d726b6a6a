"""Evaluate a policy: separate environments, and seeds disjoint from those of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from dima.data import Act
from dima.envs.vector import VectorEnv
from dima.experience.episodes import episode_seed, play_measured
from dima.runtime.signals import Stop


@dataclass(frozen=True)
class Evaluation:
    """Team returns and lengths of evaluation episodes, and metrics of the environment's own, such as success."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Population standard deviation over episodes."""
        return float(np.std(self.returns))

    @property
    def means(self) -> dict[str, float]:
        """Mean of each metric over episodes."""
        return {name: float(np.mean(values)) for name, values in self.metrics.items()}


def evaluate(
    envs: VectorEnv,
    act: Act,
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    stop: Stop | None = None,
) -> Evaluation:
    """Play ``episodes`` episodes and return their team returns and metrics.

    Args:
        envs: environments that training does not use.
        act: the policy; its mode for the library's standard protocol.
        episodes: number of episodes, each with its own seed.
        seed: episode *i* starts in the same way for every policy evaluated under this seed.
        device: of the policy.
        stop: heeded between two steps.

    Raises:
        Interrupted: a stop was requested.
    """
    seeds = [episode_seed(seed, i, "evaluation") for i in range(episodes)]
    episodes_played, values = zip(*play_measured(envs, act, seeds, device, stop=stop), strict=True)
    return Evaluation(
        returns=tuple(episode.team_return for episode in episodes_played),
        lengths=tuple(map(len, episodes_played)),
        metrics=dict(zip(envs.spec.episode_metrics, zip(*values, strict=True), strict=True)),
    )
