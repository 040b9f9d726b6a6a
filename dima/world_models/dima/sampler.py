"""Reverse diffusion over agents: every level reveals one agent's action (DIMA sections 1 and 3).

The sampler knows a denoising function, a noise schedule and an order of agents, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dima.config import Config, Positive, Whole
from dima.errors import ConfigError

Denoise = Callable[[Tensor, Tensor, int], Tensor]  # noisy (B, S), sigma (1, 1), level -> (B, S)


@dataclass(frozen=True)
class SamplerConfig(Config):
    """How the next state is drawn."""

    order: Literal["descending", "ascending", "random"] = "descending"  # in which agents are revealed
    levels_per_agent: Whole = 0  # denoising levels each agent's turn gets; 0: 2 where there are two turns, else 1
    tail_levels: Whole = 0  # further levels that see what the last agent's level saw
    sigma_max: Positive = 5.0  # noise of the first level
    sigma_min: Positive = 0.002  # noise of the last level
    rho: Positive = 7.0  # curvature of the noise schedule
    solver: Literal["euler", "heun"] = "euler"  # first or second order

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")

    def levels(self, turns: int) -> int:
        """The number K of denoising levels for a team whose agents are revealed in so many turns."""
        return turns * self._per_turn(turns) + self.tail_levels

    def stage(self, level: int, turns: int) -> int:
        """How many turns came before the one that ``level`` belongs to."""
        return min(level // self._per_turn(turns), turns - 1)

    def _per_turn(self, turns: int) -> int:
        return self.levels_per_agent or (2 if turns == 2 else 1)


def noise_schedule(levels: int, sigma_min: float, sigma_max: float, rho: float, device: torch.device) -> Tensor:
    """(K + 1,) noise levels from ``sigma_max`` down to ``sigma_min``, then 0 (EDM equation 5)."""
    ramp = torch.linspace(0, 1, levels, device=device)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, device=device)])


def reveal_masks(order: Tensor, reveal: str, at_once: int = 1) -> Tensor:
    """(G, B, N) bool: the agents that are visible at each of G stages; one stage only when everyone always is.

    Args:
        order: (B, N) agent indices, the first to be revealed first.
        reveal: ``one`` (only the agents whose turn it is), ``cumulative`` (they and all before them) or ``all``.
        at_once: agents that are revealed together.
    """
    turn = order.argsort(dim=-1) // at_once  # when each agent is revealed
    stage = torch.arange(-(-order.shape[-1] // at_once), device=order.device)[:, None, None]
    if reveal == "one":
        return turn == stage
    if reveal == "cumulative":
        return turn <= stage
    return torch.ones_like(turn, dtype=torch.bool)[None]


def agent_order(order: str, batch: int, agents: int, device: torch.device) -> Tensor:
    """(B, N) agent indices in the order they are revealed."""
    ascending = torch.arange(agents, device=device).expand(batch, agents)
    if order == "ascending":
        return ascending
    if order == "descending":
        return ascending.flip(-1)
    return torch.rand(batch, agents, device=device).argsort(dim=-1)


def sample(denoise: Denoise, noise: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """Follow the probability-flow ODE from noise to a sample (EDM algorithm 1 without churn).

    Args:
        denoise: the estimate of the clean state at a level.
        noise: (B, S) standard normal start.
        sigmas: (K + 1,) decreasing noise levels that end in 0.
        solver: ``euler`` calls ``denoise`` once a level, ``heun`` twice except at the last.
    """
    x = sigmas[0] * noise
    sigmas = sigmas[:, None, None]  # the same for every row
    levels = len(sigmas) - 1
    for level in range(levels):
        now, after = sigmas[level], sigmas[level + 1]
        slope = (x - denoise(x, now, level)) / now
        ahead = x + (after - now) * slope
        if solver == "heun" and level < levels - 1:
            slope = (slope + (ahead - denoise(ahead, after, level)) / after) / 2
            ahead = x + (after - now) * slope
        x = ahead
    return x


def estimates(denoise: Denoise, noise: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """What each level of :func:`sample`, for the same arguments, takes the clean state to be, (K, B, S)."""
    seen: dict[int, Tensor] = {}

    def watched(x: Tensor, sigma: Tensor, level: int) -> Tensor:
        estimate = denoise(x, sigma, level)
        seen.setdefault(level, estimate)  # heun looks at a level twice
        return estimate

    sample(watched, noise, sigmas, solver)
    return torch.stack(list(seen.values()))
