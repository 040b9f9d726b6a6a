"""Causal Transformer over (state, joint action) pairs: team reward, continuation, next action masks.

docs/reference/dima.md, "Reward and termination". A step is two tokens; predictions are read from the action token. With
``next_state`` the state that was reached is added to it: whether a robot has fallen is then seen rather than predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, Fraction, Range, SmallCount
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.attention import Attention, GegluFeedForward, KeysValues, TransformerBlock
from dima.nn.mlp import ToFloat32
from dima.nn.normalizer import TINY, Normalizer


@dataclass(frozen=True)
class RewardTerminationConfig(Config):
    """The model of reward, continuation and action masks."""

    dim: Count = 256  # width of a token
    layers: SmallCount = 6  # Transformer blocks
    heads: Count = 4  # heads of a block
    dropout: Fraction = 0.1  # while training
    segment: Count = 15  # steps of a training segment, and of the memory in a rollout
    action_layers: Annotated[int, Range(0, 1000)] = 3  # self-attention layers over the agents' actions
    action_heads: Count = 8  # heads of such a layer
    next_state: bool = False  # predictions may also depend on the state that is reached
    normalize_reward: bool = False  # predict rewards in units of their running mean and deviation

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
    valid: Tensor  # (B, T) bool, False where no action was taken (the last row of an episode)


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


class RewardTermination(nn.Module):
    """(state, joint action) sequences -> reward and continuation of every step."""

    action_valid: Tensor  # (N, A) bool

    def __init__(self, config: RewardTerminationConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        dim = config.dim
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        self.reward_scale = Normalizer((), least=TINY)
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
        return self._predict(self._hidden(state, action, next_state, block_causal_mask(episode)))

    def loss(self, batch: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        """Smooth L1 of the reward, negative log-likelihood of continuation and of the next action masks."""
        hidden = self._hidden(batch.state, batch.action, batch.next_state, block_causal_mask(batch.episode))
        count = batch.valid.sum().clamp(min=1)

        def average(values: Tensor) -> Tensor:
            return (values * batch.valid).sum() / count

        reward, continuation = self.reward_head(hidden)[..., 0], self.continuation_head(hidden)[..., 0]
        target = self.reward_scale.normalize(batch.reward) if self.config.normalize_reward else batch.reward
        goes_on = (~batch.terminated).float()
        parts = {
            "reward": average(F.smooth_l1_loss(reward, target, reduction="none")),
            "continuation": average(F.binary_cross_entropy_with_logits(continuation, goes_on, reduction="none")),
        }
        if (logits := self._mask_logits(hidden)) is not None:
            error = F.binary_cross_entropy_with_logits(logits, batch.next_mask.to(logits.dtype), reduction="none")
            parts["mask"] = average((error * self.action_valid).sum((-1, -2)) / self.action_valid.sum())
        loss = torch.stack(list(parts.values())).sum()
        return loss, {f"reward_model/{name}": part.detach() for name, part in parts.items()}

    # -- rollouts -------------------------------------------------------------------------------------------------

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and continuation of every step of a finished rollout, (B, H) each, as by :meth:`step`.

        Args:
            state: (B, H + 1, S) normalised.
            action: (B, H, N, A).
        """
        segment = self.config.segment
        now, reached = state[:, :-1].split(segment, dim=1), state[:, 1:].split(segment, dim=1)
        parts = [
            self(*part, torch.zeros(part[1].shape[:2], device=state.device), after)
            for *part, after in zip(now, action.split(segment, dim=1), reached, strict=True)
        ]
        return torch.cat([part.reward for part in parts], dim=1), torch.cat(
            [part.continuation for part in parts], dim=1
        )

    def step(
        self, memory: Memory, state: Tensor, action: Tensor, next_state: Tensor | None = None
    ) -> tuple[Prediction, Memory]:
        """One step of a rollout, (B, S), (B, N, A) and (B, S): its prediction, and what is remembered after it.

        A full memory is emptied first: training segments start anywhere in an episode, so an empty one is familiar.
        """
        if memory.tokens == 2 * self.config.segment:
            memory = Memory()
        done = memory.tokens
        tokens = self._tokens(state[:, None], action[:, None], done)
        # the action token sees everything, the state token everything but the action
        mask = torch.ones(2, done + 2, dtype=torch.bool, device=state.device)
        mask[0, -1] = False
        if memory.begin is not None:
            mask = mask & (torch.arange(done + 2, device=mask.device) >= memory.begin[:, None])[:, None, None]
        past = []
        for n, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            tokens, keys_values = block.step(tokens, mask, memory.past[n] if memory.past else None)
            past.append(keys_values)
        hidden = self._with_reached(self.norm(tokens[:, 1::2]), None if next_state is None else next_state[:, None])
        reward, continuation, logits = self._predict(hidden)
        prediction = Prediction(reward[:, 0], continuation[:, 0], None if logits is None else logits[:, 0])
        return prediction, Memory(tuple(past), memory.begin)

    # -- the network ----------------------------------------------------------------------------------------------

    def _hidden(self, state: Tensor, action: Tensor, next_state: Tensor | None, mask: Tensor) -> Tensor:
        """(B, T, D) features of T steps, from which everything is predicted."""
        tokens = self.dropout(self._tokens(state, action, 0))
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self._with_reached(self.norm(tokens[:, 1::2]), next_state)

    def _tokens(self, state: Tensor, action: Tensor, done: int) -> Tensor:
        """(B, T, S), (B, T, N, A) -> (B, 2 T, D): state and action tokens in turn, positions from ``done`` on."""
        joint = self.pool(self.mix_agents(self.embed_action(action) + self.agent).mean(dim=-2))
        tokens = torch.stack([self.embed_state(state), joint], dim=-2).flatten(-3, -2)
        return tokens + self.position[done : done + tokens.shape[-2]]

    def _with_reached(self, hidden: Tensor, next_state: Tensor | None) -> Tensor:
        """Add the reached state to the features (B, T, D) of before it."""
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


def block_causal_mask(episode: Tensor) -> Tensor:
    """(B, T) episode numbers -> (B, 1, 2 T, 2 T) bool: causal over tokens, never across episodes."""
    token_episode = episode.repeat_interleave(2, dim=-1)
    same = token_episode[:, :, None] == token_episode[:, None, :]
    return same.tril()[:, None]
