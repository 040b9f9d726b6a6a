"""The denoiser: an EDM network of the next global state that sees the actions of some agents only.

Preconditioning and loss follow EDM (Karras et al. 2022, arXiv 2206.00364, section 5 and table 1); the reveal mask is
DIMA's idea (docs/reference/dima.md, "Idea"). States come here normalised, with a standard deviation of ``sigma_data``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, Fraction, NonEmpty, NonNegative, Positive, SmallCount
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.mlp import mlp
from dima.world_models.dima.action_encoder import ActionEncoder, ActionEncoderConfig
from dima.world_models.dima.residual_mlp import ResidualMLP
from dima.world_models.dima.unet import GROUP, TemporalUNet

RESIDUAL_WIDTH = 128  # hidden units of the network for the size of prediction errors
LOG_STD_RANGE = (-7.0, 1.0)  # of its output


@dataclass(frozen=True)
class DenoiserConfig(Config):
    """The diffusion model of the next state."""

    context: SmallCount = 3  # past states and joint actions it conditions on
    rollout: SmallCount = 3  # successive targets of a training window, each predicted from the model's own estimates
    reveal: Literal["one", "cumulative", "all"] = "one"  # agents a level sees: its own, all so far, everyone
    full_reveal: Fraction = 0.0  # cumulative: share of training examples that see all agents, besides those drawn
    group_size: Count = 1  # agents that are revealed together; more make fewer levels for a large team
    action_path: Literal["condition", "condition+input", "input"] = "condition"  # where actions enter the network
    target: Literal["state", "change"] = "state"  # what is denoised: the next state, or its difference from the newest
    sigma_data: Positive = 0.5  # standard deviation of a scaled state feature
    sigma_offset: NonNegative = 0.3  # noise added at every level, also the last
    sigma_min: Positive = 0.002  # smallest training noise
    sigma_max: Positive = 20.0  # largest training noise
    residual_noise: bool = False  # add noise to samples, of a learnt size: that of the prediction error
    log_sigma_mean: float = -0.4  # training noise is log-normal: mean of ln sigma
    log_sigma_std: Positive = 1.2  # and its standard deviation
    condition_dim: Count = 256  # width of the condition vector, even
    backbone: Literal["unet", "mlp"] = "unet"  # a U-Net over time steps, or a residual MLP over all of them at once
    # unet: width by resolution, multiples of 32; each after the first halves the time axis
    channels: Annotated[tuple[Count, ...], NonEmpty()] = (64, 64, 64)
    width: Count = 256  # mlp: width of the residual blocks
    blocks: SmallCount = 2  # residual blocks, of the mlp or at each resolution of the unet
    encoder: ActionEncoderConfig = ActionEncoderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        unet = self.backbone == "unet"
        if unet and (self.context + 1) % 2 ** (len(self.channels) - 1):
            raise ConfigError(
                f"channels = {list(self.channels)} does not fit context = {self.context}: each width after the first "
                f"halves the {self.context + 1} time steps"
            )
        if unet and any(width % GROUP for width in self.channels):
            raise ConfigError(f"channels = {list(self.channels)} must be multiples of {GROUP}")
        if self.condition_dim % 2:
            raise ConfigError(
                f"condition_dim = {self.condition_dim} must be even: a noise level has a sine and a cosine"
            )

    def reveal_groups(self, agents: int) -> int:
        """The number of groups in which a team is revealed."""
        return -(-agents // self.group_size)


class Coefficients(NamedTuple):
    """EDM's preconditioning at one noise level, each (B, 1)."""

    skip: Tensor
    scale_in: Tensor
    scale_out: Tensor
    noise: Tensor


class ResidualScale(nn.Module):
    """Standard deviation of the prediction error, feature by feature.

    Below the noise floor every level averages, so draws are narrower than they err. What the average leaves is
    Gaussian noise here, whose size depends on state and joint action; trained by likelihood on the denoiser's errors.
    """

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.net = mlp((spec.state_dim + spec.n_agents * spec.action_dim, RESIDUAL_WIDTH, spec.state_dim), nn.SiLU)
        self.bias = nn.Parameter(torch.full((spec.state_dim,), math.log(0.1)))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """(B, S) scaled states, (B, N, A) -> (B, S) logarithms of the standard deviation."""
        log_std: Tensor = self.net(torch.cat([state, action.flatten(1)], dim=-1)).float() + self.bias
        return log_std.clamp(*LOG_STD_RANGE)

    def loss(self, state: Tensor, action: Tensor, error: Tensor, weight: Tensor) -> Tensor:
        """Negative log-likelihood of errors (B, S), averaged with ``weight`` (B,)."""
        log_std = self(state, action)
        nll = (0.5 * (error * (-log_std).exp()).square() + log_std).mean(-1)
        return (nll * weight).sum() / weight.sum().clamp(min=1)


