"""What every world model offers: it is fitted to a replay, and imagination knows it by three verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from dima.data import EnvSpec, Episode, View
from dima.progress import Progress
from dima.replay import Replay, Rows

L = TypeVar("L")


class Step(NamedTuple, Generic[L]):
    """What an imagined step returns."""

    latent: L
    reward: Tensor  # (B,) team reward
    proceed: Tensor  # (B,) probability that the task goes on


class Reveal(NamedTuple):
    """A next state while it takes shape, over the K levels it is drawn in."""

    agents: list[list[int]]  # whose newest action each level sees
    estimate: Tensor  # (K, B, S) the next state expected at each level, environment units; the last is the draw


class WorldModel(nn.Module, ABC, Generic[L]):
    """A learnt simulator of a team's world; ``L`` is its own notion of where an imagination stands.

    Everything that crosses this interface is in the environment's units.
    """

    spec: EnvSpec
    context: int  # real steps, the newest included, that an imagination starts from
    visitors: tuple[str, ...] = ()  # names of the visit counts it wants the replay to keep

    @abstractmethod
    def take_in(self, episodes: Sequence[Episode]) -> None:
        """Update running statistics with new real experience, before fitting to it."""

    @abstractmethod
    def fit(self, replay: Replay, progress: Progress) -> dict[str, Tensor]:
        """One round of gradient steps; metrics are averages over the round, still on the device."""

    @abstractmethod
    def start(self, rows: Rows) -> L:
        """Begin to imagine from the last of ``context`` real rows (B, C, ...)."""

    @abstractmethod
    def observe(self, latent: L) -> View:
        """What the team would see there."""

    @abstractmethod
    def step(self, latent: L, action: Tensor) -> Step[L]:
        """Imagine the consequences of a joint action (B, N, A)."""

    @abstractmethod
    def checkpoint(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs to go on exactly."""

    @abstractmethod
    def restore(self, saved: dict[str, Any]) -> None:
        """Go on exactly where :meth:`checkpoint` was taken."""


@runtime_checkable
class AgentByAgent(Protocol[L]):
    """What a world model offers besides when it takes in the agents' actions one after another."""

    @property
    def reveal_order(self) -> tuple[int, ...]:
        """The agents in the order :meth:`WorldModel.step` reveals them; where it draws one, any."""

    def step_in_order(self, latent: L, action: Tensor, order: Sequence[int]) -> Step[L]:
        """:meth:`WorldModel.step` with the agents revealed in a given order; draws the same noise under any."""

    def reveal(self, latent: L, action: Tensor, order: Sequence[int]) -> Reveal:
        """How the next state takes shape in such a step; leaves ``latent`` as it is."""


@runtime_checkable
class Renewable(Protocol[L]):
    """What a world model offers besides when imaginations of one batch can begin at different times."""

    def renew(self, latent: L, fresh: L, which: Tensor) -> L:
        """``fresh``, which was just started, where ``which`` (B,) is True; elsewhere ``latent``, which goes on."""
