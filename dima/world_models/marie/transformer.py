"""Causal Transformer over [observation tokens, action tokens, aggregate] of successive steps, shared by all agents.

docs/reference/marie.md, "World model". It runs on one agent's sequence at a time; only the aggregate knows of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, DropoutRate, NonNegative, Positive, Range, SmallCount
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.attention import TransformerBlock
from dima.nn.dropout import Dropout
from dima.nn.hl_gauss import HLGauss, symexp, symlog
from dima.nn.mlp import mlp
from dima.nn.normalizer import TINY
from dima.world_models.marie.aggregator import Aggregator, AggregatorConfig

TABLE_STD = 0.1  # of embeddings and positions where weights start by the width of their layer


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Sizes of the Transformer and its heads; published ones for MAMuJoCo."""

    dim: Count = 256  # width of a token
    layers: SmallCount = 10
    heads: SmallCount = 4
    dropout: DropoutRate = 0.1  # of embeddings, attention weights and residuals
    steps: Annotated[int, Range(2, 1000)] = 15  # of a training window, and longest memory of a rollout
    reward: Literal["hl_gauss", "smooth_l1"] = "hl_gauss"  # histogram of symlog(reward), or a number
    reward_support: Positive = 3.0  # histograms reach from minus this to this, in symlog units: 3 is a reward of 19
    reward_bins: Count = 128
    # of weights and embeddings at the start; 0: by the width of each layer, which learns several times as fast
    init_std: NonNegative = 0.02
    # add to a token's embedding a linear map of its codebook entry: what is learnt of a code holds for those near it
    embed_codes: bool = False
    # of imagined observation tokens: below 1 the most probable are drawn more often, and hide less of what actions do
    temperature: Positive = 1.0
    aggregator: AggregatorConfig = AggregatorConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise ConfigError(f"dim = {self.dim} must be divisible by heads = {self.heads}")


class Predictions(NamedTuple):
    """What is read from the features of aggregates (..., N, D)."""

    reward: Tensor  # (..., N, bins) logits of a histogram, or (..., N, 1)
    continuation: Tensor  # (..., N) logit
    mask: Tensor | None  # (..., N, A) logits of the next action mask