class FourierFeatures(nn.Module):
    """(B, 1) -> (B, D): fixed random frequencies of a scalar."""

    frequency: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequency", 2 * torch.pi * torch.randn(1, dim // 2))

    def forward(self, x: Tensor) -> Tensor:
        phase = x * self.frequency
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


@dataclass
class Context:
    """What the next state depends on: C past steps, oldest first."""

    state: Tensor  # (B, C, S) scaled, zero before the episode's start
    action: Tensor  # (B, C, N, A)
    valid: Tensor  # (B, C) bool, False before the episode's start

    def __getitem__(self, rows: slice) -> Context:
        return Context(self.state[rows], self.action[rows], self.valid[rows])


class Denoiser(nn.Module):
    """D(x; sigma, context): the expected next state behind a noisy one, given the revealed actions.

    With ``target = "change"`` x is the state's change instead, in units of its own standard deviation: features that
    move little in a step, such as a robot's pitch, are then not lost below the noise floor.

    Args:
        config: sizes and noise.
        spec: of the task.
        unet: class of the U-Net, where that is the backbone.
        encoder: class of the Perceiver.
    """

    change_std: Tensor  # (S,) standard deviation of a step's change, in units of the state's

    def __init__(
        self,
        config: DenoiserConfig,
        spec: EnvSpec,
        unet: type[TemporalUNet] = TemporalUNet,
        encoder: type[ActionEncoder] = ActionEncoder,
    ) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        dim = config.condition_dim
        self.register_buffer("change_std", torch.ones(spec.state_dim))
        self.noise_features = FourierFeatures(dim)
        self.encoder = encoder(config.encoder, spec, config.context, dim) if config.action_path != "input" else None
        self.condition = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.actions_at_input = config.action_path != "condition"
        extra = spec.n_agents * (spec.action_dim + 1) if self.actions_at_input else 0
        self.residual = ResidualScale(spec) if config.residual_noise else None
        sizes = (config.context + 1, spec.state_dim + extra, spec.state_dim, dim)
        self.net: TemporalUNet | ResidualMLP = (
            unet(*sizes, config.channels, config.blocks)
            if config.backbone == "unet"
            else ResidualMLP(*sizes, config.width, config.blocks)
        )

    def add_residual(self, target: Tensor, context: Context) -> Tensor:
        """Widen samples (B, S) of :meth:`to_target` to how far they err."""
        if self.residual is None:
            return target
        log_std = self.residual(context.state[:, -1], context.action[:, -1])
        return target + log_std.exp() * torch.randn_like(target)

    def to_target(self, state: Tensor, newest: Tensor) -> Tensor:
        """(B, S) scaled next states after the ``newest`` known ones -> what is denoised."""
        return state if self.config.target == "state" else (state - newest) / self.change_std

    def to_state(self, target: Tensor, newest: Tensor) -> Tensor:
        """The inverse of :meth:`to_target`."""
        return target if self.config.target == "state" else newest + target * self.change_std

    # -- the denoising function -----------------------------------------------------------------------------------

    def denoise(
        self,
        noisy: Tensor,
        sigma: Tensor,
        context: Context,
        reveal: Tensor,
        encoded: Tensor,
        net: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Estimate the clean next state.

        Args:
            noisy: (B, S) :meth:`to_target` of the next state, plus noise.
            sigma: (B, 1) or (1, 1) its noise level, without the offset.
            context: past states and actions.
            reveal: (B, N) bool, agents whose newest action is visible.
            encoded: (B, D) from :meth:`encode_actions` for the same ``reveal``.
            net: from ``self.net.prepare()``, for many calls with the same weights.
        """
        k = self.coefficients(sigma)
        return k.skip * noisy + k.scale_out * self.raw(noisy, k, context, reveal, encoded, net or self.net)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """EDM table 1 with sigma_eff^2 = sigma^2 + sigma_offset^2; (B, 1) -> four (B, 1)."""
        data, effective = self.config.sigma_data, self.effective(sigma)
        total = effective.square() + data**2
        return Coefficients(
            skip=data**2 / total,
            scale_in=total.rsqrt(),
            scale_out=effective * data * total.rsqrt(),
            noise=effective.log() / 4,
        )

    def effective(self, sigma: Tensor) -> Tensor:
        """The noise level, the offset included."""
        return (sigma.square() + self.config.sigma_offset**2).sqrt()

    def encode_actions(self, action: Tensor, valid: Tensor, reveal: Tensor) -> Tensor:
        """(B, C, N, A) actions, (B, C) validity and (B, N) reveal masks -> (B, D) action conditions.

        They do not depend on the noise level: compute them once, before the denoising loop. Zero where actions enter
        at the network's input only.
        """
        if self.encoder is None:
            return action.new_zeros(len(action), self.config.condition_dim)
        encoded: Tensor = self.encoder(action, visible(valid, reveal))
        return encoded

    def raw(
        self,
        noisy: Tensor,
        k: Coefficients,
        context: Context,
        reveal: Tensor,
        encoded: Tensor,
        net: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The raw network F of EDM, (B, S) -> (B, S)."""
        tokens = torch.cat([context.state, (k.scale_in * noisy)[:, None]], dim=1)
        if self.actions_at_input:
            # each state is joined by the visible actions that led to it; nothing is known of the oldest
            seen = visible(context.valid, reveal)[..., None].to(noisy.dtype)
            known = torch.cat([context.action * seen, seen], dim=-1).flatten(2)
            tokens = torch.cat([tokens, F.pad(known, (0, 0, 1, 0))], dim=-1)
        return net(tokens, self.condition(self.noise_features(k.noise) + encoded)).float()

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, state: Tensor, action: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM loss over a window in which the model's own estimates replace the true states, one step after the other.

        Args:
            state: (B, C + H, S) scaled states, C for context and H targets.
            action: (B, C + H, N, A) joint actions taken there.
            valid: (B, C + H) bool, False outside the episode.
        """
        past, horizon = self.config.context, self.config.rollout
        reveal = self.draw_reveal(horizon * len(state), state.device).chunk(horizon)
        windows = [slice(h, h + past) for h in range(horizon)]
        encoded = self.encode_actions(
            torch.cat([action[:, w] for w in windows]), torch.cat([valid[:, w] for w in windows]), torch.cat(reveal)
        ).chunk(horizon)
        known, net = state * valid[..., None], self.net.prepare()
        history, losses, residual = known[:, :past], [], []
        for h, window in enumerate(windows):
            newest = history[:, -1]
            target = self.to_target(known[:, past + h], newest)
            sigma = self.draw_sigma(target)
            noisy = target + self.effective(sigma) * torch.randn_like(target)
            k = self.coefficients(sigma)
            raw = self.raw(noisy, k, Context(history, action[:, window], valid[:, window]), reveal[h], encoded[h], net)
            losses.append((raw - (target - k.skip * noisy) / k.scale_out).square().mean(-1))
            clean = (k.skip * noisy + k.scale_out * raw).detach()
            if self.residual is not None:
                # so noisy that the estimate is a prediction, as in sampling: the truth does not shine through
                blind = reveal[h].all(-1) & (self.effective(sigma)[:, 0] > 2 * self.config.sigma_data)
                weight = (blind & valid[:, past + h]).float()
                residual.append(self.residual.loss(newest, action[:, past + h - 1], clean - target, weight))
            estimate = self.to_state(clean, newest)
            history = torch.cat([history[:, 1:], estimate[:, None]], dim=1)
        real = valid[:, past:]
        loss = (torch.stack(losses, dim=1) * real).sum() / real.sum().clamp(min=1)
        metrics = {"loss": loss.detach()}
        if residual:
            nll = torch.stack(residual).mean()
            loss, metrics["residual"] = loss + nll, nll.detach()
        return loss, metrics

    def draw_sigma(self, target: Tensor) -> Tensor:
        """(B, 1) log-normal training noise levels for targets (B, S)."""
        config = self.config
        log_sigma = config.log_sigma_mean + config.log_sigma_std * torch.randn_like(target[:, :1])
        return log_sigma.exp().clamp(config.sigma_min, config.sigma_max)

    def draw_reveal(self, batch: int, device: torch.device) -> Tensor:
        """(B, N) bool reveal masks of training examples, uniform over groups (or sizes of the revealed set)."""
        agents = self.spec.n_agents
        rank = torch.rand(batch, agents, device=device).argsort(dim=-1)
        if self.config.reveal == "one":
            group = torch.randint(self.config.reveal_groups(agents), (batch, 1), device=device)
            return rank // self.config.group_size == group
        if self.config.reveal == "all":
            return torch.ones_like(rank, dtype=torch.bool)
        seen = torch.randint(1, agents + 1, (batch, 1), device=device)
        if self.config.full_reveal:
            seen = torch.where(torch.rand(batch, 1, device=device) < self.config.full_reveal, agents, seen)
        return rank < seen


def visible(valid: Tensor, reveal: Tensor) -> Tensor:
    """(B, C, N) bool: past joint actions are known, of the newest only those of the revealed agents (B, N)."""
    past = valid[:, :-1, None].expand(-1, -1, reveal.shape[-1])
    return torch.cat([past, reveal[:, None]], dim=1)
