"""World-model interface: training objectives, and ``start`` / ``observe`` / ``step`` for rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from dima.config import Config
from dima.data import EnvSpec, Episode, View, blank
from dima.experience.replay import Replay, Rows
from dima.nn.optim import FitConfig
from dima.policies.base import Perception

L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)
Loss = tuple[Tensor, dict[str, Tensor]]  # a scalar to differentiate, and metrics


class Objective(NamedTuple):
    """A training objective: how to sample a batch, its loss, and its optimiser's settings.

    On a GPU, loss and backward pass are captured as a CUDA graph (:class:`dima.runtime.cuda_graph.CudaGraph`): the loss
    must not wait for the device nor copy from the host, and may change only the buffers of its own part, in place. A
    value that changes between iterations must be a tensor that is changed in place.
    """

    sample: Callable[[Replay], Rows]
    loss: Callable[[Rows], Loss]
    fit: FitConfig
    after: int = 0  # first iterations in which this part is not fitted
    needed: Callable[[], bool] = lambda: True  # asked in every iteration: whether there is something to fit


class Step(NamedTuple, Generic[L]):
    """An imagined step."""

    latent: L
    reward: Tensor  # (B,) team reward
    continuation: Tensor  # (B,) probability that the episode does not terminate


class Reveal(NamedTuple):
    """Denoised estimates of the next state at each of K noise levels."""

    agents: list[list[int]]  # agents whose newest action each level sees
    estimate: Tensor  # (K, B, S) environment units; the last is the sample


class WorldModelConfig(Config, ABC):
    """Settings of a world model, and how to build it."""

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest size of rewards that are learnt, by the flag that would learn any; none by default."""
        return {}

    @abstractmethod
    def build(self, spec: EnvSpec) -> WorldModel[Any]:
        """The world model of a task, initialised from PyTorch's global random state."""


class WorldModel(nn.Module, ABC, Generic[L]):
    """A learnt simulator of a team's environment; ``L`` is its latent state.

    Everything that crosses this interface is in the environment's units. Latents are values: no method changes the one
    it is given, so stepping twice from a latent gives the same.
    """

    spec: EnvSpec
    context: int  # real steps, the newest included, that a rollout starts from
    visit_counters: tuple[str, ...] = ()  # objectives that sample the replay's least visited rows
    capturable: bool = True  # on a GPU, as a CUDA graph: rollouts never wait for the device nor copy from the host
    fits_in_order: bool = False  # a part learns from the parts before it in ``objectives``: no two at the same time

    def __repr__(self) -> str:
        weights = sum(weight.numel() for weight in self.parameters())
        parts = ", ".join(name for name, _ in self.named_children())
        return f"<{type(self).__name__} of {self.spec.n_agents} agents: {weights:,} weights in {parts or 'no parts'}>"

    @property
    def predicts_state(self) -> bool:
        """Whether :meth:`observe` tells the global state; where a model predicts observations alone, it is NaN."""
        return True

    @property
    def compile_targets(self) -> tuple[str, ...]:
        """Names of the modules worth compiling."""
        return ()

    # -- what a policy sees: by default what the team does --------------------------------------------------------

    @property
    def policy_spec(self) -> EnvSpec:
        """Sizes of the views that policies are trained on; where these do not tell who is there, nobody leaves."""
        return self.spec

    @property
    def perception(self) -> Perception | None:
        """What turns real views into those that policies are trained on; None: nothing does."""
        return None

    def policy_view(self, latent: L) -> View:
        """What a policy sees of a latent."""
        return self.observe(latent)

    @abstractmethod
    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        """Update running statistics with new real experience, before fitting to it."""

    @abstractmethod
    def objectives(self) -> dict[str, Objective]:
        """The objective of each part, by the name of the attribute that holds it.

        The slowest first; with ``fits_in_order`` each before those that learn from it.
        """

    @abstractmethod
    def start(self, rows: Rows) -> L:
        """The latent at the last of ``context`` real rows (B, C, ...)."""

    def imagination_rows(self, replay: Replay, batch: int) -> Rows:
        """(batch, C, ...) real rows for :meth:`starts`."""
        return replay.gather(replay.recent(batch), self.context - 1, 0)

    def starts(self, rows: Rows) -> L:
        """The latents that policies are trained from, which may be more than one for each of the windows."""
        return self.start(rows)

    @abstractmethod
    def observe(self, latent: L) -> View:
        """The team's view of a latent."""

    @abstractmethod
    def step(self, latent: L, action: Tensor) -> Step[L]:
        """Sample the consequences of a joint action (B, N, A)."""


