"""What every world model offers: it is fitted to a replay, part by part, and imagination knows it by three verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from dima.config import Config
from dima.data import EnvSpec, Episode, View
from dima.experience.replay import Replay, Rows
from dima.nn.optim import Average, Fitter
from dima.runtime.cuda_graph import CudaGraph
from dima.runtime.device import Precision, multiplying
from dima.runtime.fork import parallel_map
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from

L = TypeVar("L")
Loss = tuple[Tensor, dict[str, Tensor]]  # what a gradient step follows, and metrics
Gradient = tuple[list[Tensor | None], dict[str, Tensor]]  # of a loss, in the order of the weights, and its metrics


class Objective(NamedTuple):
    """What a part of a world model is fitted to: a loss on batches of its own choice.

    A GPU records the loss and its way back once and plays them again (:class:`dima.runtime.cuda_graph.CudaGraph`):
    the loss must not wait for the device nor copy from the host, and changes no buffers but its part's, in place.
    What is to differ from iteration to iteration must be a tensor that is changed in place.
    """

    draw: Callable[[Replay], Rows]
    loss: Callable[[Rows], Loss]

    def __call__(self, replay: Replay) -> Loss:
        return self.loss(self.draw(replay))


class Step(NamedTuple, Generic[L]):
    """What an imagined step returns."""

    latent: L
    reward: Tensor  # (B,) team reward
    continuation: Tensor  # (B,) probability that the task goes on


class Reveal(NamedTuple):
    """A next state while it takes shape, over the K levels it is drawn in."""

    agents: list[list[int]]  # whose newest action each level sees
    estimate: Tensor  # (K, B, S) the next state expected at each level, environment units; the last is the draw


class Fitted(NamedTuple):
    """An iteration of gradient steps of one part."""

    metrics: dict[str, Tensor]  # averages
    apart: dict[str, Any] | None  # what changed, when another process did them


class WorldModelConfig(Config, ABC):
    """Settings of a world model; they know how to build it."""

    @abstractmethod
    def build(self, spec: EnvSpec) -> WorldModel[Any]:
        """The world model of a task, freshly initialised from PyTorch's global random state."""


