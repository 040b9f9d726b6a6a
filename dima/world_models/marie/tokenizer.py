"""Tokenizers: an agent's observation as K codes of a codebook, and actions as bins (docs/reference/marie.md, "Tokens").

Both are shared by all agents; padding reaches no loss and decodes to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from dima.config import Config, Count, Fraction, NonEmpty, NonNegative, Range
from dima.data import EnvSpec, View
from dima.nn.mlp import mlp
from dima.nn.normalizer import Normalizer
from dima.nn.quantizer import FiniteScalarQuantizer, VectorQuantizer
from dima.policies.base import Perception


@dataclass(frozen=True)
class TokenizerConfig(Config):
    """The autoencoder that turns an observation into discrete tokens; published sizes."""

    bottleneck: Literal["vq", "fsq"] = "vq"  # learnt codebook, or finite scalar quantisation
    hidden: tuple[Count, ...] = (256, 256)  # widths of encoder and decoder
    tokens: Count = 16  # tokens of an observation
    token_dim: Count = 64  # width of a codebook entry (vq)
    codebook: Count = 512  # codebook entries, shared by agents and tokens (vq)
    decay: Fraction = 0.8  # of the codebook's moving averages (vq)
    usage: NonNegative = 0.0  # tokens that an entry counts before the first batch (vq); 0: unused ones sweep the data
    dead_below: NonNegative = 0.0  # revive entries that are used less often per batch (vq); 0 leaves them
    commitment: NonNegative = 10.0  # weight of the commitment loss (vq)
    # levels per coordinate of an fsq token
    fsq_levels: Annotated[tuple[Annotated[int, Range(2)], ...], NonEmpty()] = (8, 8, 8)

    @property
    def vocabulary(self) -> int:
        """Number V of different tokens."""
        return self.codebook if self.bottleneck == "vq" else math.prod(self.fsq_levels)

    @property
    def code_dim(self) -> int:
        """Width E of a codebook entry."""
        return self.token_dim if self.bottleneck == "vq" else len(self.fsq_levels)


class Tokenizer(nn.Module):
    """Observations (..., N, O) <-> tokens (..., N, K)."""

    valid: Tensor  # (N, O) float

    def __init__(self, config: TokenizerConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        dim = config.code_dim
        self.register_buffer("valid", torch.from_numpy(spec.obs_valid).float(), persistent=False)
        self.encoder = mlp((spec.obs_dim, *config.hidden, config.tokens * dim), nn.GELU)
        self.quantizer: VectorQuantizer | FiniteScalarQuantizer = (
            VectorQuantizer(config.codebook, dim, config.decay, config.dead_below, config.usage)
            if config.bottleneck == "vq"
            else FiniteScalarQuantizer(config.fsq_levels)
        )
        self.decoder = mlp((config.tokens * dim, *config.hidden, spec.obs_dim), nn.GELU)

    @property
    def codes(self) -> Tensor:
        """Entries (V, E) of all tokens."""
        return self.quantizer.entries(torch.arange(self.config.vocabulary, device=self.valid.device))

    @torch.no_grad()
    def encode(self, obs: Tensor) -> Tensor:
        """(..., N, O) -> (..., N, K) int."""
        return self.quantizer.index(self._latent(obs))

    def decode(self, tokens: Tensor) -> Tensor:
        """(..., N, K) int -> (..., N, O)."""
        return self._decode(self.quantizer.entries(tokens))

    def loss(self, obs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 reconstruction plus weighted commitment of (B, N, O); updates the codebook."""
        entries, _, commitment = self.quantizer(self._latent(obs))
        error = ((self._decode(entries) - obs).abs() * self.valid).sum() / (self.valid.sum() * len(obs))
        loss = error + self.config.commitment * commitment
        return loss, {"tokenizer/error": error.detach(), "tokenizer/commitment": commitment.detach()}

    def _latent(self, obs: Tensor) -> Tensor:
        """(..., N, O) -> (..., N, K, E)."""
        latent: Tensor = self.encoder(obs).float()
        return latent.unflatten(-1, (self.config.tokens, -1))

    def _decode(self, entries: Tensor) -> Tensor:
        return self.decoder(entries.flatten(-2)).float() * self.valid


class Reconstruction(Perception):
    """What the policy sees of a real view: its observations, encoded and decoded by each agent for itself.

    Args:
        tokenizer: of normalised observations.
        scale: the normaliser, if there is one.
        clamp: keep observations within [-1, 1].
    """

    def __init__(self, tokenizer: Tokenizer, scale: Normalizer | None, clamp: bool) -> None:
        super().__init__()
        self.tokenizer, self.scale, self.clamp = tokenizer, scale, clamp

    def forward(self, view: View, memory: Any, mode: bool) -> tuple[View, Any]:
        return self.view(self.encode(view.obs), view.action_mask, view.previous_action), memory

    def view(self, tokens: Tensor, action_mask: Tensor, previous_action: Tensor) -> View:
        """What a policy sees of tokens (B, N, K): their observations; the critic, all agents'."""
        obs = self.decode(tokens)
        return View(obs, obs.flatten(-2), action_mask, previous_action)

    def encode(self, obs: Tensor) -> Tensor:
        """Observations (..., N, O) in the environment's units -> tokens (..., N, K)."""
        return self.tokenizer.encode(self.normalize(obs))

    def normalize(self, obs: Tensor) -> Tensor:
        """Observations in the tokenizer's units."""
        return obs if self.scale is None else self.scale.normalize(obs)

    def decode(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`encode`, as far as tokens tell."""
        obs = self.tokenizer.decode(tokens)
        if self.scale is not None:
            obs = self.scale.denormalize(obs) * self.tokenizer.valid
        return obs.clamp(-1, 1) if self.clamp else obs


class ActionTokens(nn.Module):
    """An agent's action as tokens: its choice, or the bin of each feature in [-1, 1], (..., N, A) -> (..., N, M) int.

    Args:
        spec: sizes.
        bins: of a continuous feature.
    """

    edges: Tensor  # (bins - 1,) inner edges

    def __init__(self, spec: EnvSpec, bins: int) -> None:
        super().__init__()
        self.discrete = spec.discrete
        self.count = 1 if spec.discrete else spec.action_dim
        self.vocabulary = spec.action_dim if spec.discrete else bins
        # bins are closed on the right; the first edge lies a little below -1
        edges = torch.linspace(-1 - 1e-6, 1, bins + 1, dtype=torch.float64)[1:-1]
        self.register_buffer("edges", edges.float(), persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        if self.discrete:
            return action.argmax(-1, keepdim=True)
        return torch.bucketize(action.float().clamp(-1, 1), self.edges)
