"""The world model: fitted to windows of real rows, rolled out from the latents that they are filtered to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dima.config import Fraction, NonNegative, Positive, Range
from dima.data import EnvSpec, Episode, View
from dima.errors import ConfigError
from dima.experience.replay import Replay, Rows
from dima.nn.normalizer import UNSCALED, Normalizer
from dima.nn.optim import FitConfig
from dima.world_models.base import (
    Loss,
    Objective,
    Step,
    WorldModel,
    WorldModelConfig,
    clip_action,
    mask_from_logits,
    replace_rows,
)
from dima.world_models.feature_copies import StateReadout
from dima.world_models.mamba.config import NetworkConfig
from dima.world_models.mamba.latent import Latent, balanced_kl, features, sample
from dima.world_models.mamba.losses import information_loss, masked_mean, reconstruction_loss
from dima.world_models.mamba.networks import Dynamics
from dima.world_models.mamba.perception import LatentPerception, encoder_input, feature_spec, feature_view
from dima.world_models.mamba.reward_scale import RewardScale


@dataclass(frozen=True)
class MambaModelConfig(NetworkConfig, WorldModelConfig):
    """A recurrent state-space model for each agent, joined by attention in the transition (arXiv 2205.15023)."""

    kl_balance: Fraction = 0.8  # share of the KL loss's gradient that trains the prior
    kl_reduction: Literal["mean", "sum"] = "mean"  # over the categorical variables
    obs_reduction: Literal["mean", "sum"] = "sum"  # of the reconstruction error, over an observation's features
    information: NonNegative = 1.0  # weight of the loss of the action that led to a latent; 0: none
    reward: Literal["raw", "symlog", "normalized"] = "raw"  # the scale on which rewards are predicted
    normalize_obs: bool = False  # standardise observations by their running mean and deviation
    # of imagined latents: below 1 the most probable are drawn more often, and hide less of what actions do
    temperature: Positive = 1.0
    window: Annotated[int, Range(4)] = 20  # real rows of a training sequence; a rollout starts from one less
    dynamics_fit: FitConfig = FitConfig(updates=60, batch=40, lr=2e-4, max_grad_norm=100.0)  # of sequences

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return {"--learner.world-model.reward normalized": UNSCALED} if self.reward == "raw" else {}

    def build(self, spec: EnvSpec) -> MambaWorldModel:
        return MambaWorldModel(self, spec)


@dataclass
class Filtered:
    """Latents of a window of W rows: from the second to the last but one, the first only being the action before."""

    stochastic: Tensor  # (B, W - 2, N, C * K)
    deterministic: Tensor  # (B, W - 1, N, D), one further
    posterior: Tensor  # (B, W - 2, N, C, K) logits


class MambaWorldModel(WorldModel[Latent]):
    """A recurrent state-space model for each agent, whose transition attends to the whole team."""

    action_valid: Tensor  # (N, A) bool
    obs_valid: Tensor  # (N, O)

    def __init__(self, config: MambaModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.context = config.window - 1  # as many latents as in training
        self.obs_scale = (
            Normalizer((spec.n_agents, spec.obs_dim), samples=spec.obs_samples) if config.normalize_obs else None
        )
        self.reward_scale = RewardScale(config.reward)
        self.state_readout = StateReadout(spec)
        self.dynamics = Dynamics(config, spec, classify=config.information > 0)
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        self.register_buffer("obs_valid", torch.from_numpy(spec.obs_valid).float(), persistent=False)

    @property
    def compile_targets(self) -> tuple[str, ...]:
        return ("dynamics.filter.transition",)

    @property
    def predicts_state(self) -> bool:
        return not bool(self.state_readout.missing)

    # -- learning from real experience ----------------------------------------------------------------------------

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        device = self.action_valid.device
        for episode in episodes:
            self.state_readout.update(episode.state.to(device), episode.obs.to(device))
            if self.obs_scale is not None:
                self.obs_scale.update(episode.obs.to(device), self.spec.alive(episode.state.to(device)))
            self.reward_scale.update(episode.reward.to(device))

    def objectives(self) -> dict[str, Objective]:
        return {"dynamics": Objective(self.rows, self.loss, self.config.dynamics_fit)}

    def rows(self, replay: Replay) -> Rows:
        """(B, W) windows to fit to."""
        return self.imagination_rows(replay, self.config.dynamics_fit.batch)

    def imagination_rows(self, replay: Replay, batch: int) -> Rows:
        """(batch, W) windows across episode boundaries, each around a step that the replay draws.

        Raises:
            ConfigError: the replay is shorter than a window.
        """
        length, rows = self.config.window, replay.newest - replay.oldest
        if rows < length:
            raise ConfigError(f"the replay holds {replay.steps} steps, too few for a window of {length}: play more")
        place = torch.randint(1, length - 1, (batch,), device=replay.device)  # of the step, where latents are kept
        start = (replay.recent(batch) - place).clamp(replay.oldest, replay.newest - length)
        return replay.segments(start, length)

    def loss(self, rows: Rows) -> Loss:
        """Sum of all losses, with unit weights (docs/reference/mamba.md, "Model loss")."""
        config, net, real = self.config, self.dynamics, slice(1, -1)
        obs, first = self._normalize_obs(rows.obs), first_rows(rows)
        found = self.filter(rows, obs, first)
        following = features(found.stochastic, found.deterministic[:, 1:])
        hidden = net.trunk(features(found.stochastic, found.deterministic[:, :-1]))
        acted = rows.acted[:, real].float()
        alive = self.spec.alive(rows.state[:, real])
        present = acted.new_ones(found.stochastic.shape[:3]) if alive is None else alive.float()
        prior = net.prior_logits(found.deterministic[:, :-1])
        reward = self.reward_scale(rows.reward)[:, real, None].expand_as(present)
        continued = (~rows.terminated[:, real, None]).float().expand_as(present)
        parts = {
            "kl": balanced_kl(found.posterior, prior, config.kl_balance, config.kl_reduction).mean(),
            "reconstruction": reconstruction_loss(
                net.decoder(hidden).float(), obs[:, real], self.obs_valid, present, config.obs_reduction
            ),
            "reward": masked_mean(
                F.smooth_l1_loss(net.reward(following)[..., 0].float(), reward, reduction="none"), acted
            ),
            "continuation": masked_mean(
                F.binary_cross_entropy_with_logits(
                    net.continuation(following)[..., 0].float(), continued, reduction="none"
                ),
                acted,
            ),
        }
        if net.availability is not None:
            logits, mask = net.availability(features(found.stochastic, found.deterministic[:, :-1])), rows.action_mask
            wrong = F.binary_cross_entropy_with_logits(logits.float(), mask[:, real].float(), reduction="none")
            parts["availability"] = (wrong * self.action_valid).sum(-1).mean()
        if net.classifier is not None:
            known = (~first[:, 2:-1, None]) * present[:, 1:]  # the first latent of a window starts from nothing
            action = clip_action(rows.action[:, 1:-2], self.spec)
            predicted = net.classifier(hidden[:, 1:]).float()
            parts["information"] = config.information * information_loss(
                predicted, action, self.action_valid, known, self.spec.discrete
            )
        loss = torch.stack(list(parts.values())).sum()
        return loss, {f"dynamics/{name}": part.detach() for name, part in parts.items()}

    # -- filtering ------------------------------------------------------------------------------------------------

    def filter(self, rows: Rows, obs: Tensor, first: Tensor, communication: Tensor | None = None) -> Filtered:
        """Latents of a window, from a state of zeros at its second row.

        Args:
            rows: (B, W).
            obs: (B, W, N, O) normalised.
            first: (B, W) bool, rows that begin an episode: state and previous action are zero there.
            communication: as for :class:`~dima.world_models.mamba.networks.Transition`.
        """
        networks = self.dynamics.filter
        embedding = networks.encoder(obs[:, 1:-1]).unbind(1)
        fresh = (~first[:, 1:]).float()[..., None, None]
        action = (clip_action(rows.action[:, :-1], self.spec) * fresh).unbind(1)
        stochastic = obs.new_zeros(*obs.shape[:1], self.spec.n_agents, self.config.stochastic)
        deterministic = obs.new_zeros(*stochastic.shape[:2], self.config.deterministic)
        columns: list[tuple[Tensor, ...]] = []
        for now, kept in enumerate(fresh.unbind(1)):
            deterministic = networks.transition(action[now], stochastic * kept, deterministic * kept, communication)
            if now == len(embedding):
                break
            logits = networks.posterior_logits(deterministic, embedding[now])
            stochastic = sample(logits).flatten(-2)
            columns.append((stochastic, deterministic, logits))
        drawn, states, posterior = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
        return Filtered(drawn, torch.cat([states, deterministic[:, None]], dim=1), posterior)

    def _normalize_obs(self, obs: Tensor) -> Tensor:
        return encoder_input(obs, self.obs_scale, self.spec)

    # -- imagination ----------------------------------------------------------------------------------------------

    def start(self, rows: Rows) -> Latent:
        following = rows[:, -1:]  # filtering keeps one row further
        padded = Rows(
            **{
                name: torch.cat([values, getattr(following, name)], dim=1)
                for name, values in vars(rows).items()
                if name in Rows.__dataclass_fields__
            }
        )
        found = self.filter(padded, self._normalize_obs(padded.obs), first_rows(padded))
        return Latent(
            stochastic=found.stochastic[:, -1],
            deterministic=found.deterministic[:, -2],
            action_mask=rows.action_mask[:, -1],
            previous_action=clip_action(rows.action[:, -2], self.spec) * ~first_rows(rows)[:, -1, None, None],
        )

    def starts(self, rows: Rows) -> Latent:
        """The latent of every row of windows (B, W) but the first and the last.

        In place of final observations, after which nobody acts, there are others of the same rows once more.
        """
        real, first = slice(1, -1), first_rows(rows)
        found = self.filter(rows, self._normalize_obs(rows.obs), first)
        before = clip_action(rows.action[:, :-2], self.spec) * ~first[:, real, None, None]
        latent = Latent(
            stochastic=found.stochastic.flatten(0, 1),
            deterministic=found.deterministic[:, :-1].flatten(0, 1),
            action_mask=rows.action_mask[:, real].flatten(0, 1),
            previous_action=before.flatten(0, 1),
        )
        acted = rows.acted[:, real].flatten()
        usable = acted.to(torch.int8).argsort(descending=True, stable=True)  # they come first
        which = usable[torch.arange(len(acted), device=acted.device) % acted.sum().clamp(min=1)]
        return replace(latent, **{name: values[which] for name, values in vars(latent).items()})

    def observe(self, latent: Latent) -> View:
        hidden = self.dynamics.trunk(features(latent.stochastic, latent.deterministic))
        obs = self.dynamics.decoder(hidden).float()
        if self.obs_scale is not None:
            obs = self.obs_scale.denormalize(obs)
        obs = obs * self.obs_valid
        return View(obs, self.state_readout.read(obs), latent.action_mask, latent.previous_action)

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        net, action = self.dynamics, clip_action(action, self.spec)
        deterministic = net.filter.transition(action, latent.stochastic, latent.deterministic)
        following = features(latent.stochastic, deterministic)
        reward = self.reward_scale.invert(net.reward(following)[..., 0].float()).mean(-1)
        continuation = net.continuation(following)[..., 0].float().sigmoid().mean(-1)
        stochastic = sample(net.prior_logits(deterministic) / self.config.temperature).flatten(-2)
        mask = latent.action_mask
        if net.availability is not None:
            mask = mask_from_logits(net.availability(features(stochastic, deterministic)).float(), self.action_valid)
        return Step(Latent(stochastic, deterministic, mask, action), reward, continuation)

    def reset_rows(self, latent: Latent, fresh: Latent, rows: Tensor) -> Latent:
        """Replace the selected rows of a latent."""
        return replace_rows(latent, fresh, rows)

    # -- what a policy sees ---------------------------------------------------------------------------------------

    @property
    def policy_spec(self) -> EnvSpec:
        return feature_spec(self.config, self.spec)

    @property
    def perception(self) -> LatentPerception:
        return LatentPerception(self.dynamics.filter, self.obs_scale, self.spec)

    def policy_view(self, latent: Latent) -> View:
        return feature_view(latent.stochastic, latent.deterministic, latent.action_mask, latent.previous_action)


def first_rows(rows: Rows) -> Tensor:
    """(B, W) bool: the rows of windows at which an episode begins, as far as the windows show it."""
    before, now = rows[:, :-1], rows[:, 1:]
    begins = now.valid & (~before.valid | (before.episode != now.episode))
    return F.pad(begins, (1, 0))