class WorldModel(nn.Module, ABC, Generic[L]):
    """A learnt simulator of a team's world; ``L`` is its own notion of where an imagination stands.

    Everything that crosses this interface is in the environment's units.
    """

    spec: EnvSpec
    fitters: dict[str, Fitter]  # of its parts, by name
    context: int  # real steps, the newest included, that an imagination starts from
    visit_counters: tuple[str, ...] = ()  # names of the visit counts it wants the replay to keep

    def __init__(self) -> None:
        super().__init__()
        self._graphs: dict[tuple[str, Precision], CudaGraph[Rows, Gradient]] = {}

    @property
    def compile_targets(self) -> tuple[str, ...]:
        """Names of the modules that a compiler should look at."""
        return ()

    @abstractmethod
    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        """Update running statistics with new real experience, before fitting to it."""

    @abstractmethod
    def losses(self) -> dict[str, Objective]:
        """What each part is fitted to, the part that takes longest first.

        Parts are named as the attribute that holds them, their fitter, and the visits they want the replay to count.
        """

    def fit(
        self,
        replay: Replay,
        progress: Progress,
        workers: int = 1,
        precision: Precision = "float32",
        cuda_graphs: bool = False,
    ) -> dict[str, Tensor]:
        """One iteration of gradient steps; metrics are averages over the iteration, still on the device.

        Args:
            replay: what to fit to.
            progress: told of each part.
            workers: processes that fit parts side by side, where that is possible; without effect on the results.
            precision: of the losses' matrix products.
            cuda_graphs: on a GPU, launch each gradient as one recorded graph.
        """
        names = list(self.losses())
        seeds = torch.randint(2**62, (len(names),)).tolist()
        gradients = [self._gradient(name, precision, cuda_graphs and replay.device.type == "cuda") for name in names]
        parts = zip(names, gradients, seeds, strict=True)
        jobs = [partial(self._fit, *part, replay, progress) for part in parts]
        metrics: dict[str, Tensor] = {}
        for name, fitted in zip(names, parallel_map(jobs, workers), strict=True):
            metrics |= fitted.metrics
            if fitted.apart is not None:
                self.get_submodule(name).load_state_dict(fitted.apart["part"])
                self.fitters[name].restore(fitted.apart["fitter"])
                replay.visits |= fitted.apart["visits"]
                progress.include(fitted.apart["seconds"], fitted.apart["lap"])
        return metrics

    def _gradient(self, name: str, precision: Precision, recorded: bool) -> Callable[[Rows], Gradient]:
        """What turns a batch of a part into the gradient of its loss."""
        loss_of, fitter = self.losses()[name].loss, self.fitters[name]

        def gradient(rows: Rows) -> Gradient:
            with multiplying(rows.state.device, precision):
                loss, metrics = loss_of(rows)
            return fitter.gradient(loss), metrics

        if not recorded:
            return gradient
        return self._graphs.setdefault((name, precision), CudaGraph(gradient, self.get_submodule(name)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graphs": {}}  # a copy records its own

    def _fit(
        self,
        name: str,
        gradient_of: Callable[[Rows], Gradient],
        seed: int,
        replay: Replay,
        progress: Progress,
        copy: bool,
    ) -> Fitted:
        """The gradient steps of one part, which draw their batches from a seed of their own."""
        part, fitter, steps = self.get_submodule(name).train(), self.fitters[name], Average()
        draw, progress = self.losses()[name].draw, Progress() if copy else progress
        with (
            drawn_from(replay.device, seed),
            fitter.fitting(),
            progress.phase(name, total=fitter.config.updates) as advance,
        ):
            for _ in range(fitter.config.updates):
                gradient, metrics = gradient_of(draw(replay))
                fitter.apply_gradient(gradient)
                del gradient  # or it would outlive the next forward pass
                steps.add(metrics)
                advance()
        part.eval()
        if not copy:
            return Fitted(steps.values(), None)
        changed = {
            "part": part.state_dict(),
            "fitter": fitter.checkpoint(),
            "visits": {key: visits for key, visits in replay.visits.items() if key == name},
            "seconds": progress.seconds,
            "lap": progress.lap(),
        }
        return Fitted(steps.values(), changed)

    @abstractmethod
    def start(self, rows: Rows) -> L:
        """Begin to imagine from the last of ``context`` real rows (B, C, ...)."""

    @abstractmethod
    def observe(self, latent: L) -> View:
        """What the team would see there."""

    @abstractmethod
    def step(self, latent: L, action: Tensor) -> Step[L]:
        """Imagine the consequences of a joint action (B, N, A)."""

    def checkpoint(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs to go on exactly."""
        return {
            "model": self.state_dict(),
            "fitters": {name: fitter.checkpoint() for name, fitter in self.fitters.items()},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on exactly where :meth:`checkpoint` was taken."""
        self.load_state_dict(saved["model"])
        for name, fitter in self.fitters.items():
            fitter.restore(saved["fitters"][name])


@runtime_checkable
class SequentialReveal(Protocol[L]):
    """What a world model offers besides when it takes in the agents' actions one after another."""

    @property
    def reveal_order(self) -> tuple[int, ...]:
        """The agents in the order :meth:`WorldModel.step` reveals them; where it draws one, any."""

    def step_in_order(self, latent: L, action: Tensor, order: Sequence[int]) -> Step[L]:
        """:meth:`WorldModel.step` with the agents revealed in a given order; draws the same noise under any."""

    def reveal(self, latent: L, action: Tensor, order: Sequence[int]) -> Reveal:
        """How the next state takes shape in such a step; leaves ``latent`` as it is."""


@runtime_checkable
class BatchedRewards(Protocol[L]):
    """What a world model offers besides when rewards and ends of an imagination can be told once it is over."""

    @property
    def batched_rewards(self) -> bool:
        """Whether they can on this task; not where they go with something that the imagination depends on."""

    def advance(self, latent: L, action: Tensor) -> L:
        """Where :meth:`WorldModel.step` leads, drawing the same random numbers."""

    def predict_rewards(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and continuations, (B, H) each, of (B, H + 1, S) states and (B, H, N, A) actions: as steps tell."""


@runtime_checkable
class PartialReset(Protocol[L]):
    """What a world model offers besides when imaginations of one batch can begin at different times."""

    def reset_rows(self, latent: L, fresh: L, which: Tensor) -> L:
        """``fresh``, which was just started, where ``which`` (B,) is True; elsewhere ``latent``, which goes on."""


def clip_action(action: Tensor, spec: EnvSpec) -> Tensor:
    """The action the environment carries out: it clips continuous ones to [-1, 1]."""
    return action if spec.discrete else action.clamp(-1, 1)


def mask_from_logits(logits: Tensor, valid: Tensor) -> Tensor:
    """Predicted logits (B, N, A) -> the action mask they stand for, bool, never empty.

    Args:
        logits: of each choice being allowed.
        valid: (N, A) bool, which choices are real.
    """
    logits = logits.masked_fill(~valid, -torch.inf)
    return (logits > 0) | (logits == logits.amax(-1, keepdim=True))


def select_rows(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """(B, ...) rows of ``yes`` where ``which`` (B,) is True, of ``no`` elsewhere."""
    return torch.where(which.reshape(-1, *[1] * (no.dim() - 1)), yes, no)
