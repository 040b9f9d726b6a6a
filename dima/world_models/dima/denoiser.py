"""The heart of DIMA: one network denoises the next global state, seeing one agent's action at a time.

Parametrisation and loss follow EDM (Karras et al. 2022, sections 4 and 5); the reveal mask is DIMA's idea (section 1).
States are normalised and scaled to a standard deviation of ``sigma_data`` before they come here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.config import Config, Count, NonNegative, Positive
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.world_models.dima.action_encoder import ActionEncoder, ActionEncoderConfig
from dima.world_models.dima.unet import GROUP, Kernels, TemporalUNet


@dataclass(frozen=True)
class DenoiserConfig(Config):
    """The diffusion model of the next state."""

    context: Count = 3  # past states and joint actions it conditions on
    rollout: Count = 3  # successive targets of a training window, each predicted from the model's own answers
    reveal: Literal["one", "cumulative", "all"] = "one"  # agents a level sees: its own, all so far, everyone
    agents_at_once: Count = 1  # agents that are revealed together; more make fewer levels of a large team
    action_path: Literal["condition", "condition+input"] = "condition"  # where the newest actions enter
    target: Literal["state", "change"] = "state"  # what is denoised: the next state, or its difference from the newest
    sigma_data: Positive = 0.5  # standard deviation of a scaled state feature
    sigma_offset: NonNegative = 0.3  # noise added at every level, also the last
    sigma_min: Positive = 0.002  # smallest training noise
    sigma_max: Positive = 20.0  # largest training noise
    log_sigma_mean: float = -0.4  # training noise is log-normal: mean of ln sigma
    log_sigma_std: Positive = 1.2  # and its standard deviation
    condition_dim: Count = 256  # width of the condition vector
    channels: tuple[Count, ...] = (64, 64, 64)  # U-Net width per level, multiples of 32; a level halves the time axis
    blocks: Count = 2  # U-Net residual blocks per level
    encoder: ActionEncoderConfig = ActionEncoderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or (self.context + 1) % 2 ** (len(self.channels) - 1):
            raise ConfigError(
                f"channels = {list(self.channels)} does not fit context = {self.context}: each level after the first "
                f"halves the {self.context + 1} time steps"
            )
        if any(width % GROUP for width in self.channels):
            raise ConfigError(f"channels = {list(self.channels)} must be multiples of {GROUP}")

    def turns(self, agents: int) -> int:
        """How many times agents of a team are revealed."""
        return -(-agents // self.agents_at_once)


class Coefficients(NamedTuple):
    """EDM's preconditioning at one noise level, each (B, 1)."""

    skip: Tensor
    scale_in: Tensor
    scale_out: Tensor
    level: Tensor


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
    """What a denoising level knows besides its noisy state; C past steps, oldest first."""

    state: Tensor  # (B, C, S) scaled, zero before the episode's start
    action: Tensor  # (B, C, N, A)
    valid: Tensor  # (B, C) bool, False before the episode's start


