"""The denoiser: EDM's preconditioning, loss and sampler, a Perceiver call each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.speed.plain.encoder import PlainEncoder
from benchmarks.speed.plain.unet import PlainUNet
from dima.data import EnvSpec
from dima.world_models.dima.denoiser import Denoiser, DenoiserConfig
from dima.world_models.dima.sampler import SamplerConfig

AS_PUBLISHED = ("euler", "descending", 0, 1)  # solver, order, tail levels, agents in a group


class PlainDenoiser(nn.Module):
    """A copy of :class:`dima.world_models.dima.denoiser.Denoiser`, weights included."""

    change_std: Tensor
    frequency: Tensor

    def __init__(self, source: Denoiser) -> None:
        super().__init__()
        self.config, self.spec = source.config, source.spec
        config, spec, dim = self.config, self.spec, source.config.condition_dim
        self.actions_at_input = config.action_path == "condition+input"
        self.encoder = PlainEncoder(config.encoder, spec, config.context, dim)
        self.condition = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        extra = spec.n_agents * (spec.action_dim + 1) if self.actions_at_input else 0
        self.net = PlainUNet(spec.state_dim + extra, spec.state_dim, dim, config.channels, config.blocks)
        weights = source.state_dict()
        self.register_buffer("change_std", weights["change_std"].clone())
        self.register_buffer("frequency", weights["noise_features.frequency"].clone())
        self.encoder.load_state_dict(_below("encoder.", weights))
        self.condition.load_state_dict(_below("condition.", weights))
        self.net.copy_weights(_below("net.", weights))

    # -- one denoising level --------------------------------------------------------------------------------------

    def network(self, noisy: Tensor, sigma: Tensor, state: Tensor, action: Tensor, valid: Tensor, reveal: Tensor):
        """The raw network's output (B, S) at noise (B, 1), and EDM's c_skip and c_out.

        Args:
            noisy: (B, S); sigma: (B, 1), without the offset.
            state: (B, C, S); action: (B, C, N, A); valid: (B, C) bool, the past.
            reveal: (B, N) bool, agents whose newest action is visible.
        """
        data, effective = self.config.sigma_data, (sigma**2 + self.config.sigma_offset**2).sqrt()
        c_in = 1 / (effective**2 + data**2).sqrt()
        c_skip = data**2 / (effective**2 + data**2)
        c_out = effective * data / (effective**2 + data**2).sqrt()
        phase = effective.log() / 4 * self.frequency
        visible = torch.cat([valid[:, :-1, None].repeat(1, 1, self.spec.n_agents), reveal[:, None]], dim=1)
        embedded = torch.cat([phase.cos(), phase.sin()], dim=-1) + self.encoder(action, visible)
        tokens = torch.cat([state, (c_in * noisy)[:, None]], dim=1)
        if self.actions_at_input:
            seen = visible[..., None].to(noisy.dtype)
            known = torch.cat([action * seen, seen], dim=-1).flatten(2)
            tokens = torch.cat([tokens, torch.cat([torch.zeros_like(known[:, :1]), known], dim=1)], dim=-1)
        return self.net(tokens, self.condition(embedded))[:, -1], c_skip, c_out

    def to_target(self, state: Tensor, newest: Tensor) -> Tensor:
        return state if self.config.target == "state" else (state - newest) / self.change_std

    def to_state(self, target: Tensor, newest: Tensor) -> Tensor:
        return target if self.config.target == "state" else newest + target * self.change_std

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, state: Tensor, action: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM's loss over a window (B, C + H, ...), one Perceiver call for each of its H targets."""
        config, past, batch = self.config, self.config.context, len(state)
        reveals = draw_reveals(config, self.spec, config.rollout * batch, state.device).split(batch)
        known = state * valid[..., None]
        history, losses = known[:, :past], []
        for h, reveal in enumerate(reveals):
            newest = history[:, -1]
            target = self.to_target(known[:, past + h], newest)
            log_sigma = config.log_sigma_mean + config.log_sigma_std * torch.randn_like(target[:, :1])
            sigma = log_sigma.exp().clamp(config.sigma_min, config.sigma_max)
            noisy = target + (sigma**2 + config.sigma_offset**2).sqrt() * torch.randn_like(target)
            window = slice(h, h + past)
            raw, c_skip, c_out = self.network(noisy, sigma, history, action[:, window], valid[:, window], reveal)
            losses.append(((raw - (target - c_skip * noisy) / c_out) ** 2).mean(-1))
            estimate = self.to_state(c_skip * noisy + c_out * raw, newest).detach()
            history = torch.cat([history[:, 1:], estimate[:, None]], dim=1)
        real = valid[:, past:]
        loss = (torch.stack(losses, dim=1) * real).sum() / real.sum().clamp(min=1)
        return loss, {"denoiser/loss": loss.detach()}

    # -- sampling -------------------------------------------------------------------------------------------------

    def sample(self, config: SamplerConfig, noise: Tensor, state: Tensor, action: Tensor, valid: Tensor) -> Tensor:
        """The next scaled state (B, S) by Euler's method from standard normal ``noise``, agents in descending order."""
        if (config.solver, config.order, config.tail_levels, self.config.group_size) != AS_PUBLISHED:
            raise ValueError("the reference samples as published: Euler, descending order, no tail, single agents")
        agents = self.spec.n_agents
        each = config.levels_per_agent or (2 if agents == 2 else 1)
        ramp = torch.linspace(0, 1, each * agents, device=noise.device)
        high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
        sigmas = torch.cat([(high + ramp * (low - high)) ** config.rho, ramp.new_zeros(1)])
        x, ids = sigmas[0] * noise, torch.arange(agents, device=noise.device)
        for level in range(each * agents):
            revealed = agents - 1 - level // each
            seen = {"one": ids == revealed, "cumulative": ids >= revealed, "all": ids >= 0}[self.config.reveal]
            sigma = sigmas[level].repeat(len(x), 1)
            raw, c_skip, c_out = self.network(x, sigma, state, action, valid, seen.repeat(len(x), 1))
            x = x + (sigmas[level + 1] - sigma) * (x - (c_skip * x + c_out * raw)) / sigma
        return self.to_state(x, state[:, -1])


def draw_reveals(config: DenoiserConfig, spec: EnvSpec, rows: int, device: torch.device) -> Tensor:
    """(rows, N) bool reveal masks of training examples, by the library's random draws."""
    rank = torch.rand(rows, spec.n_agents, device=device).argsort(dim=-1)
    if config.reveal == "one":
        return rank == torch.randint(spec.n_agents, (rows, 1), device=device)
    if config.reveal == "all":
        return rank >= 0
    return rank < torch.randint(1, spec.n_agents + 1, (rows, 1), device=device)


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict under a prefix."""
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
