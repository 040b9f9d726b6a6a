"""Probabilistic ensemble of one-step networks: the plain model that every other world model has to beat.

Each member is an MLP from state and joint action to a Gaussian over the state's change and the reward (PETS,
arXiv 1805.12114), trained on batches of its own. A rollout keeps the member it began with, so that rollouts differ as
far as the members disagree.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Count, SmallCount
from dima.data import EnvSpec, Episode, View, blank
from dima.experience.replay import Replay, Rows
from dima.nn.normalizer import TINY, Normalizer
from dima.nn.optim import FitConfig
from dima.world_models.base import Loss, Objective, Step, WorldModelConfig, clip_action, mask_from_logits
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig
from dima.world_models.state_based import MIN_CHANGE_STD, StateModel

BOUND_WEIGHT = 0.01  # pulls the learnt bounds of the variances together (PETS, appendix A.1)


@dataclass(frozen=True)
class EnsembleModelConfig(WorldModelConfig):
    """Ensemble of one-step networks (PETS, arXiv 1805.12114), at MBPO's sizes (arXiv 1906.08253, appendix C)."""

    members: SmallCount = 5
    hidden: tuple[Count, ...] = (200, 200, 200, 200)  # widths of a member
    draw: Literal["member", "mean"] = "member"  # a sample of one member's Gaussian, or the average of all means
    decoder: ObservationDecoderConfig = ObservationDecoderConfig(bottleneck="none")
    dynamics_fit: FitConfig = FitConfig(batch=256, lr=1e-3, weight_decay=5e-5)  # a batch for each member
    decoder_fit: FitConfig = FitConfig(batch=256, lr=3e-4)

    def build(self, spec: EnvSpec) -> EnsembleWorldModel:
        return EnsembleWorldModel(self, spec)


@dataclass
class Latent:
    """The state, and the member that predicts."""

    state: Tensor  # (B, S) normalised
    member: Tensor  # (B,) int, the member that predicts
    action_mask: Tensor  # (B, N, A) bool, allowed now
    previous_action: Tensor  # (B, N, A) joint action that led here


@dataclass
class MemberPredictions:
    """Every member's prediction of a step; the last target is the reward, those before are the state's changes."""

    mean: Tensor  # (M, B, S + 1) normalised
    log_var: Tensor  # (M, B, S + 1)
    continuation: Tensor  # (M, B) logit
    mask_logits: Tensor | None  # (M, B, N, A) of the next action masks; None: everything is always allowed


class Members(nn.Module):
    """``M`` MLPs with inputs and outputs of their own, evaluated together: (M, B, I) -> (M, B, O)."""

    def __init__(self, members: int, sizes: Sequence[int]) -> None:
        super().__init__()
        layers = [[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)] for _ in range(members)]
        columns = list(zip(*layers, strict=True))  # the same layer of every member
        self.weight = nn.ParameterList(torch.stack([layer.weight.detach().T for layer in same]) for same in columns)
        self.bias = nn.ParameterList(torch.stack([layer.bias.detach()[None] for layer in same]) for same in columns)

    def forward(self, x: Tensor) -> Tensor:
        for n, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            x = torch.baddbmm(bias, F.silu(x) if n else x, weight)
        return x


