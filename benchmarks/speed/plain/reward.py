"""The reward and termination Transformer: segments in training, steps in rollouts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.plain.layers import PlainAttention, PlainBlock, PlainFeedForward
from dima.nn.normalizer import Normalizer
from dima.world_models.dima.reward_termination import Prediction, Segments
from dima.world_models.dima.reward_transformer import RewardTransformer

Cache = list[tuple[Tensor, Tensor] | None]  # of each block: keys and values so far


class PlainReward(nn.Module):
    """A copy of :class:`dima.world_models.dima.reward_transformer.RewardTransformer`, weights included."""

    def __init__(self, source: RewardTransformer) -> None:
        super().__init__()
        self.config, self.spec = source.config, source.spec
        config, spec, dim = self.config, self.spec, source.config.dim
        self.reward_scale = Normalizer(())
        widths = (spec.state_dim, dim, dim)
        layers = [part for width in widths for part in (nn.Linear(width, dim), nn.LayerNorm(dim), nn.GELU())]
        self.embed_state = nn.Sequential(*layers[:-1])
        self.embed_reached = nn.Linear(dim, dim) if config.next_state else None
        self.embed_action = nn.Sequential(nn.Linear(spec.action_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.agent = nn.Parameter(torch.zeros(spec.n_agents, dim))
        self.mix_agents = nn.ModuleList()
        for _ in range(config.action_layers):
            self.mix_agents += [
                PlainAttention(dim, config.action_heads, dim // config.action_heads),
                PlainFeedForward(dim),
            ]
        self.pool = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.position = nn.Parameter(torch.zeros(2 * config.segment, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(PlainBlock(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.reward_head, self.continuation_head = self._head(1), self._head(1)
        masked = spec.discrete and spec.masks_actions
        self.mask_head = self._head(spec.n_agents * spec.action_dim) if masked else None
        self.load_state_dict(source.state_dict())

    def _head(self, out: int) -> nn.Sequential:
        dim = self.config.dim
        return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))

    def loss(self, batch: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        """Smooth L1 of the reward, negative log-likelihood of continuation and of the next action masks."""
        episode = batch.episode.repeat_interleave(2, dim=-1)
        mask = (episode[:, :, None] == episode[:, None, :]).tril()[:, None]
        tokens = self.dropout(self._tokens(batch.state, batch.action, 0))
        hidden = self._read(self._run(tokens, mask, [None] * len(self.blocks)), batch.next_state)
        reward = self.reward_head(hidden)[..., 0]
        target = self.reward_scale.normalize(batch.reward) if self.config.normalize_reward else batch.reward
        continuation, goes_on = self.continuation_head(hidden)[..., 0], (~batch.terminated).float()
        errors = {
            "reward": F.smooth_l1_loss(reward, target, reduction="none"),
            "continuation": F.binary_cross_entropy_with_logits(continuation, goes_on, reduction="none"),
        }
        if self.mask_head is not None:
            real = torch.from_numpy(self.spec.action_valid).to(reward.device)
            logits = self.mask_head(hidden).unflatten(-1, real.shape)
            error = F.binary_cross_entropy_with_logits(logits, batch.next_mask.float(), reduction="none")
            errors["mask"] = (error * real).sum((-1, -2)) / real.sum()
        parts = {name: (error * batch.weight).sum() / batch.weight.sum().clamp(min=1) for name, error in errors.items()}
        return sum(parts.values()), {f"reward_model/{name}": part.detach() for name, part in parts.items()}

    def start(self) -> Cache:
        """An empty cache."""
        return [None] * len(self.blocks)

    def step(self, cache: Cache, state: Tensor, action: Tensor, next_state: Tensor) -> Prediction:
        """One imagined step, (B, S), (B, N, A), (B, S); the cache grows by two tokens and is emptied when full."""
        done = 0 if cache[0] is None else cache[0][0].shape[-2]
        if done == 2 * self.config.segment:
            cache[:], done = self.start(), 0
        mask = torch.ones(2, done + 2, dtype=torch.bool, device=state.device)
        mask[0, -1] = False  # the state token does not see the action
        tokens = self._tokens(state[:, None], action[:, None], done)
        hidden = self._read(self._run(tokens, mask, cache), next_state[:, None])[:, 0]
        reward = self.reward_head(hidden)[..., 0]
        if self.config.normalize_reward:
            reward = self.reward_scale.denormalize(reward)
        logits = None
        if self.mask_head is not None:
            logits = self.mask_head(hidden).unflatten(-1, (self.spec.n_agents, self.spec.action_dim))
        return Prediction(reward, self.continuation_head(hidden)[..., 0].sigmoid(), logits)

    def _tokens(self, state: Tensor, action: Tensor, done: int) -> Tensor:
        agents = self.embed_action(action) + self.agent
        for layer in self.mix_agents:
            agents = layer(agents)
        tokens = torch.stack([self.embed_state(state), self.pool(agents.mean(dim=-2))], dim=-2).flatten(-3, -2)
        return tokens + self.position[done : done + tokens.shape[-2]]

    def _run(self, tokens: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Features of the action tokens; ``cache`` is updated."""
        for n, block in enumerate(self.blocks):
            tokens, cache[n] = block(tokens, mask, cache[n])
        return self.norm(tokens[:, 1::2])

    def _read(self, hidden: Tensor, next_state: Tensor) -> Tensor:
        return hidden if self.embed_reached is None else hidden + self.embed_reached(self.embed_state(next_state))
