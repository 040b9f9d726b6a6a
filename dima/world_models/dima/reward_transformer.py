"""Causal Transformer over (state, joint action) pairs: team reward, continuation, next action masks.

docs/reference/dima.md, "Reward and termination". A step is two tokens; predictions are read from the action token. With
``next_state`` the state that was reached is added to it: whether a robot has fallen is then seen rather than predicted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.nn.attention import Attention, GegluFeedForward, TransformerBlock
from dima.nn.dropout import Dropout
from dima.world_models.dima.reward_termination import Memory, Prediction, RewardTermination, RewardTerminationConfig


class RewardTransformer(RewardTermination):
    """Predictions that depend on the rollout so far."""

    def __init__(self, config: RewardTerminationConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        dim = config.dim
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
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.build_heads(dim)

    def features(self, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor) -> Tensor:
        tokens, mask = self.dropout(self._tokens(state, action, 0)), block_causal_mask(episode)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self._with_reached(self.norm(tokens[:, 1::2]), next_state)

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        segment = self.config.segment
        now, reached = state[:, :-1].split(segment, dim=1), state[:, 1:].split(segment, dim=1)
        parts = [
            self(*part, torch.zeros(part[1].shape[:2], device=state.device), after)
            for *part, after in zip(now, action.split(segment, dim=1), reached, strict=True)
        ]
        return torch.cat([part.reward for part in parts], dim=1), torch.cat(
            [part.continuation for part in parts], dim=1
        )

    def step(self, memory: Memory, state: Tensor, action: Tensor, next_state: Tensor) -> tuple[Prediction, Memory]:
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
        features = self._with_reached(self.norm(tokens[:, 1::2]), next_state[:, None])
        reward, continuation, logits = self.read(features, next_state[:, None])
        prediction = Prediction(reward[:, 0], continuation[:, 0], None if logits is None else logits[:, 0])
        return prediction, Memory(tuple(past), memory.begin)

    def _tokens(self, state: Tensor, action: Tensor, done: int) -> Tensor:
        """(B, T, S), (B, T, N, A) -> (B, 2 T, D): state and action tokens in turn, positions from ``done`` on."""
        joint = self.pool(self.mix_agents(self.embed_action(action) + self.agent).mean(dim=-2))
        tokens = torch.stack([self.embed_state(state), joint], dim=-2).flatten(-3, -2)
        return tokens + self.position[done : done + tokens.shape[-2]]

    def _with_reached(self, features: Tensor, next_state: Tensor) -> Tensor:
        """Add the reached state to the features (B, T, D) of before it."""
        if self.embed_reached is None:
            return features
        reached: Tensor = self.embed_reached(self.embed_state(next_state))
        return features + reached


def block_causal_mask(episode: Tensor) -> Tensor:
    """(B, T) episode numbers -> (B, 1, 2 T, 2 T) bool: causal over tokens, never across episodes."""
    token_episode = episode.repeat_interleave(2, dim=-1)
    same = token_episode[:, :, None] == token_episode[:, None, :]
    return same.tril()[:, None]
