"""PPO's centralised critic and the normalisation of its values (docs/reference/baselines.md, "PPO critic")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dima.config import Config, Count
from dima.data import EnvSpec
from dima.nn.mlp import RELU_GAIN, mlp, relu
from dima.nn.normalizer import GRAIN, TINY, Normalizer


@dataclass(frozen=True)
class CriticConfig(Config):
    """The value network: global state -> one value for the team."""

    hidden: tuple[Count, ...] = (256, 256)  # widths of the hidden layers
    previous_action: bool = True  # also input the joint action that led to the state
    input_norm: bool = False  # layer norm over the state's features (HARL); else their running mean and deviation


class Critic(nn.Module):
    """Global state -> the team's value, in the units of a :class:`ValueNorm`.

    DIMA's critic (the default) takes the state, standardised by its running mean and deviation, and the previous joint
    action. HARL's (``input_norm`` and no ``previous_action``; the preset ``published`` of MAPPO and HAPPO) begins with
    a layer norm across the state's features, and so cannot see their common scale. One difference from DIMA: a layer
    norm after each hidden ReLU, as HARL has in actor and critic, so that all learners share one trunk.
    """

    entries: Tensor  # (M,) positions of the real entries among the N * A of a joint action

    def __init__(self, config: CriticConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        entries = torch.from_numpy(spec.action_valid).flatten().nonzero()[:, 0]
        self.padded = len(entries) < spec.n_agents * spec.action_dim
        self.register_buffer("entries", entries, persistent=False)
        self.state_scale = None if config.input_norm else Normalizer((spec.state_dim,))
        self.input_norm = nn.LayerNorm(spec.state_dim) if config.input_norm else None
        inputs = spec.state_dim + (len(entries) if config.previous_action else 0)
        self.net = mlp((inputs, *config.hidden, 1), relu, norm=True, gain=RELU_GAIN, head_gain=1.0)

    def update_statistics(self, state: Tensor) -> None:
        """Update the running normaliser, if there is one, with real states (..., S)."""
        if self.state_scale is not None:
            self.state_scale.update(state)

    def forward(self, state: Tensor, previous_action: Tensor) -> Tensor:
        """Value of each state.

        Args:
            state: (..., S) in the environment's units.
            previous_action: (..., N, A) joint action that led there, clipped here to the [-1, 1] that was executed.

        Returns:
            (...) normalised values.
        """
        features = state if self.state_scale is None else self.state_scale.normalize(state)
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.config.previous_action:
            joint = previous_action.flatten(-2)
            if self.padded:
                joint = joint[..., self.entries]
            features = torch.cat([features, joint.clamp(-1, 1)], dim=-1)
        value: Tensor = self.net(features)[..., 0].float()
        return value


class ValueNorm(nn.Module):
    """Running normalisation of returns: debiased moving mean and variance.

    Float64, as the variance is a small difference of large numbers. Before the first update the mean is 0 and the
    variance at its floor.

    Args:
        beta: decay of the moving averages per update; near 1 they are plain averages over all updates.
        floor: lower bound of the variance, in squared units of the return; 0: what float32 resolves.
    """

    mean: Tensor  # () float64, moving averages initialised to zero
    square: Tensor
    weight: Tensor

    def __init__(self, beta: float = 0.99999, floor: float = 0.01) -> None:
        super().__init__()
        self.beta, self.floor = beta, floor
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add a batch of returns of any shape, as one update of the averages."""
        x = x.double()
        self.mean.lerp_(x.mean(), 1 - self.beta)
        self.square.lerp_(x.square().mean(), 1 - self.beta)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.beta)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Debiased mean and standard deviation, two float64 scalars."""
        weight = self.weight.clamp(min=1e-12)
        mean, square = self.mean / weight, self.square / weight
        least = self.floor or (GRAIN**2 * square).clamp(min=TINY**2)
        return mean, (square - mean.square()).clamp(min=least).sqrt()

    def normalize(self, x: Tensor) -> Tensor:
        """Returns -> normalised values, float32."""
        mean, std = self.moments()
        return ((x.double() - mean) / std).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """Normalised values -> returns, float32."""
        mean, std = self.moments()
        return (x.double() * std + mean).float()
