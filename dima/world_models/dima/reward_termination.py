"""Reward, continuation and next action masks of a step: heads, losses, and what a network for them must offer.

docs/reference/dima.md, "Reward and termination". The network is the published Transformer over the rollout
(``reward_transformer``) or an MLP of the transition (``reward_mlp``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, DropoutRate, NonEmpty, NonNegative, Range, SmallCount
from dima.data import EnvSpec, blank
from dima.errors import ConfigError
from dima.nn.attention import KeysValues
from dima.nn.mlp import ToFloat32
from dima.nn.normalizer import TINY, Normalizer
from dima.world_models.dima.additive_termination import PRIOR, AdditiveTermination


@dataclass(frozen=True)
class RewardTerminationConfig(Config):
    """The model of reward, continuation and action masks."""

    backbone: Literal["transformer", "mlp"] = "transformer"  # over the rollout so far, or of a single transition
    dim: Count = 256  # transformer: width of a token
    layers: SmallCount = 6  # transformer: blocks
    heads: Count = 4  # transformer: heads of a block
    dropout: DropoutRate = 0.1  # transformer: while training
    segment: Count = 15  # transformer: steps of a training segment, and of the memory in a rollout
    # transformer: self-attention layers over the agents' actions
    action_layers: Annotated[int, Range(0, 1000)] = 3
    action_heads: Count = 8  # transformer: heads of such a layer
    hidden: Annotated[tuple[Count, ...], NonEmpty()] = (256, 256)  # mlp: widths of the hidden layers
    next_state: bool = False  # transformer: predictions may also depend on the state that is reached
    normalize_reward: bool = False  # predict rewards in units of their running mean and deviation
    input_lasso: NonNegative = 0.0  # mlp: weight of the group lasso over input features (arXiv 1711.07592); 0: none
    # how continuation is predicted: from the reward's features, which it trains too (shared) or takes as they are
    # (readout), or from thresholds on the reached state's features (additive)
    termination: Literal["shared", "readout", "additive"] = "shared"
    terminal_share: Annotated[float, Range(0, 0.9)] = 0.0  # mlp: share of a batch drawn among terminal steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim % self.action_heads:
            raise ConfigError(
                f"dim = {self.dim} must be divisible by heads = {self.heads} and action_heads = {self.action_heads}"
            )


class Prediction(NamedTuple):
    """Predictions for T steps; without the axis T for a single one."""

    reward: Tensor  # (B, T) in the environment's units
    continuation: Tensor  # (B, T) probability that the episode does not terminate
    mask_logits: Tensor | None  # (B, T, N, A) next step's allowed actions, on tasks that forbid some


@dataclass
class Segments:
    """A training batch; rows may follow each other across episode ends."""

    state: Tensor  # (B, T, S) normalised
    action: Tensor  # (B, T, N, A)
    next_state: Tensor  # (B, T, S) normalised
    reward: Tensor  # (B, T)
    terminated: Tensor  # (B, T) bool
    next_mask: Tensor  # (B, T, N, A) bool, actions allowed after this step
    episode: Tensor  # (B, T) int, equal within an episode
    weight: Tensor  # (B, T) of each step in the losses, 0 where no action was taken (the last row of an episode)
    next_alive: Tensor | None = None  # (B, T, N) bool, who is there after this step; None: everybody


@dataclass(frozen=True)
class Memory:
    """Keys and values of a rollout so far; a value like every latent, never changed in place."""

    past: tuple[KeysValues, ...] = ()  # of each block, (B, heads, tokens, head_dim)
    begin: Tensor | None = None  # (B,) first token of each row's own episode; None: all began together

    @property
    def tokens(self) -> int:
        """How many tokens are remembered."""
        return self.past[0][0].shape[-2] if self.past else 0

    def reset_rows(self, rows: Tensor) -> Memory:
        """Let the selected ``rows`` (B,) bool forget what was; they keep their place among the positions.

        In training, too, episodes begin anywhere in a segment.
        """
        begin = torch.zeros_like(rows, dtype=torch.long) if self.begin is None else self.begin
        return Memory(self.past, torch.where(rows, self.tokens, begin))


class RewardTermination(nn.Module, ABC):
    """Transitions -> reward and continuation of every step; a subclass is the network of the features."""

    action_valid: Tensor  # (N, A) bool

    def __init__(self, config: RewardTerminationConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        self.reward_scale = Normalizer((), least=TINY)

    def build_heads(self, dim: int) -> None:
        """Heads that read features of width ``dim``."""
        spec = self.spec
        self.reward_head = _head(dim, 1)
        self.continuation_head = _continuation_head(self.config.termination, dim, spec)
        masked = spec.discrete and spec.masks_actions
        self.mask_head = _head(dim, spec.n_agents * spec.action_dim) if masked else None

    @abstractmethod
    def features(self, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor) -> Tensor:
        """(B, T, D) features of T steps, arguments as for :meth:`forward`."""

    @abstractmethod
    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and continuation of every step of a finished rollout, (B, H) each, as by :meth:`step`.

        Args:
            state: (B, H + 1, S) normalised.
            action: (B, H, N, A).
        """

    @abstractmethod
    def step(self, memory: Memory, state: Tensor, action: Tensor, next_state: Tensor) -> tuple[Prediction, Memory]:
        """One step of a rollout, (B, S), (B, N, A) and (B, S): its prediction, and what is remembered after it."""

    def forward(self, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor) -> Prediction:
        """Predictions for whole segments.

        Args:
            state: (B, T, S) normalised.
            action: (B, T, N, A).
            episode: (B, T) numbers that differ between episodes; no step sees another episode or the future.
            next_state: (B, T, S) normalised states that were reached.
        """
        return self.read(self.features(state, action, episode, next_state), next_state)

    def read(self, features: Tensor, next_state: Tensor) -> Prediction:
        """The heads' predictions, from features (B, T, D) and the states (B, T, S) that were reached."""
        reward = self.reward_head(features)[..., 0]
        if self.config.normalize_reward:
            reward = self.reward_scale.denormalize(reward)
        continuation = self.continuation_logit(features, next_state).sigmoid()
        return Prediction(reward, continuation, self.mask_logits(features))

    def continuation_logit(self, features: Tensor, next_state: Tensor) -> Tensor:
        """(B, T) log-odds of the episode going on."""
        if isinstance(self.continuation_head, AdditiveTermination):
            return -self.continuation_head(next_state)
        if self.config.termination == "readout":
            features = features.detach()
        logit: Tensor = self.continuation_head(features)[..., 0]
        return logit

    def mask_logits(self, features: Tensor) -> Tensor | None:
        """(B, T, N, A) log-odds of the next actions being allowed, on tasks that forbid some."""
        if self.mask_head is None:
            return None
        return self.mask_head(features).unflatten(-1, (self.spec.n_agents, self.spec.action_dim))

    def loss(self, batch: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        """Smooth L1 of the reward, negative log-likelihood of continuation and of the next action masks."""
        features = self.features(batch.state, batch.action, batch.episode, batch.next_state)
        total = batch.weight.sum().clamp(min=1)

        def average(values: Tensor) -> Tensor:
            return (values * batch.weight).sum() / total

        reward, continuation = self.reward_head(features)[..., 0], self.continuation_logit(features, batch.next_state)
        target = self.reward_scale.normalize(batch.reward) if self.config.normalize_reward else batch.reward
        goes_on = (~batch.terminated).float()
        parts = {
            "reward": average(F.smooth_l1_loss(reward, target, reduction="none")),
            "continuation": average(F.binary_cross_entropy_with_logits(continuation, goes_on, reduction="none")),
        }
        if (logits := self.mask_logits(features)) is not None:
            error = F.binary_cross_entropy_with_logits(logits, batch.next_mask.to(logits.dtype), reduction="none")
            error = blank(error, batch.next_alive)
            parts["mask"] = average((error * self.action_valid).sum((-1, -2)) / self.action_valid.sum())
        loss = torch.stack(list(parts.values())).sum()
        return loss, {f"reward_model/{name}": part.detach() for name, part in parts.items()}


def _head(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out), ToFloat32())


def _continuation_head(termination: str, dim: int, spec: EnvSpec) -> nn.Module:
    if termination == "additive":
        return AdditiveTermination(spec)
    if termination == "shared":
        return _head(dim, 1)
    readout = nn.Linear(dim, 1)
    nn.init.zeros_(readout.weight)
    nn.init.constant_(readout.bias, PRIOR)
    return nn.Sequential(readout, ToFloat32())