class Cache(NamedTuple):
    """Keys and values of the P tokens that a rollout can hold, written in place; (R, heads, P, D / heads) a layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def clone(self) -> Cache:
        """A copy of its own."""
        return Cache(tuple(k.clone() for k in self.keys), tuple(v.clone() for v in self.values))


class WorldTransformer(nn.Module):
    """Embeddings, aggregator, blocks and heads.

    Args:
        config: sizes.
        spec: of the environment.
        obs_tokens: K, of an observation.
        vocabulary: V, of these.
        code_dim: E, of a codebook entry.
        action_tokens: M, of an action.
        action_vocabulary: of these.
    """

    def __init__(
        self,
        config: TransformerConfig,
        spec: EnvSpec,
        obs_tokens: int,
        vocabulary: int,
        code_dim: int,
        action_tokens: int,
        action_vocabulary: int,
    ) -> None:
        super().__init__()
        dim = config.dim
        self.config, self.obs_tokens = config, obs_tokens
        self.block_size = obs_tokens + action_tokens + 1  # T tokens of a step
        self.embed_obs = nn.Parameter(torch.empty(vocabulary, dim))
        self.embed_code = nn.Linear(code_dim, dim) if config.embed_codes else None
        self.embed_action = nn.Parameter(torch.empty(action_vocabulary, dim))
        self.position = nn.Parameter(torch.empty(config.steps * self.block_size, dim))
        self.aggregator = Aggregator(config.aggregator, spec.n_agents, obs_tokens + action_tokens, dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, config.dropout, bias=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.histogram = HLGauss(-config.reward_support, config.reward_support, config.reward_bins)
        self.obs_head = mlp((dim, dim, vocabulary))
        self.reward_head = mlp((dim, dim, dim, config.reward_bins if config.reward == "hl_gauss" else 1))
        self.end_head = mlp((dim, dim, dim, 1))
        self.mask_head = mlp((dim, dim, dim, spec.action_dim)) if spec.masks_actions else None
        self._initialise(config.init_std)

    def _initialise(self, std: float) -> None:
        for table in (self.embed_obs, self.embed_action, self.position):
            nn.init.normal_(table, std=std or TABLE_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear) and std:  # PyTorch's own is by the width
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    # -- embeddings -----------------------------------------------------------------------------------------------

    def embed_tokens(self, obs: Tensor, codes: Tensor) -> Tensor:
        """Observation tokens (...) -> (..., D), without positions; ``codes`` (V, E) is the codebook."""
        table = self.embed_obs
        if self.embed_code is not None:
            table = table + self.embed_code(codes / codes.std().clamp(min=TINY))
        return F.embedding(obs, table)

    def embed(self, obs: Tensor, action: Tensor, codes: Tensor) -> Tensor:
        """Blocks (..., N, T, D), without positions, of tokens (..., N, K) and (..., N, M)."""
        tokens = torch.cat([self.embed_tokens(obs, codes), F.embedding(action, self.embed_action)], dim=-2)
        flat = tokens.flatten(0, -4)
        aggregate = self.aggregator(flat).unflatten(0, tokens.shape[:-3])
        return torch.cat([tokens, aggregate[..., None, :]], dim=-2)

    # -- a window in one pass -------------------------------------------------------------------------------------

    def forward(self, obs: Tensor, action: Tensor, episode: Tensor, codes: Tensor) -> Tensor:
        """Features (B, N, L, T, D) of the windows of all agents.

        Args:
            obs: (B, L, N, K) tokens.
            action: (B, L, N, M) tokens.
            episode: (B, L) tokens attend within their episode only.
            codes: (V, E) codebook.
        """
        (batch, length), agents = episode.shape, obs.shape[2]
        x = self.embed(obs, action, codes).transpose(1, 2).flatten(2, 3) + self.position[: length * self.block_size]
        x, mask = self.dropout(x).flatten(0, 1), self.mask(episode).repeat_interleave(agents, 0)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x).view(batch, agents, length, self.block_size, -1)

    def mask(self, episode: Tensor) -> Tensor:
        """(B, 1, L T, L T) bool: causal within each episode of windows (B, L)."""
        episode = episode.repeat_interleave(self.block_size, 1)
        return ((episode[:, :, None] == episode[:, None]).tril())[:, None]

    # -- token by token -------------------------------------------------------------------------------------------

    def cache(self, rows: int) -> Cache:
        """An empty cache for ``rows`` sequences, of the precision that keys are computed in."""
        kind = self.position.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.position.dtype
        heads, tokens = self.config.heads, len(self.position)
        shape = (rows, heads, tokens, self.config.dim // heads)
        empty = [
            [self.position.new_empty(shape, dtype=dtype) for _ in self.blocks] for _ in range(2)
        ]  # read where it was written
        return Cache(tuple(empty[0]), tuple(empty[1]))

    def extend(self, x: Tensor, cache: Cache, at: int, begin: Tensor | None) -> Tensor:
        """Features (R, n, D) of the tokens from position ``at`` on, whose keys and values are added to the cache.

        Args:
            x: (R, n, D) embedded, without positions.
            cache: of the tokens before, changed in place.
            at: position of the first.
            begin: (R,) the position that each sequence begins at; None: all at 0.
        """
        count, end = x.shape[1], at + x.shape[1]
        x, mask = x + self.position[at:end], self._mask_of(at, count, begin)
        for block, all_keys, all_values in zip(self.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, TransformerBlock)
            query = block.attention.norm(x)
            keys, values = block.attention.keys_values(query)
            all_keys[:, :, at:end], all_values[:, :, at:end] = keys, values
            x = x + block.attention.attend(query, all_keys[:, :, :end], all_values[:, :, :end], mask)
            x = x + block.feed(x)
        features: Tensor = self.norm(x)
        return features

    def _mask_of(self, at: int, count: int, begin: Tensor | None) -> Tensor | None:
        if begin is None and count == 1:
            return None  # the newest sees everything
        place = torch.arange(at + count, device=self.position.device)
        causal = place <= place[at:, None]  # (n, P)
        return causal if begin is None else (causal & (place >= begin[:, None, None]))[:, None]

    def draw(self, features: Tensor) -> Tensor:
        """Draw the next observation tokens (...) from features (..., D), without waiting for a GPU."""
        probabilities = (self.obs_head(features).float() / self.config.temperature).softmax(-1)
        return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)

    # -- heads ----------------------------------------------------------------------------------------------------

    def predict(self, features: Tensor) -> Predictions:
        """Reward, continuation and mask from features of aggregates (..., N, D)."""
        return Predictions(
            self.reward_head(features).float(),
            self.end_head(features)[..., 0].float(),
            None if self.mask_head is None else self.mask_head(features).float(),
        )

    def reward_loss(self, predicted: Tensor, reward: Tensor) -> Tensor:
        """Loss (...) of predicted rewards (..., bins or 1)."""
        if self.config.reward == "hl_gauss":
            return self.histogram.loss(predicted, symlog(reward))
        return F.smooth_l1_loss(predicted[..., 0], reward, reduction="none")

    def reward(self, predicted: Tensor) -> Tensor:
        """Rewards (...) of predictions (..., bins or 1)."""
        return symexp(self.histogram.decode(predicted)) if self.config.reward == "hl_gauss" else predicted[..., 0]
