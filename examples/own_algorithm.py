"""An algorithm in one file outside the library: cross-entropy search over linear policies.

    python examples/own_algorithm.py

or by the name of its settings class:

    PYTHONPATH=examples dima train toy/walk --algorithm own_algorithm:CemConfig --preset small

A few seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dima
from dima.algorithms.base import Algorithm, AlgorithmConfig, Metrics
from dima.config import Positive, Range
from dima.data import EnvSpec, View
from dima.experience.collector import Collector
from dima.policies.base import Policy
from dima.runtime.progress import Progress


@dima.register_algorithm("cem")
@dataclass(frozen=True)
class CemConfig(AlgorithmConfig):
    """Cross-entropy search for a linear policy that the agents share (Mannor et al. 2003)."""

    population: Annotated[int, Range(2)] = 24  # policies tried in an iteration
    elite: Annotated[int, Range(2)] = 6  # of which the best make the next distribution
    std: Positive = 1.0  # initial standard deviation of each weight
    min_std: Positive = 0.05  # its lower bound, so that the search goes on

    presets: ClassVar[Mapping[str, Any]] = {"small": {"steps": 15_000, "evaluate_every": 3_000}}

    def build(self, spec: EnvSpec, device: str) -> Cem:
        return Cem(self, spec, device)


class LinearPolicy(Policy):
    """Each agent's action is linear in its observation."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.zeros(spec.action_dim, spec.obs_dim + 1), requires_grad=False)

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        score = F.linear(view.obs, self.weight[:, :-1], self.weight[:, -1])  # (B, N, A)
        if self.spec.discrete:
            choice = score.masked_fill(~view.action_mask, -torch.inf).argmax(-1)
            action = F.one_hot(choice, self.spec.action_dim).float()
        else:
            action = score.clamp(-1, 1) * view.action_mask  # padding stays zero
        return action, score.new_zeros(score.shape[:-1])


class Cem(Algorithm):
    """A Gaussian over policies moves to the best of those that it drew."""

    config: CemConfig
    mean: Tensor  # (A, O + 1) of the weights
    std: Tensor

    def __init__(self, config: CemConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.actor = LinearPolicy(spec)
        self.register_buffer("mean", torch.zeros_like(self.actor.weight))
        self.register_buffer("std", torch.full_like(self.actor.weight, config.std))
        self.to(device)

    @property
    def policy(self) -> Policy:
        return self.actor

    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        noise = torch.randn(self.config.population, *self.mean.shape, device=self.mean.device)
        self.candidates, scores = self.mean + self.std * noise, []
        with progress.phase("collect", total=len(noise)) as advance:
            for weight in self.candidates:
                self.actor.weight.copy_(weight)
                episodes = collector.play(self.actor, min_steps=1)  # one in each environment
                scores.append(sum(episode.team_return for episode in episodes) / len(episodes))
                advance()
        self.scores = torch.tensor(scores)
        return {"collect/return": self.scores.mean()}

    def update_policy(self, progress: Progress, done: float) -> Metrics:
        best = self.candidates[self.scores.topk(min(self.config.elite, len(self.scores))).indices]
        self.mean.copy_(best.mean(0))
        self.std.copy_(best.std(0).clamp(min=self.config.min_std))
        self.actor.weight.copy_(self.mean)
        return {"policy/std": self.std.mean()}

    def checkpoint(self) -> dict[str, Any]:
        return {"networks": self.state_dict()}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.load_state_dict(saved["networks"])


def main(folder: str | Path = "runs/own-algorithm", steps: int = 15_000) -> float:
    """Train; the mean team return of the policy."""
    changes = {"run": str(folder), "steps": steps, "device": "cpu", "threads": 1}
    print(dima.train(dima.build_config("toy/walk", "cem", "small", changes), overwrite=True).table())
    return dima.evaluate(folder, episodes=20, device="cpu").mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default="runs/own-algorithm", help="where the run is kept")
    parser.add_argument("--steps", type=int, default=15_000, help="environment steps")
    main(**vars(parser.parse_args()))