class Denoiser(nn.Module):
    """D(x; sigma, context): the expected next state behind a noisy one, given the revealed actions.

    With ``target = "change"`` x is the state's change instead, in units of its own spread: features that move little in
    a step, such as a robot's pitch, are then not lost below the noise floor.
    """

    change: Tensor  # (S,) spread of a step's change in units of the state's own

    def __init__(self, config: DenoiserConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        dim = config.condition_dim
        self.register_buffer("change", torch.ones(spec.state_dim))
        self.noise_features = FourierFeatures(dim)
        self.encoder = ActionEncoder(config.encoder, spec, config.context, dim)
        self.condition = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.direct = config.action_path == "condition+input"
        extra = spec.n_agents * (spec.action_dim + 1) if self.direct else 0
        steps, size = config.context + 1, spec.state_dim
        self.net = TemporalUNet(steps, size + extra, size, dim, config.channels, config.blocks)

    def to_target(self, state: Tensor, newest: Tensor) -> Tensor:
        """(B, S) scaled next states after the ``newest`` known ones -> what is denoised."""
        return state if self.config.target == "state" else (state - newest) / self.change

    def to_state(self, target: Tensor, newest: Tensor) -> Tensor:
        """The inverse of :meth:`to_target`."""
        return target if self.config.target == "state" else newest + target * self.change

    # -- preconditioning ------------------------------------------------------------------------------------------

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """EDM table 1 with sigma_eff^2 = sigma^2 + sigma_offset^2; (B, 1) -> four (B, 1)."""
        data = self.config.sigma_data
        effective = (sigma.square() + self.config.sigma_offset**2).sqrt()
        total = effective.square() + data**2
        return Coefficients(
            skip=data**2 / total,
            scale_in=total.rsqrt(),
            scale_out=effective * data * total.rsqrt(),
            level=effective.log() / 4,
        )

    def visible(self, valid: Tensor, reveal: Tensor) -> Tensor:
        """(..., B, C, N): past joint actions are known, of the newest only those of the revealed agents (..., B, N)."""
        past = valid[:, :-1, None].expand(*reveal.shape[:-1], -1, reveal.shape[-1])
        return torch.cat([past, reveal[..., None, :]], dim=-2)

    def encode_actions(self, action: Tensor, valid: Tensor, reveal: Tensor) -> Tensor:
        """(..., B, D) action conditions of (B, C, N, A) actions, one for each of the (..., B, N) reveal masks.

        They do not depend on the noise level: compute them once, before the denoising loop.
        """
        encoded: Tensor = self.encoder(action, self.visible(valid, reveal))
        return encoded

    def conditions(self, k: Coefficients, action: Tensor) -> Tensor:
        """(..., B, D) what steers the network, of noise levels and encoded actions (..., B, D)."""
        condition: Tensor = self.condition(self.noise_features(k.level) + action)
        return condition

    def network(
        self, noisy: Tensor, k: Coefficients, context: Context, reveal: Tensor, steering: Tensor, kernels: Kernels
    ) -> Tensor:
        """The raw network F: (B, S) -> (B, S)."""
        tokens = torch.cat([context.state, (k.scale_in * noisy)[:, None]], dim=1)
        if self.direct:
            # beside each state stand the visible actions that led to it; nothing is known of the oldest
            visible = self.visible(context.valid, reveal)[..., None].to(noisy.dtype)
            known = torch.cat([context.action * visible, visible], dim=-1).flatten(2)
            tokens = torch.cat([tokens, F.pad(known, (0, 0, 1, 0))], dim=-1)
        answer: Tensor = self.net(tokens, steering, kernels)
        return answer.float()

    def denoise(
        self,
        noisy: Tensor,
        sigma: Tensor,
        context: Context,
        reveal: Tensor,
        action: Tensor,
        kernels: Kernels | None = None,
    ) -> Tensor:
        """D(x; sigma), the estimate of the clean next state.

        Args:
            noisy: (B, S) what :meth:`to_target` makes of the next state, plus noise.
            sigma: (B, 1) or (1, 1) its noise level, without the offset.
            context: past states and actions.
            reveal: (B, N) bool, agents whose newest action may be used.
            action: (B, D) from :meth:`encode_actions` for the same ``reveal``.
            kernels: of the network, where they are at hand.
        """
        k = self.coefficients(sigma)
        kernels = self.net.kernels() if kernels is None else kernels
        steering = self.net.steer(self.conditions(k, action))
        return k.skip * noisy + k.scale_out * self.network(noisy, k, context, reveal, steering, kernels)

    # -- training -------------------------------------------------------------------------------------------------

    def draw_sigma(self, like: Tensor) -> Tensor:
        """(B, 1) log-normal training noise levels for a batch ``like`` (B, ...)."""
        config = self.config
        log_sigma = config.log_sigma_mean + config.log_sigma_std * torch.randn_like(like[:, :1])
        return log_sigma.exp().clamp(config.sigma_min, config.sigma_max)

    def draw_reveal(self, batch: int, device: torch.device) -> Tensor:
        """(B, N) bool: which agents a training example may see, uniform over turns (or sizes of the revealed set)."""
        agents = self.spec.n_agents
        rank = torch.rand(batch, agents, device=device).argsort(dim=-1)
        if self.config.reveal == "one":
            turn = torch.randint(self.config.turns(agents), (batch, 1), device=device)
            return rank // self.config.agents_at_once == turn
        if self.config.reveal == "all":
            return torch.ones_like(rank, dtype=torch.bool)
        return rank < torch.randint(1, agents + 1, (batch, 1), device=device)

    def loss(self, state: Tensor, action: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM loss over a window, the model's own answers taking the place of true states as it goes on.

        Args:
            state: (B, C + H, S) scaled states, C for context and H targets.
            action: (B, C + H, N, A) joint actions taken there.
            valid: (B, C + H) bool, False outside the episode.
        """
        past, horizon = self.config.context, self.config.rollout
        batch = len(state)
        reveal = self.draw_reveal(horizon * batch, state.device).unflatten(0, (horizon, batch))
        actions = [action[:, h : h + past] for h in range(horizon)]
        valids = [valid[:, h : h + past] for h in range(horizon)]
        encoded = self.encode_actions(torch.cat(actions), torch.cat(valids), reveal.flatten(0, 1))
        draws = [(self.draw_sigma(state[:, 0]), torch.randn_like(state[:, 0])) for _ in range(horizon)]
        sigma, noise = map(torch.stack, zip(*draws, strict=True))
        # nothing here depends on what the network answers: one call for all targets
        k = self.coefficients(sigma)
        conditions = self.conditions(k, encoded.unflatten(0, (horizon, batch))).unbind()
        kernels = self.net.kernels()
        noise = (sigma.square() + self.config.sigma_offset**2).sqrt() * noise
        known = state * valid[..., None]
        history = known[:, :past]
        losses = []
        for h in range(horizon):
            newest, now = history[:, -1], Coefficients(*(column[h] for column in k))
            target = self.to_target(known[:, past + h], newest)
            noisy = target + noise[h]
            context = Context(history, actions[h], valids[h])
            answer = self.network(noisy, now, context, reveal[h], self.net.steer(conditions[h]), kernels)
            losses.append((answer - (target - now.skip * noisy) / now.scale_out).square().mean(-1))
            estimate = self.to_state(now.skip * noisy + now.scale_out * answer, newest).detach()
            history = torch.cat([history[:, 1:], estimate[:, None]], dim=1)
        real = valid[:, past:]
        loss = (torch.stack(losses, dim=1) * real).sum() / real.sum().clamp(min=1)
        return loss, {"denoiser/loss": loss.detach()}
