"""The reference world model: objectives, optimisers, rollouts."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.speed.plain.denoiser import PlainDenoiser
from benchmarks.speed.plain.reward import Cache, PlainReward
from dima.data import Rollout, View
from dima.experience.replay import Replay, Rows
from dima.nn.optim import FitConfig
from dima.world_models.base import Loss, Objective, mask_from_logits
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.dima.reward_termination import Segments
from dima.world_models.rollout import Act


class PlainFitter:
    """AdamW as PyTorch builds it by default."""

    def __init__(self, module: nn.Module, config: FitConfig) -> None:
        self.config, self.steps = config, 0
        self.parameters = list(module.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)

    def step(self, loss: Tensor) -> None:
        """One gradient step on a scalar loss."""
        self.steps += 1
        rate = self.config.lr * min(1.0, self.steps / self.config.warmup) if self.config.warmup else self.config.lr
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()


@dataclass
class PlainLatent:
    """The recent past, and the reward model's cache, which steps change in place."""

    state: Tensor  # (B, C, S) scaled
    action: Tensor  # (B, C - 1, N, A)
    valid: Tensor  # (B, C) bool
    action_mask: Tensor  # (B, N, A) bool
    previous_action: Tensor  # (B, N, A)
    cache: Cache


class PlainModel(nn.Module):
    """Copies of a world model's parts; the observation decoder is the library's."""

    def __init__(self, source: DimaWorldModel) -> None:
        super().__init__()
        self.config, self.spec, self.past = source.config, source.spec, source.past
        self.context, self.action_valid = source.context, source.action_valid
        self.denoiser, self.reward = PlainDenoiser(source.denoiser), PlainReward(source.reward)
        self.decoder, self.state_scale = deepcopy(source.decoder), deepcopy(source.state_scale)
        self.obs_scale = deepcopy(source.obs_scale)
        self.fitters = {
            "decoder": PlainFitter(self.decoder, self.config.decoder_fit),
            "denoiser": PlainFitter(self.denoiser, self.config.denoiser_fit),
            "reward": PlainFitter(self.reward, self.config.reward_fit),
        }
        self.to(self.action_valid.device).eval()

    def objectives(self) -> dict[str, Objective]:
        """As of a world model of the library."""
        config = self.config
        return {
            "denoiser": Objective(self.denoiser_rows, self.denoiser_loss, config.denoiser_fit),
            "reward": Objective(self.reward_rows, self.reward_loss, config.reward_fit),
            "decoder": Objective(self.decoder_rows, self.decoder_loss, config.decoder_fit),
        }

    def decoder_rows(self, replay: Replay) -> Rows:
        return replay.gather(replay.least_visited("decoder", self.config.decoder_fit.batch), 0, 0)

    def decoder_loss(self, rows: Rows) -> Loss:
        return self.decoder.loss(self.state_scale.normalize(rows.state[:, 0]), self.obs_scale.normalize(rows.obs[:, 0]))

    def denoiser_rows(self, replay: Replay) -> Rows:
        anchor = replay.recent(self.config.denoiser_fit.batch)
        return replay.gather(anchor, self.past - 1, self.config.denoiser.rollout)

    def denoiser_loss(self, rows: Rows) -> Loss:
        return self.denoiser.loss(self._scaled(rows.state), self._clipped(rows.action), rows.valid)

    def reward_rows(self, replay: Replay) -> Rows:
        length = self.config.reward.segment + 1
        return replay.segments(replay.least_visited("reward", self.config.reward_fit.batch, length), length)

    def reward_loss(self, rows: Rows) -> Loss:
        state = self.state_scale.normalize(rows.state)
        return self.reward.loss(
            Segments(
                state=state[:, :-1],
                next_state=state[:, 1:],
                action=self._clipped(rows.action[:, :-1]),
                reward=rows.reward[:, :-1],
                terminated=rows.terminated[:, :-1],
                next_mask=rows.action_mask[:, 1:],
                episode=rows.episode[:, :-1],
                weight=rows.acted[:, :-1].float(),
            )
        )

    def start(self, rows: Rows) -> PlainLatent:
        return PlainLatent(
            state=self._scaled(rows.state[:, 1:]) * rows.valid[:, 1:, None],
            action=self._clipped(rows.action[:, 1:-1]),
            valid=rows.valid[:, 1:],
            action_mask=rows.action_mask[:, -1],
            previous_action=self._clipped(rows.action[:, -2]),
            cache=self.reward.start(),
        )

    def observe(self, latent: PlainLatent) -> View:
        state = latent.state[:, -1] / self.config.denoiser.sigma_data
        obs = self.obs_scale.denormalize(self.decoder(state)) * self.decoder.valid
        return View(obs, self.state_scale.denormalize(state), latent.action_mask, latent.previous_action)

    def next_state(self, latent: PlainLatent, action: Tensor) -> Tensor:
        """A sample, (B, S) scaled."""
        newest = latent.state[:, -1]
        known = torch.cat([latent.action, action[:, None]], dim=1)
        noise = torch.randn_like(newest)
        return self.denoiser.sample(self.config.sampler, noise, latent.state, known, latent.valid)

    def step(self, latent: PlainLatent, action: Tensor) -> tuple[PlainLatent, Tensor, Tensor]:
        action, scale = self._clipped(action), self.config.denoiser.sigma_data
        after = self.next_state(latent, action)
        predicted = self.reward.step(latent.cache, latent.state[:, -1] / scale, action, after / scale)
        mask = latent.action_mask
        if predicted.mask_logits is not None:
            mask = mask_from_logits(predicted.mask_logits, self.action_valid)
        return (
            PlainLatent(
                state=torch.cat([latent.state[:, 1:], after[:, None]], dim=1),
                action=torch.cat([latent.action, action[:, None]], dim=1)[:, 1:],
                valid=torch.cat([latent.valid[:, 1:], latent.valid[:, -1:]], dim=1),
                action_mask=mask,
                previous_action=action,
                cache=latent.cache,
            ),
            predicted.reward,
            predicted.continuation,
        )

    def _scaled(self, state: Tensor) -> Tensor:
        return self.state_scale.normalize(state) * self.config.denoiser.sigma_data

    def _clipped(self, action: Tensor) -> Tensor:
        return action if self.spec.discrete else action.clamp(-1, 1)


@torch.no_grad()
def plain_imagine(model: PlainModel, act: Act, start: Rows, horizon: int) -> Rollout:
    """``horizon`` imagined steps from each start, as :func:`dima.world_models.rollout.imagine`."""
    latent = model.start(start)
    views, steps = [model.observe(latent)], []
    for _ in range(horizon):
        action, log_prob = act(views[-1])
        latent, reward, continuation = model.step(latent, action)
        steps.append((action, log_prob, reward, continuation))
        views.append(model.observe(latent))
    action, log_prob, reward, continuation = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    boundary = torch.zeros_like(reward, dtype=torch.bool)
    boundary[:, -1] = True
    states = torch.stack([view.state for view in views], dim=1)
    return Rollout(
        obs=torch.stack([view.obs for view in views[:-1]], dim=1),
        state=states[:, :-1],
        action_mask=torch.stack([view.action_mask for view in views[:-1]], dim=1),
        previous_action=torch.stack([view.previous_action for view in views[:-1]], dim=1),
        action=action,
        log_prob=log_prob,
        reward=reward,
        continuation=continuation,
        boundary=boundary,
        next_state=states[:, 1:],
    )
