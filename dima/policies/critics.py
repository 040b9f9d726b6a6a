"""The central critic and the scale of its values (model-free section 3, DIMA section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Config, Count
from dima.data import EnvSpec
from dima.nn.mlp import RELU_GAIN, mlp, relu
from dima.nn.normalizer import Normalizer


@dataclass(frozen=True)
class CriticConfig(Config):
    """The network that values the global state for the whole team."""

    hidden: tuple[Count, ...] = (256, 256)  # widths of the hidden layers
    previous_action: bool = True  # also show it the joint action that led to the state


class Critic(nn.Module):
    """Global state -> the team's value, in the units of a :class:`ValueNorm` (DIMA section 6)."""

    entries: Tensor  # (M,) positions of the real entries among the N * A of a joint action

    def __init__(self, config: CriticConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        entries = torch.from_numpy(spec.action_valid).flatten().nonzero()[:, 0]
        self.padded = len(entries) < spec.n_agents * spec.action_dim
        self.register_buffer("entries", entries, persistent=False)
        self.state_scale = Normalizer((spec.state_dim,))
        inputs = spec.state_dim + (len(entries) if config.previous_action else 0)
        self.net = mlp((inputs, *config.hidden, 1), relu, norm=True, gain=RELU_GAIN, head_gain=1.0)

    def forward(self, state: Tensor, previous_action: Tensor) -> Tensor:
        """Value of each state.

        Args:
            state: (..., S) in the environment's units.
            previous_action: (..., N, A) joint action that led there, clipped here to the [-1, 1] that was executed.

        Returns:
            (...) normalised values.
        """
        features = self.state_scale.normalize(state)
        if self.config.previous_action:
            joint = previous_action.flatten(-2)
            if self.padded:
                joint = joint[..., self.entries]
            features = torch.cat([features, joint.clamp(-1, 1)], dim=-1)
        value: Tensor = self.net(features)[..., 0].float()
        return value


class ValueNorm(nn.Module):
    """Debiased moving mean and variance of returns, so that the critic works in units of about 1 (section 3).

    Float64 inside: the variance is a difference of large numbers. Before the first update the mean is 0 and the
    variance at its floor.

    Args:
        beta: what a moving average keeps per update; near 1 it is the plain average of all updates.
        floor: least variance, in squared units of the return.
    """

    mean: Tensor  # () float64, moving averages that started from zero
    square: Tensor
    weight: Tensor

    def __init__(self, beta: float = 0.99999, floor: float = 0.01) -> None:
        super().__init__()
        self.beta, self.floor = beta, floor
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count in a batch of returns of any shape, as one step of the averages."""
        x = x.double()
        self.mean.lerp_(x.mean(), 1 - self.beta)
        self.square.lerp_(x.square().mean(), 1 - self.beta)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.beta)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in use, two float64 scalars."""
        weight = self.weight.clamp(min=1e-12)
        mean = self.mean / weight
        return mean, (self.square / weight - mean.square()).clamp(min=self.floor).sqrt()

    def normalize(self, x: Tensor) -> Tensor:
        """Returns -> the critic's units, float32."""
        mean, std = self.moments()
        return ((x.double() - mean) / std).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """The critic's units -> returns, float32."""
        mean, std = self.moments()
        return (x.double() * std + mean).float()
