"""The only evaluation loop: the policy's mode, an environment of its own, seeds training never uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dima.data import Act
from dima.envs.vector import VectorEnv
from dima.experience.collector import episode_seed, play


@dataclass(frozen=True)
class Evaluation:
    """Team returns and lengths of the episodes played."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Spread between episodes (population standard deviation)."""
        return float(np.std(self.returns))


def evaluate(envs: VectorEnv, act: Act, episodes: int, seed: int, device: torch.device | str = "cpu") -> Evaluation:
    """Play ``episodes`` episodes.

    Args:
        envs: environments that training does not touch.
        act: the policy; pass its mode for the library's standard protocol.
        episodes: how many, each from its own seed.
        seed: episode *i* is the same for every policy evaluated under this seed.
        device: where the policy lives.
    """
    seeds = [episode_seed(seed, i, "evaluation") for i in range(episodes)]
    played = play(envs, act, seeds, device)
    return Evaluation(tuple(e.team_return for e in played), tuple(len(e) for e in played))
