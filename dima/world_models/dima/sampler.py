"""Reverse diffusion in which every noise level reveals agents' actions (docs/reference/dima.md, "Sampler").

The sampler knows a denoising function, a noise schedule and an order of agents, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from dima.config import Config, Positive, Range
from dima.errors import ConfigError

Denoise = Callable[[Tensor, Tensor, int], Tensor]  # noisy (B, S), sigma (1, 1), index of the level -> (B, S)

Levels = Annotated[int, Range(0, 1000)]


@dataclass(frozen=True)
class SamplerConfig(Config):
    """How the next state is sampled."""

    order: Literal["descending", "ascending", "random"] = "descending"  # in which agents are revealed
    levels_per_agent: Levels = 0  # noise levels for each group of agents; 0: 2 where there are two groups, else 1
    tail_levels: Levels = 0  # further levels that see what the last one saw
    sigma_max: Positive = 5.0  # noise of the first level
    sigma_min: Positive = 0.002  # noise of the last level
    rho: Annotated[float, Range(1)] = 7.0  # curvature of the noise schedule; 1: evenly spaced
    solver: Literal["euler", "heun"] = "euler"  # first or second order

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")

    def levels(self, groups: int) -> int:
        """The number K of noise levels for a team that is revealed in so many groups."""
        return groups * self._per_group(groups) + self.tail_levels

    def group_index(self, level: int, groups: int) -> int:
        """The group of agents that ``level`` reveals."""
        return min(level // self._per_group(groups), groups - 1)

    def _per_group(self, groups: int) -> int:
        return self.levels_per_agent or (2 if groups == 2 else 1)


def noise_schedule(levels: int, sigma_min: float, sigma_max: float, rho: float, device: torch.device) -> Tensor:
    """(K + 1,) noise levels from ``sigma_max`` down to ``sigma_min``, then 0 (EDM, arXiv 2206.00364, equation 5)."""
    ramp = torch.linspace(0, 1, levels, device=device)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, device=device)])


def reveal_masks(order: Tensor, reveal: str, group_size: int = 1) -> Tensor:
    """(G, B, N) bool: the agents that are visible while each of G groups is revealed; G = 1 for ``all``.

    Args:
        order: (B, N) agent indices, the first to be revealed first.
        reveal: ``one`` (the group alone), ``cumulative`` (it and all before it) or ``all`` (everyone).
        group_size: agents that are revealed together.
    """
    own = order.argsort(dim=-1) // group_size  # (B, N) the group of each agent
    group = torch.arange(-(-order.shape[-1] // group_size), device=order.device)[:, None, None]
    if reveal == "one":
        return own == group
    if reveal == "cumulative":
        return own <= group
    return torch.ones_like(own, dtype=torch.bool)[None]


def agent_order(order: str, batch: int, agents: int, device: torch.device) -> Tensor:
    """(B, N) agent indices in the order they are revealed."""
    ascending = torch.arange(agents, device=device).expand(batch, agents)
    if order == "ascending":
        return ascending
    if order == "descending":
        return ascending.flip(-1)
    return torch.rand(batch, agents, device=device).argsort(dim=-1)


def sample(denoise: Denoise, noise: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """Solve the probability-flow ODE from noise to a sample (EDM algorithm 1; Euler omits its second-order correction).

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
        proposal = x + (after - now) * slope
        if solver == "heun" and level < levels - 1:
            slope = (slope + (proposal - denoise(proposal, after, level)) / after) / 2
            proposal = x + (after - now) * slope
        x = proposal
    return x


def estimates(denoise: Denoise, noise: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """(K, B, S): the estimates of the clean state in :func:`sample`, for the same arguments."""
    seen: dict[int, Tensor] = {}

    def recording(x: Tensor, sigma: Tensor, level: int) -> Tensor:
        estimate = denoise(x, sigma, level)
        seen.setdefault(level, estimate)  # heun calls twice
        return estimate

    sample(recording, noise, sigmas, solver)
    return torch.stack(list(seen.values()))
