"""An algorithm, a world model and a callback of one's own in one file: a search for a policy in imagination.

    export PYTHONPATH=examples
    dima train toy/walk --algorithm own_everything:DreamingCemConfig --preset small --run runs/own-everything \
        --callbacks own_everything:StopWhenSure dima:KeepBest
    dima evaluate runs/own-everything --algorithm own_everything:DreamingCemConfig --best

Half a minute. The search is that of ``own_algorithm.py``, which tries its policies in the real task, the world model
that of ``own_world_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from own_algorithm import Cem, CemConfig
from own_world_model import MlpModelConfig

import dima
from dima.algorithms.base import Metrics
from dima.config import Count
from dima.data import EnvSpec
from dima.experience.collector import Collector
from dima.experience.replay import Replay, ReplayConfig
from dima.nn.optim import FitConfig
from dima.runtime.progress import Progress
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.rollout import imagine


@dataclass(frozen=True)
class LightModelConfig(MlpModelConfig):
    """The MLP of ``own_world_model.py``, lighter."""

    hidden: tuple[Count, ...] = (64, 64)  # widths of the MLP's hidden layers
    network_fit: FitConfig = FitConfig(updates=200, batch=128, lr=2e-3)
    decoder_fit: FitConfig = FitConfig(updates=100, batch=128, lr=2e-3)


@dataclass(frozen=True)
class DreamingCemConfig(CemConfig):
    """Cross-entropy search for a linear policy, in the rollouts of a world model."""

    world_model: LightModelConfig = LightModelConfig()
    replay: ReplayConfig = ReplayConfig(capacity=20_000)
    iteration_steps: Count = 300  # real steps collected in an iteration
    searches: Count = 4  # times that the distribution moves in an iteration
    starts: Count = 32  # imagined rollouts of each policy
    horizon: Count = 15  # steps of a rollout

    presets: ClassVar[Mapping[str, Any]] = {"small": {"steps": 3_000, "evaluate_every": 300}}

    def build(self, spec: EnvSpec, device: str) -> DreamingCem:
        return DreamingCem(self, spec, device)


class DreamingCem(Cem):
    """Policies are tried in imagination; the world model learns from the real task."""

    config: DreamingCemConfig

    def __init__(self, config: DreamingCemConfig, spec: EnvSpec, device: str) -> None:
        super().__init__(config, spec, device)
        self.world_model = config.world_model.build(spec).to(device).eval()
        self.fitter = WorldModelFitter(self.world_model)
        self.replay: Replay = Replay(config.replay, spec, device, self.world_model.visit_counters)

    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        with progress.phase("collect"):
            self.actor.weight.copy_(self.mean + self.std * torch.randn_like(self.mean))  # explores
            episodes = collector.play(self.actor, self.config.iteration_steps)
            self.actor.weight.copy_(self.mean)
        for episode in episodes:
            self.replay.add(episode)
        self.world_model.update_statistics(episodes)
        return {"collect/return": float(np.mean([episode.team_return for episode in episodes]))}

    def fit(self, progress: Progress) -> Metrics:
        return {**self.fitter.fit(self.replay, progress)}

    def update_policy(self, progress: Progress, done: float) -> Metrics:
        config, metrics = self.config, Metrics()
        with progress.phase("search", total=config.searches) as advance:
            for _ in range(config.searches):
                noise = torch.randn(config.population, *self.mean.shape, device=self.mean.device)
                start = self.world_model.imagination_rows(self.replay, config.starts)
                self.candidates, scores = self.mean + self.std * noise, []
                for weight in self.candidates:
                    self.actor.weight.copy_(weight)
                    rollout = imagine(self.world_model, self.actor.act, start, config.horizon)
                    scores.append(rollout.reward.sum(1).mean())
                self.scores = torch.stack(scores)
                metrics = super().update_policy(progress, done)
                advance()
        return metrics | {"policy/imagined_return": self.scores.mean()}

    def checkpoint(self) -> dict[str, Any]:
        return super().checkpoint() | {"fitter": self.fitter.checkpoint(), "replay": self.replay.checkpoint()}

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        super().restore(saved, chunks)
        if chunks is not None:
            self.fitter.restore(saved["fitter"])
            self.replay.restore(saved["replay"], chunks)


class StopWhenSure(dima.Callback):
    """Stop when the search has been narrow for some iterations."""

    def __init__(self, std: float = 0.1, patience: int = 3) -> None:
        self.std, self.patience = std, patience
        self.narrow = 0  # iterations

    def on_iteration(self, status: dima.Status) -> None:
        self.narrow = self.narrow + 1 if status.metrics["policy/std"] < self.std else 0
        if self.narrow == self.patience:
            status.stop(f"the search has been narrower than {self.std} for {self.patience} iterations")

    def state_dict(self) -> dict[str, Any]:
        return {"narrow": self.narrow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.narrow = state["narrow"]
