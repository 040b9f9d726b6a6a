"""Fit a world model's objectives: batches, gradients, averaged weights, CUDA graphs, forked parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dima.experience.replay import Replay, Rows
from dima.nn.optim import Average, Fitter
from dima.runtime.cuda_graph import CudaGraph
from dima.runtime.device import Precision, autocast
from dima.runtime.fork import parallel_map
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.world_models.base import WorldModel

Gradient = tuple[list[Tensor | None], dict[str, Tensor]]  # in the order of the weights, and metrics of the loss


class FittedPart(NamedTuple):
    """An iteration's gradient steps of one part."""

    metrics: dict[str, Tensor]  # averages
    changes: dict[str, Any] | None  # what another process changed in its copy; None: changed in place


class WorldModelFitter:
    """Gradient steps on each objective of a world model, part by part.

    Args:
        world_model: on its device already; the optimisers hold its parameters.
        precision: of the losses' matrix products.
        workers: processes that fit parts in parallel, where that is possible; results do not depend on it.
        cuda_graphs: on a GPU, launch each gradient as one captured graph.
    """

    def __init__(
        self,
        world_model: WorldModel[Any],
        precision: Precision = "float32",
        workers: int = 1,
        cuda_graphs: bool = False,
    ) -> None:
        self.world_model, self.precision = world_model, precision
        self.workers, self.cuda_graphs = workers, cuda_graphs
        self.objectives = world_model.objectives()
        self.fitters = {
            name: Fitter(world_model.get_submodule(name), objective.fit) for name, objective in self.objectives.items()
        }
        self._graphs: dict[str, CudaGraph[Rows, Gradient]] = {}

    def fit(self, replay: Replay, progress: Progress, iteration: int | None = None) -> dict[str, Tensor]:
        """One iteration of gradient steps; metrics are averages over it, still on the device.

        Args:
            replay: the experience to fit to.
            progress: told of each part.
            iteration: its number, from 1 on: parts that wait for later ones are left out; None: none is.
        """
        parts = {name: one for name, one in self.objectives.items() if one.needed()}
        due = [name for name, one in parts.items() if iteration is None or iteration > one.after]
        seeds = torch.randint(2**62, (len(due),)).tolist()
        jobs = [
            partial(self._fit_part, name, self._gradient_of(name, replay), seed, replay, progress)
            for name, seed in zip(due, seeds, strict=True)
        ]
        workers = 1 if self.world_model.fits_in_order else self.workers
        metrics: dict[str, Tensor] = {}
        for name, fitted in zip(due, parallel_map(jobs, workers), strict=True):
            metrics |= fitted.metrics
            if fitted.changes is not None:
                self.world_model.get_submodule(name).load_state_dict(fitted.changes["part"])
                self.fitters[name].restore(fitted.changes["fitter"])
                replay.visits |= fitted.changes["visits"]
                progress.include(fitted.changes["seconds"], fitted.changes["lap"])
        return metrics

    def _gradient_of(self, name: str, replay: Replay) -> Callable[[Rows], Gradient]:
        loss_of, fitter = self.objectives[name].loss, self.fitters[name]

        def gradient(rows: Rows) -> Gradient:
            with autocast(rows.state.device, self.precision):
                loss, metrics = loss_of(rows)
            return fitter.gradient(loss), metrics

        if not (self.cuda_graphs and replay.device.type == "cuda"):
            return gradient
        if name not in self._graphs:
            self._graphs[name] = CudaGraph(gradient, self.world_model.get_submodule(name))
        return self._graphs[name]

    def _fit_part(
        self,
        name: str,
        gradient_of: Callable[[Rows], Gradient],
        seed: int,
        replay: Replay,
        progress: Progress,
        forked: bool,
    ) -> FittedPart:
        """The gradient steps of one part, which samples its batches from a seed of its own."""
        part, fitter, steps = self.world_model.get_submodule(name), self.fitters[name], Average()
        sample, progress = self.objectives[name].sample, Progress() if forked else progress
        part.train()
        with (
            drawn_from(replay.device, seed),
            fitter.fitting(),
            progress.phase(name, total=fitter.config.updates) as advance,
        ):
            for _ in range(fitter.config.updates):
                gradient, metrics = gradient_of(sample(replay))
                fitter.apply_gradient(gradient)
                del gradient  # or it would outlive the next forward pass
                steps.add(metrics)
                advance()
        part.eval()
        if not forked:
            return FittedPart(steps.values(), None)
        changes = {
            "part": part.state_dict(),
            "fitter": fitter.checkpoint(),
            "visits": {key: visits for key, visits in replay.visits.items() if key == name},
            "seconds": progress.seconds,
            "lap": progress.lap(),
        }
        return FittedPart(steps.values(), changes)

    def checkpoint(self) -> dict[str, Any]:
        """The optimisers' state, for :meth:`restore`; weights are the world model's own."""
        return {name: fitter.checkpoint() for name, fitter in self.fitters.items()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue exactly where :meth:`checkpoint` was taken."""
        for name, fitter in self.fitters.items():
            fitter.restore(saved[name])
