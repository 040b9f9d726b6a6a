"""The scale on which rewards are predicted."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dima.nn.normalizer import TINY, Normalizer


class RewardScale(nn.Module):
    """Rewards as they are, their signed logarithm, or in units of their running mean and deviation."""

    def __init__(self, kind: Literal["raw", "symlog", "normalized"]) -> None:
        super().__init__()
        self.kind = kind
        self.running = Normalizer((), least=TINY) if kind == "normalized" else None

    def update(self, reward: Tensor) -> None:
        """Add real rewards to the running statistics, if there are any."""
        if self.running is not None:
            self.running.update(reward)

    def forward(self, reward: Tensor) -> Tensor:
        """Rewards in the environment's units -> targets of the prediction."""
        if self.kind == "symlog":
            return reward.sign() * reward.abs().log1p()
        return reward if self.running is None else self.running.normalize(reward)

    def invert(self, predicted: Tensor) -> Tensor:
        """Predictions -> rewards in the environment's units."""
        if self.kind == "symlog":
            return predicted.sign() * predicted.abs().expm1()
        return predicted if self.running is None else self.running.denormalize(predicted)