@runtime_checkable
class SequentialReveal(Protocol[L]):
    """Optional protocol: models that reveal agents' actions sequentially."""

    @property
    def reveal_order(self) -> tuple[int, ...]:
        """The order in which :meth:`WorldModel.step` reveals the agents; where it draws one at random, any."""

    def step_in_order(self, latent: L, action: Tensor, order: Sequence[int]) -> Step[L]:
        """:meth:`WorldModel.step` with the agents revealed in a given order; draws the same noise for every order."""

    def reveal(self, latent: L, action: Tensor, order: Sequence[int]) -> Reveal:
        """The denoised estimates of such a step."""


@runtime_checkable
class BatchedRewards(Protocol[L]):
    """Optional protocol: predict rewards and continuations of a finished rollout in one pass."""

    @property
    def batched_rewards(self) -> bool:
        """Whether this is possible on this task: not where the rollout itself depends on what is predicted."""

    def advance(self, latent: L, action: Tensor) -> L:
        """The latent that :meth:`WorldModel.step` returns, with the same random numbers."""

    def predict_rewards(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and continuations, (B, H) each, of (B, H + 1, S) states and (B, H, N, A) actions, as by steps."""


@runtime_checkable
class Uncertain(Protocol[L_contra]):
    """Optional protocol: several networks predict the same step, and how far they disagree tells where data are few."""

    @property
    def members(self) -> int:
        """How many there are; a single one cannot disagree."""

    def uncertainty(self, latent: L_contra, action: Tensor) -> Tensor:
        """How far the predictions of such a step differ, (B,), in units of the reward.

        The standard deviation over the members of the state's predicted change, in that of real changes, averaged over
        features; times the standard deviation of real rewards.
        """


@runtime_checkable
class StepsInPlace(Protocol[L]):
    """Optional protocol: steps that reuse the memory of a latent which nobody needs any more."""

    def step_(self, latent: L, action: Tensor) -> Step[L]:
        """:meth:`WorldModel.step`, the same numbers; ``latent`` must not be used afterwards."""


@runtime_checkable
class PartialReset(Protocol[L]):
    """Optional protocol: single rollouts of a batch can be reset."""

    def reset_rows(self, latent: L, fresh: L, rows: Tensor) -> L:
        """Replace the selected ``rows``, (B,) bool, by those of ``fresh``; keep the others."""


def cheapest_step(world_model: WorldModel[L]) -> Callable[[L, Tensor], Step[L]]:
    """Its step for rollouts that use every latent once."""
    return world_model.step_ if isinstance(world_model, StepsInPlace) else world_model.step


def observe(world_model: WorldModel[L], latent: L, alive: Tensor | None = None) -> View:
    """The team's view of a latent, in which agents that have left stay away and observe zeros.

    Args:
        world_model: predicts the flags of who is there, as part of the state; those above a half are 1. Where it does
            not know the state, everybody stays.
        latent: to observe.
        alive: (B, N) bool, who was there before; None: all.
    """
    view, spec = world_model.observe(latent), world_model.spec
    predicted = spec.alive(view.state)
    if predicted is None or not world_model.predicts_state:
        return view
    alive = predicted if alive is None else predicted & alive
    state = torch.cat([spec.own_state(view.state), alive.to(view.state.dtype)], dim=-1)
    return replace(view, obs=blank(view.obs, alive), state=state)


def clip_action(action: Tensor, spec: EnvSpec) -> Tensor:
    """The action that the environment carries out: continuous ones are clipped to [-1, 1]."""
    return action if spec.discrete else action.clamp(-1, 1)


def mask_from_logits(logits: Tensor, valid: Tensor) -> Tensor:
    """The action mask (B, N, A) that logits predict, bool, never empty.

    Args:
        logits: (B, N, A), of each choice being allowed.
        valid: (N, A) bool, which choices are real.
    """
    logits = logits.masked_fill(~valid, -torch.inf)
    return (logits > 0) | (logits == logits.amax(-1, keepdim=True))


def select_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """(B, ...) ``yes`` where ``rows`` (B,) is True, ``no`` elsewhere."""
    return torch.where(rows.reshape(-1, *[1] * (no.dim() - 1)), yes, no)


def replace_rows(latent: L, fresh: L, rows: Tensor) -> L:
    """:meth:`PartialReset.reset_rows` for latents that are dataclasses of tensors (B, ...)."""
    old, new = (vars(one) for one in (latent, fresh))
    selected: dict[str, Any] = {f.name: select_rows(rows, new[f.name], old[f.name]) for f in fields(latent)}  # type: ignore[arg-type]
    return replace(latent, **selected)  # type: ignore[type-var]
