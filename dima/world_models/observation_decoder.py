"""Decode one global state into every agent's observation (docs/reference/dima.md, "Observation decoder").

A regression through a discrete bottleneck: the codebook keeps decoded observations where the data is when imagined
states drift. ``bottleneck = "none"`` is the plain network, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dima.config import Config, Count, Fraction, NonEmpty, NonNegative, Range
from dima.data import EnvSpec, blank
from dima.nn.mlp import mlp
from dima.nn.quantizer import FiniteScalarQuantizer, VectorQuantizer
from dima.world_models.feature_copies import ObservationReadout


@dataclass(frozen=True)
class ObservationDecoderConfig(Config):
    """The network that turns an imagined state into observations."""

    bottleneck: Literal["vq", "fsq", "none"] = "vq"  # learnt codebook, finite scalar quantisation, or plain MLP
    hidden: tuple[Count, ...] = (256, 256)  # widths of encoder and decoder
    tokens: Count = 12  # discrete tokens per state
    token_dim: Count = 64  # width of a codebook entry
    codebook: Count = 256  # number of codebook entries, shared by the tokens
    decay: Fraction = 0.8  # of the codebook's moving averages
    dead_below: NonNegative = 0.0  # revive entries that are used less often per batch; 0 leaves them
    commitment: NonNegative = 10.0  # weight of the commitment loss
    copy: bool = False  # read features that equal one of the state in all data from it, decode only the others
    # levels per coordinate of an fsq token
    fsq_levels: Annotated[tuple[Annotated[int, Range(2)], ...], NonEmpty()] = (8, 6, 5)


class ObservationDecoder(nn.Module):
    """Normalised state ``(..., S)`` -> normalised observations ``(..., N, O)``, padding zero."""

    valid: Tensor
    quantizer: VectorQuantizer | FiniteScalarQuantizer  # but for a plain network

    def __init__(self, config: ObservationDecoderConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.register_buffer("valid", torch.from_numpy(spec.obs_valid).float(), persistent=False)
        self.readout = ObservationReadout(spec) if config.copy else None
        out = spec.n_agents * spec.obs_dim
        if config.bottleneck == "none":
            self.encoder: nn.Module = nn.Identity()
            self.decoder = mlp((spec.state_dim, *config.hidden, out), nn.GELU)
            return
        vq = config.bottleneck == "vq"
        dim = config.token_dim if vq else len(config.fsq_levels)
        self.quantizer = (
            VectorQuantizer(config.codebook, dim, config.decay, config.dead_below)
            if vq
            else FiniteScalarQuantizer(config.fsq_levels)
        )
        self.encoder = mlp((spec.state_dim, *config.hidden, config.tokens * dim), nn.GELU)
        self.decoder = mlp((config.tokens * dim, *config.hidden, out), nn.GELU)

    def forward(self, state: Tensor) -> Tensor:
        """(..., S) -> (..., N, O)."""
        return self._decode(state)[0]

    def loss(self, state: Tensor, obs: Tensor, alive: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 reconstruction plus weighted commitment.

        Args:
            state: (B, S) normalised states.
            obs: (B, N, O) normalised observations.
            alive: (B, N) bool, whose observations count; None: everybody's.
        """
        predicted, commitment = self._decode(state)
        learnt = self.valid if self.readout is None else self.valid * ~self.readout.known
        error = (predicted - obs).abs() * learnt
        if alive is None:
            error = error.sum() / (learnt.sum() * len(state)).clamp(min=1)
        else:
            error = blank(error, alive).sum() / (alive[..., None] * learnt).sum().clamp(min=1)
        loss = error + self.config.commitment * commitment
        return loss, {"decoder/error": error.detach(), "decoder/commitment": commitment.detach()}

    @property
    def is_learnt(self) -> bool:
        """Whether some feature has no copy in the state, so that there is something to fit."""
        return self.readout is None or not bool((self.readout.known | (self.valid == 0)).all())

    def _decode(self, state: Tensor) -> tuple[Tensor, Tensor]:
        code, commitment = self.encoder(state).float(), state.new_zeros(())
        if self.config.bottleneck != "none":
            code, _, commitment = self.quantizer(code.unflatten(-1, (self.config.tokens, -1)))
            code = code.flatten(-2)
        obs = self.decoder(code).float().unflatten(-1, (self.spec.n_agents, self.spec.obs_dim))
        return obs * self.valid, commitment
