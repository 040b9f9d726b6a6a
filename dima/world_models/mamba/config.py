"""Sizes of the networks; defaults are the published ones for StarCraft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dima.config import Config, Count, DropoutRate, Range, SmallCount
from dima.errors import ConfigError


@dataclass(frozen=True)
class NetworkConfig(Config):
    """Sizes of the networks."""

    hidden: Count = 256  # width of every network
    deterministic: Count = 256  # width of the recurrent state
    categoricals: Count = 32  # categorical variables of the stochastic state
    classes: Annotated[int, Range(2)] = 32  # classes of each
    layers: SmallCount = 3  # of the attention over agents
    heads: Count = 8  # of a layer; they divide its width
    dropout: DropoutRate = 0.1  # in the attention, while the model is fitted

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ConfigError(f"heads = {self.heads} does not divide hidden = {self.hidden}: choose another number")

    @property
    def stochastic(self) -> int:
        """Width of the stochastic state."""
        return self.categoricals * self.classes

    @property
    def features(self) -> int:
        """Width of what networks see of a latent."""
        return self.stochastic + self.deterministic
