"""Causal Transformer over (state, joint action) pairs: team reward, continuation, next action masks.

DIMA section 5. Two tokens a step; the answers are read from the action token, beside which, with ``next_state``, stands
the state that was reached: whether a robot has fallen is then seen, not foreseen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, Fraction, Whole
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.attention import Attention, GegluFeedForward, TransformerBlock, pooled
from dima.nn.mlp import ToFloat32
from dima.nn.normalizer import Normalizer


@dataclass(frozen=True)
class RewardTerminationConfig(Config):
    """The model of reward, continuation and action masks."""

    dim: Count = 256  # width of a token
    layers: Count = 6  # Transformer blocks
    heads: Count = 4  # heads of a block
    dropout: Fraction = 0.1  # while training
    segment: Count = 15  # steps of a training segment, and the longest imagination
    action_layers: Whole = 3  # self-attention layers over the agents' actions
    action_heads: Count = 8  # heads of such a layer
    next_state: bool = False  # answers may also depend on the state that is reached
    normalize_reward: bool = False  # predict rewards in units of their running mean and deviation

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim % self.action_heads:
            raise ConfigError(
                f"dim = {self.dim} must be divisible by heads = {self.heads} and action_heads = {self.action_heads}"
            )


class Prediction(NamedTuple):
    """What the model says of each step."""

    reward: Tensor  # (B, T) in the environment's units
    continuation: Tensor  # (B, T) probability that the task goes on
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
    valid: Tensor  # (B, T) bool, False where no action was taken (the last row of an episode)


@dataclass
class Memory:
    """Keys and values of an imagination so far, in buffers of fixed size."""

    cache: Tensor | None = None  # (layers, 2, B, heads, 2 * segment, head_dim), from the first step on
    done: int = 0  # tokens stored
    begin: Tensor | None = None  # (B,) the first token of each row's own imagination; None: they all began together


class RewardTermination(nn.Module):
    """(state, joint action) sequences -> reward and continuation of every step."""

    action_valid: Tensor  # (N, A) bool

    def __init__(self, config: RewardTerminationConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        dim = config.dim
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        self.reward_scale = Normalizer(())
        self.embed_state = nn.Sequential(
            nn.Linear(spec.state_dim, dim),
            nn.LayerNorm(dim),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),
        )
        self.embed_reached = nn.Linear(dim, dim) if config.next_state else None
        self.embed_action = nn.Sequential(nn.Linear(spec.action_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.agent = nn.Parameter(0.02 * torch.randn(spec.n_agents, dim))
        self.mix_agents = nn.Sequential(
            *(
                layer
                for _ in range(config.action_layers)
                for layer in (Attention(dim, config.action_heads, dim // config.action_heads), GegluFeedForward(dim))
            )
        )
        self.pool = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.position = nn.Parameter(0.02 * torch.randn(2 * config.segment, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.reward_head = self._head(1)
        self.continuation_head = self._head(1)
        masked = spec.discrete and spec.masks_actions
        self.mask_head = self._head(spec.n_agents * spec.action_dim) if masked else None

    def _head(self, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(self.config.dim, self.config.dim), nn.GELU(), nn.Linear(self.config.dim, out), ToFloat32()
        )

    # -- training -------------------------------------------------------------------------------------------------

    def forward(self, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor | None = None) -> Prediction:
        """Predictions for whole segments.

        Args:
            state: (B, T, S) normalised.
            action: (B, T, N, A).
            episode: (B, T) numbers that differ between episodes; no step sees another episode or the future.
            next_state: (B, T, S) normalised states that were reached, for a model that looks at them.
        """
        hidden = self._run(self.dropout(self._tokens(state, action, 0)), block_causal_mask(episode))
        return self._predict(self._arrived(hidden, next_state))

    def loss(self, batch: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        """Smooth L1 of the reward, Bernoulli log-likelihood of continuation and of the next action masks."""
        hidden = self._run(self.dropout(self._tokens(batch.state, batch.action, 0)), block_causal_mask(batch.episode))
        hidden = self._arrived(hidden, batch.next_state)
        count = batch.valid.sum().clamp(min=1)

        def average(values: Tensor) -> Tensor:
            return (values * batch.valid).sum() / count

        target = self._scale(batch.reward)
        parts = {
            "reward": average(F.smooth_l1_loss(self.reward_head(hidden)[..., 0], target, reduction="none")),
            "continuation": average(
                F.binary_cross_entropy_with_logits(
                    self.continuation_head(hidden)[..., 0], (~batch.terminated).float(), reduction="none"
                )
            ),
        }
        if self.mask_head is not None:
            logits = self._mask_logits(hidden)
            assert logits is not None
            error = F.binary_cross_entropy_with_logits(logits, batch.next_mask.to(logits.dtype), reduction="none")
            parts["mask"] = average((error * self.action_valid).sum((-1, -2)) / self.action_valid.sum())
        loss = torch.stack(list(parts.values())).sum()
        return loss, {f"reward_model/{name}": part.detach() for name, part in parts.items()}

    # -- imagination ----------------------------------------------------------------------------------------------

    def predict_rewards(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`step` says of the reward and continuation of every step, in one causal pass: (B, H) each.

        Args:
            state: (B, H + 1, S) normalised.
            action: (B, H, N, A).
        """
        told = []
        for begin in range(0, action.shape[1], self.config.segment):
            now, reached = (x[:, begin : begin + self.config.segment] for x in (state[:, :-1], state[:, 1:]))
            tokens = self._tokens(now, action[:, begin : begin + self.config.segment], 0)
            causal = torch.ones(1, 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()
            told.append(self._predict(self._arrived(self._run(tokens, causal), reached)))
        return torch.cat([part.reward for part in told], dim=1), torch.cat([part.continuation for part in told], dim=1)

    def step(self, memory: Memory, state: Tensor, action: Tensor, next_state: Tensor | None = None) -> Prediction:
        """One imagined step, (B, S), (B, N, A) and (B, S); fields of the answer are (B,) and (B, N, A).

        A full memory is emptied first: training segments start anywhere in an episode, so an empty one is familiar.
        """
        config, capacity = self.config, 2 * self.config.segment
        if memory.done == capacity:
            memory.done, memory.begin = 0, None
        if memory.cache is None:
            shape = (config.layers, 2, len(state), config.heads, capacity, config.dim // config.heads)
            memory.cache = state.new_zeros(shape)
        tokens = self._tokens(state[:, None], action[:, None], memory.done)
        # the action token sees everything, the state token everything but the action
        mask = torch.ones(2, memory.done + 2, dtype=torch.bool, device=state.device)
        mask[0, -1] = False
        if memory.begin is not None:
            mask = mask & (torch.arange(len(mask[0]), device=mask.device) >= memory.begin[:, None])[:, None, None]
        hidden = self._run(tokens, mask, memory)
        memory.done += 2
        arrived = self._arrived(hidden, None if next_state is None else next_state[:, None])
        reward, continuation, logits = self._predict(arrived)
        return Prediction(reward[:, 0], continuation[:, 0], None if logits is None else logits[:, 0])

    def forget(self, memory: Memory, which: Tensor) -> Memory:
        """What is remembered once some rows, ``which`` (B,) bool, begin a new imagination.

        They keep their place among the positions: in training, too, episodes begin anywhere in a segment.
        """
        begin = torch.zeros_like(which, dtype=torch.long) if memory.begin is None else memory.begin
        return replace(memory, begin=torch.where(which, memory.done, begin))

    # -- the network ----------------------------------------------------------------------------------------------

    def _tokens(self, state: Tensor, action: Tensor, done: int) -> Tensor:
        """(B, T, S), (B, T, N, A) -> (B, 2 T, D): state and action tokens in turn, positions from ``done`` on."""
        joint = self.pool(pooled(self.mix_agents, self.embed_action(action) + self.agent))
        tokens = torch.stack([self.embed_state(state), joint], dim=-2).flatten(-3, -2)
        return tokens + self.position[done : done + tokens.shape[-2]]

    def _run(self, tokens: Tensor, mask: Tensor, memory: Memory | None = None) -> Tensor:
        for n, block in enumerate(self.blocks):
            if memory is None:
                tokens = block(tokens, mask)
            else:
                assert memory.cache is not None
                tokens = block(tokens, mask, memory.cache[n], memory.done)
        return self.norm(tokens[:, 1::2])

    def _arrived(self, hidden: Tensor, next_state: Tensor | None) -> Tensor:
        """What is known after each step: (B, T, D) of before it, and the state that was reached."""
        if self.embed_reached is None:
            return hidden
        assert next_state is not None
        reached: Tensor = self.embed_reached(self.embed_state(next_state))
        return hidden + reached

    def _predict(self, hidden: Tensor) -> Prediction:
        reward = self.reward_head(hidden)[..., 0]
        if self.config.normalize_reward:
            reward = self.reward_scale.denormalize(reward)
        return Prediction(reward, self.continuation_head(hidden)[..., 0].sigmoid(), self._mask_logits(hidden))

    def _mask_logits(self, hidden: Tensor) -> Tensor | None:
        if self.mask_head is None:
            return None
        return self.mask_head(hidden).unflatten(-1, (self.spec.n_agents, self.spec.action_dim))

    def _scale(self, reward: Tensor) -> Tensor:
        return self.reward_scale.normalize(reward) if self.config.normalize_reward else reward


def block_causal_mask(episode: Tensor) -> Tensor:
    """(B, T) episode numbers -> (B, 1, 2 T, 2 T) bool: causal over tokens, never across episodes."""
    token_episode = episode.repeat_interleave(2, dim=-1)
    same = token_episode[:, :, None] == token_episode[:, None, :]
    return same.tril()[:, None]
