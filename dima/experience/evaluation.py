"""Evaluate a policy: separate environments, and seeds disjoint from those of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from dima.data import Act
from dima.envs.vector import VectorEnv
from dima.experience.episodes import episode_seed, play_measured
from dima.runtime.cards import card
from dima.runtime.signals import Stop


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return f"<Evaluation: {self._line}>"

    def _repr_html_(self) -> str:
        length = f"episodes of {np.mean(self.lengths):,.0f} steps on average"
        return card(f"team return {self.mean:,.1f} ± {self.std:,.1f}", [self._line, length])

    @property
    def _line(self) -> str:
        span = f"lowest {min(self.returns):,.1f}, highest {max(self.returns):,.1f}"
        own = "".join(f", {name} {value:.3g}" for name, value in self.means.items())
        return f"mean {self.mean:,.1f}, std {self.std:,.1f} over {len(self.returns)} episodes, {span}{own}"


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
