"""MARIE behind the interface of world models: fit the parts, roll out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dima.config import Count, Whole
from dima.data import EnvSpec, Episode, View
from dima.experience.replay import Replay, Rows
from dima.nn.normalizer import TINY, UNSCALED, Normalizer
from dima.nn.optim import FitConfig
from dima.world_models.base import (
    Loss,
    Objective,
    Step,
    WorldModel,
    WorldModelConfig,
    clip_action,
    mask_from_logits,
    select_rows,
)
from dima.world_models.feature_copies import StateReadout
from dima.world_models.marie.losses import mask_loss, mean_where, token_weight
from dima.world_models.marie.tokenizer import ActionTokens, Reconstruction, Tokenizer, TokenizerConfig
from dima.world_models.marie.transformer import Cache, TransformerConfig, WorldTransformer


@dataclass(frozen=True)
class MarieModelConfig(WorldModelConfig):
    """A Transformer over each agent's tokens, joined by a Perceiver in every step (arXiv 2406.15836)."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    transformer: TransformerConfig = TransformerConfig()
    action_bins: Count = 256  # of a continuous action in [-1, 1]
    normalize_obs: bool = False  # standardise observations by their running mean and deviation before the tokenizer
    clamp_obs: bool = False  # keep reconstructed observations within [-1, 1] (SMAX)
    normalize_reward: bool = False  # standardise rewards by their running mean and deviation
    segment_mean: bool = False  # average the loss of observation tokens over each episode's part of a window first
    transformer_after: Whole = 9  # first iterations that fit the tokenizer only
    tokenizer_fit: FitConfig = FitConfig(updates=100, batch=256, lr=3e-4, weight_decay=0.01, max_grad_norm=10)
    transformer_fit: FitConfig = FitConfig(updates=200, batch=40, lr=1e-4, weight_decay=0.01, max_grad_norm=10)

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        if self.normalize_reward:
            return {}
        most = UNSCALED[1]
        if self.transformer.reward == "hl_gauss":
            most = float(torch.tensor(self.transformer.reward_support).expm1())
        return {"--learner.world-model.normalize-reward": (UNSCALED[0], most)}

    def build(self, spec: EnvSpec) -> MarieWorldModel:
        return MarieWorldModel(self, spec)


@dataclass
class Latent:
    """Present tokens, and the keys and values of the tokens before the last of them."""

    tokens: Tensor  # (B, N, K) int
    action_mask: Tensor  # (B, N, A) bool, allowed now
    previous_action: Tensor  # (B, N, A) joint action that led here
    cache: Cache  # of B * N sequences
    block: int  # steps in the cache before the present one
    begin: Tensor | None = None  # (B,) block at which each rollout begins; None: all at 0