class Dynamics(nn.Module):
    """Normalised state and joint action -> :class:`MemberPredictions`."""

    def __init__(self, config: EnsembleModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.spec, self.targets = spec, spec.state_dim + 1
        masks = spec.n_agents * spec.action_dim if spec.discrete and spec.masks_actions else 0
        joint = spec.n_agents * spec.action_dim
        self.members = Members(config.members, (spec.state_dim + joint, *config.hidden, 2 * self.targets + 1 + masks))
        self.lowest = nn.Parameter(torch.full((self.targets,), -10.0))  # log-variance
        self.highest = nn.Parameter(torch.full((self.targets,), 0.5))

    def forward(self, state: Tensor, action: Tensor) -> MemberPredictions:
        """(M, B, S), (M, B, N, A) -> predictions of each member."""
        out = self.members(torch.cat([state, action.flatten(-2)], dim=-1))
        mean, log_var, continuation, masks = out.tensor_split(
            (self.targets, 2 * self.targets, 2 * self.targets + 1), -1
        )
        log_var = self.highest - F.softplus(self.highest - log_var)
        log_var = self.lowest + F.softplus(log_var - self.lowest)
        shape = (self.spec.n_agents, self.spec.action_dim)
        return MemberPredictions(
            mean, log_var, continuation[..., 0], masks.unflatten(-1, shape) if masks.shape[-1] else None
        )


class EnsembleWorldModel(StateModel[Latent]):
    """One-step networks, each fitted to batches of its own."""

    context = 2  # the state, and the joint action that led to it

    def __init__(self, config: EnsembleModelConfig, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.reward_scale = Normalizer((), least=TINY)
        self.dynamics = Dynamics(config, spec)
        self.decoder = ObservationDecoder(config.decoder, spec)

    @property
    def compile_targets(self) -> tuple[str, ...]:
        return ("dynamics",)

    # -- learning from real experience ----------------------------------------------------------------------------

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        super().update_statistics(episodes)
        for episode in episodes:
            self.reward_scale.update(episode.reward.to(self.action_valid.device))
        # an error in the change of a feature that always changes by as much must be small in the state's units, too
        change = self.change_scale
        steady = ~change.varies
        change.shift.copy_(torch.where(steady, change.mean, change.shift))
        change.scale.copy_(torch.where(steady, MIN_CHANGE_STD * self.state_scale.scale, change.scale))

    def objectives(self) -> dict[str, Objective]:
        return {
            "dynamics": Objective(self.dynamics_rows, self.dynamics_loss, self.config.dynamics_fit),
            "decoder": self.decoder_objective(self.config.decoder_fit),
        }

    def dynamics_rows(self, replay: Replay) -> Rows:
        """(M * B, 2) recent steps, others for each member."""
        return replay.gather(replay.recent(self.config.members * self.config.dynamics_fit.batch), 0, 1)

    def dynamics_loss(self, rows: Rows) -> Loss:
        """Gaussian negative log-likelihood of change and reward, of continuation and of next masks."""
        change = self.change_scale.normalize(rows.state[:, 1] - rows.state[:, 0])
        target = torch.cat([change, self.reward_scale.normalize(rows.reward[:, 0])[:, None]], dim=-1)
        state, action = self.state_scale.normalize(rows.state[:, 0]), clip_action(rows.action[:, 0], self.spec)
        predicted = self.dynamics(self._each(state), self._each(action))
        error = (predicted.mean - self._each(target)).square()
        parts = {
            "likelihood": 0.5 * (error * (-predicted.log_var).exp() + predicted.log_var).sum(-1).mean(),
            "continuation": F.binary_cross_entropy_with_logits(
                predicted.continuation, self._each((~rows.terminated[:, 0]).to(target.dtype))
            ),
        }
        if predicted.mask_logits is not None:
            mask = self._each(rows.action_mask[:, 1].to(target.dtype))
            wrong = F.binary_cross_entropy_with_logits(predicted.mask_logits, mask, reduction="none")
            alive = self.spec.alive(rows.state[:, 1])
            wrong = blank(wrong, None if alive is None else self._each(alive))
            parts["mask"] = (wrong * self.action_valid).sum((-1, -2)).mean() / self.action_valid.sum()
        loss = torch.stack(list(parts.values())).sum()
        loss = loss + BOUND_WEIGHT * (self.dynamics.highest - self.dynamics.lowest).sum()
        parts["error"] = error[..., :-1].mean()
        return loss, {f"dynamics/{name}": part.detach() for name, part in parts.items()}

    def _each(self, values: Tensor) -> Tensor:
        """(M * B, ...) -> (M, B, ...): a batch for each member."""
        return values.unflatten(0, (self.config.members, -1))

    # -- imagination ----------------------------------------------------------------------------------------------

    def start(self, rows: Rows) -> Latent:
        state = self.state_scale.normalize(rows.state[:, -1])
        return Latent(
            state=state,
            member=torch.randint(self.config.members, (len(state),), device=state.device),
            action_mask=rows.action_mask[:, -1],
            previous_action=clip_action(rows.action[:, -2], self.spec),
        )

    def observe(self, latent: Latent) -> View:
        return View(
            obs=self.decode(latent.state),
            state=self.state_scale.denormalize(latent.state),
            action_mask=latent.action_mask,
            previous_action=latent.previous_action,
        )

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        action = clip_action(action, self.spec)
        everyone = (self.config.members, *[-1] * action.dim())
        predicted = self.dynamics(latent.state.expand(everyone[:-1]), action.expand(everyone))
        target = self._choose(predicted.mean, latent.member)
        if self.config.draw == "member":
            target = target + torch.randn_like(target) * (0.5 * self._choose(predicted.log_var, latent.member)).exp()
        change = self.change_scale.denormalize(target[:, :-1]) / self.state_scale.scale
        mask = latent.action_mask
        if predicted.mask_logits is not None:
            mask = mask_from_logits(self._choose(predicted.mask_logits, latent.member), self.action_valid)
        return Step(
            Latent(
                state=latent.state + change,
                member=latent.member,
                action_mask=mask,
                previous_action=action,
            ),
            self.reward_scale.denormalize(target[:, -1]),
            self._choose(predicted.continuation.sigmoid(), latent.member),
        )

    @property
    def members(self) -> int:
        return self.config.members

    def uncertainty(self, latent: Latent, action: Tensor) -> Tensor:
        """As the protocol has it; of the means, without the variances that the members predict."""
        action, everyone = clip_action(action, self.spec), (self.members, *[-1] * action.dim())
        predicted = self.dynamics(latent.state.expand(everyone[:-1]), action.expand(everyone))
        return predicted.mean[..., :-1].std(0).mean(-1) * self.reward_scale.scale

    def _choose(self, predicted: Tensor, member: Tensor) -> Tensor:
        """(M, B, ...) -> (B, ...): each row's own member, or the average of all."""
        if self.config.draw == "mean":
            return predicted.mean(0)
        return predicted[member, torch.arange(len(member), device=member.device)]
