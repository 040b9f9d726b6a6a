"""Settings of the world model; defaults are the published ones for StarCraft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dima.config import Count, Fraction, NonNegative, Range, SmallCount
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.normalizer import UNSCALED
from dima.nn.optim import FitConfig
from dima.world_models.base import WorldModelConfig

if TYPE_CHECKING:
    from dima.world_models.mamba.model import MambaWorldModel


@dataclass(frozen=True)
class MambaModelConfig(WorldModelConfig):
    """A recurrent state-space model for each agent, joined by attention in the transition (arXiv 2205.15023)."""

    hidden: Count = 256  # width of every network
    deterministic: Count = 256  # width of the recurrent state
    categoricals: Count = 32  # categorical variables of the stochastic state
    classes: Annotated[int, Range(2)] = 32  # classes of each
    layers: SmallCount = 3  # of the attention over agents
    heads: Count = 8  # of a layer; they divide its width
    dropout: Annotated[float, Range(0, 0.9)] = 0.1  # in the attention, while the model is fitted
    kl_balance: Fraction = 0.8  # share of the KL loss's gradient that trains the prior
    kl_reduction: Literal["mean", "sum"] = "mean"  # over the categorical variables
    obs_reduction: Literal["mean", "sum"] = "sum"  # of the reconstruction error, over an observation's features
    information: NonNegative = 1.0  # weight of the loss of the action that led to a latent; 0: none
    reward: Literal["raw", "symlog", "normalized"] = "raw"  # the scale on which rewards are predicted
    normalize_obs: bool = False  # standardise observations by their running mean and deviation
    window: Annotated[int, Range(4)] = 20  # real rows of a training sequence, and those a rollout starts from, plus one
    dynamics_fit: FitConfig = FitConfig(updates=60, batch=40, lr=2e-4, max_grad_norm=100.0)  # of sequences

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

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return {"--learner.world-model.reward normalized": UNSCALED} if self.reward == "raw" else {}

    def build(self, spec: EnvSpec) -> MambaWorldModel:
        from dima.world_models.mamba.model import MambaWorldModel

        return MambaWorldModel(self, spec)