class MarieWorldModel(WorldModel[Latent]):
    """A tokenizer of single observations, and a Transformer that predicts each agent's next tokens."""

    context = 2  # the observation, and the joint action that led to it
    fits_in_order = True
    action_valid: Tensor  # (N, A) bool

    def __init__(self, config: MarieModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        self.obs_scale = (
            Normalizer((spec.n_agents, spec.obs_dim), samples=spec.obs_samples) if config.normalize_obs else None
        )
        self.reward_scale = Normalizer((), least=TINY) if config.normalize_reward else None
        self.state_readout = StateReadout(spec)
        self.action_tokens = ActionTokens(spec, config.action_bins)
        self.tokenizer = Tokenizer(config.tokenizer, spec)
        self.transformer = WorldTransformer(
            config.transformer,
            spec,
            config.tokenizer.tokens,
            config.tokenizer.vocabulary,
            config.tokenizer.code_dim,
            self.action_tokens.count,
            self.action_tokens.vocabulary,
        )

    @property
    def compile_targets(self) -> tuple[str, ...]:
        return ("transformer.blocks",)

    @property
    def predicts_state(self) -> bool:
        return not bool(self.state_readout.missing)

    @property
    def perception(self) -> Reconstruction:
        return Reconstruction(self.tokenizer, self.obs_scale, self.config.clamp_obs)

    # -- learning from real experience ----------------------------------------------------------------------------

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        device = self.action_valid.device
        for episode in episodes:
            state, obs = episode.state.to(device), episode.obs.to(device)
            self.state_readout.update(state, obs)
            if self.obs_scale is not None:
                self.obs_scale.update(obs, self.spec.alive(state))
            if self.reward_scale is not None:
                self.reward_scale.update(episode.reward.to(device))

    def objectives(self) -> dict[str, Objective]:
        config = self.config
        return {
            "tokenizer": Objective(self.tokenizer_rows, self.tokenizer_loss, config.tokenizer_fit),
            "transformer": Objective(
                self.transformer_rows, self.transformer_loss, config.transformer_fit, config.transformer_after
            ),
        }

    def tokenizer_rows(self, replay: Replay) -> Rows:
        """(B, 1) rows of the replay."""
        return replay.segments(replay.uniform(self.config.tokenizer_fit.batch), 1)

    def tokenizer_loss(self, rows: Rows) -> Loss:
        """L1 and commitment."""
        return self.tokenizer.loss(self.perception.normalize(rows.obs[:, 0]))

    def transformer_rows(self, replay: Replay) -> Rows:
        """(B, L) successive rows of the replay, across the ends of episodes."""
        length = self.config.transformer.steps
        return replay.segments(replay.uniform(self.config.transformer_fit.batch, length), length)

    def transformer_loss(self, rows: Rows) -> Loss:
        """Cross entropy of the next tokens, and the losses of reward, continuation and next masks."""
        net, first = self.transformer, self.transformer.obs_tokens - 1
        tokens = self.perception.encode(rows.obs)  # (B, L, N, K)
        action = self.action_tokens(clip_action(rows.action, self.spec))
        features = net(tokens, action, rows.episode, self.tokenizer.codes)
        predicted = net.predict(features[..., -1, :].transpose(1, 2))  # (B, L, N, ...)
        reward = rows.reward if self.reward_scale is None else self.reward_scale.normalize(rows.reward)
        reward_loss = net.reward_loss(predicted.reward, reward[..., None].expand_as(predicted.continuation))
        continues = (~rows.terminated).to(reward_loss.dtype)[..., None].expand_as(reward_loss)
        end_loss = F.binary_cross_entropy_with_logits(predicted.continuation, continues, reduction="none")
        # the aggregate of the step before predicts a step's first token, each token the next one
        before = torch.cat([features[:, :, :-1, -1:], features[:, :, 1:, :first]], dim=3)
        logits = torch.cat(
            [net.obs_head(features[:, :, 0, :first]).flatten(1, 2), net.obs_head(before).flatten(1, 3)], 1
        )
        target = tokens.transpose(1, 2)
        target = torch.cat([target[:, :, 0, 1:].flatten(1, 2), target[:, :, 1:].flatten(1, 3)], 1)
        weight = token_weight(rows.episode, net.obs_tokens, self.spec.n_agents, self.config.segment_mean)
        wrong = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        parts = {
            "tokens": (wrong * weight.flatten()).sum(),
            "reward": mean_where(reward_loss, rows.acted),
            "continuation": mean_where(end_loss, rows.acted),
        }
        if predicted.mask is not None:
            parts["mask"] = mask_loss(predicted.mask, rows, self.action_valid)
        loss = torch.stack(list(parts.values())).sum()
        return loss, {f"transformer/{name}": part.detach() for name, part in parts.items()}

    # -- imagination ----------------------------------------------------------------------------------------------

    def start(self, rows: Rows) -> Latent:
        return self._start(
            self.perception.encode(rows.obs[:, -1]), rows.action_mask[:, -1], clip_action(rows.action[:, -2], self.spec)
        )

    def _start(self, tokens: Tensor, action_mask: Tensor, previous_action: Tensor) -> Latent:
        cache = self.transformer.cache(tokens[..., 0].numel())
        latent = Latent(tokens, action_mask, previous_action, cache, block=0)
        self._enter(latent)
        return latent

    def _enter(self, latent: Latent) -> None:
        """Put all present tokens but the last into the cache."""
        if self.transformer.obs_tokens == 1:
            return
        present = self.transformer.embed_tokens(latent.tokens.flatten(0, 1)[:, :-1], self.tokenizer.codes)
        self._extend(latent, present, latent.block * self.transformer.block_size)

    @property
    def policy_spec(self) -> EnvSpec:
        return replace(self.spec, state_dim=self.spec.n_agents * self.spec.obs_dim, agents_leave=False)

    def policy_view(self, latent: Latent) -> View:
        return self.perception.view(latent.tokens, latent.action_mask, latent.previous_action)

    def observe(self, latent: Latent) -> View:
        obs = self.perception.decode(latent.tokens)
        return View(obs, self.state_readout.read(obs), latent.action_mask, latent.previous_action)

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        return self.step_(replace(latent, cache=latent.cache.clone()), action)

    def step_(self, latent: Latent, action: Tensor) -> Step[Latent]:
        net, action = self.transformer, clip_action(action, self.spec)
        if latent.block == net.config.steps - 1:  # positions are used up: remember the present only
            latent = self._start(latent.tokens, latent.action_mask, latent.previous_action)
        size, at = net.block_size, latent.block * net.block_size + net.obs_tokens - 1
        codes = self.tokenizer.codes
        blocks = net.embed(latent.tokens, self.action_tokens(action), codes).flatten(0, 1)  # (B * N, T, D)
        last = self._extend(latent, blocks[:, net.obs_tokens - 1 :], at)[:, -1]
        predicted = net.predict(last.unflatten(0, latent.tokens.shape[:2]))
        reward, mask = net.reward(predicted.reward).mean(-1), latent.action_mask
        if predicted.mask is not None:
            mask = mask_from_logits(predicted.mask, self.action_valid)
        tokens = [net.draw(last)]
        for place in range((latent.block + 1) * size, (latent.block + 1) * size + net.obs_tokens - 1):
            newest = net.embed_tokens(tokens[-1], codes)[:, None]
            tokens.append(net.draw(self._extend(latent, newest, place)[:, 0]))
        after = replace(
            latent,
            tokens=torch.stack(tokens, dim=-1).unflatten(0, latent.tokens.shape[:2]),
            action_mask=mask,
            previous_action=action,
            block=latent.block + 1,
        )
        return Step(
            after,
            reward if self.reward_scale is None else self.reward_scale.denormalize(reward),
            predicted.continuation.sigmoid().mean(-1),
        )

    def _extend(self, latent: Latent, x: Tensor, at: int) -> Tensor:
        begin = latent.begin
        if begin is not None:
            begin = (begin * self.transformer.block_size).repeat_interleave(self.spec.n_agents)
        return self.transformer.extend(x, latent.cache, at, begin)

    def reset_rows(self, latent: Latent, fresh: Latent, rows: Tensor) -> Latent:
        """Let the selected rollouts begin at the present block of the others."""
        old = torch.zeros_like(rows, dtype=torch.long) if latent.begin is None else latent.begin
        after = replace(
            latent,
            tokens=select_rows(rows, fresh.tokens, latent.tokens),
            action_mask=select_rows(rows, fresh.action_mask, latent.action_mask),
            previous_action=select_rows(rows, fresh.previous_action, latent.previous_action),
            cache=latent.cache.clone(),
            begin=torch.where(rows, latent.block, old),
        )
        self._enter(after)
        sequences = rows.repeat_interleave(self.spec.n_agents)
        pairs = zip((*after.cache.keys, *after.cache.values), (*latent.cache.keys, *latent.cache.values), strict=True)
        for new, kept in pairs:
            new.copy_(select_rows(sequences, new, kept))  # those of the others exactly as they were
        return after
