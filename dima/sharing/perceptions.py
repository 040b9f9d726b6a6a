"""What world models of the library show their policies, described as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dima.config import Config, checked_fields, shown
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.normalizer import Normalizer
from dima.policies.base import Perception
from dima.world_models.mamba.config import NetworkConfig
from dima.world_models.mamba.networks import Filter
from dima.world_models.mamba.perception import LatentPerception, feature_spec
from dima.world_models.marie.tokenizer import Reconstruction, Tokenizer, TokenizerConfig


@dataclass(frozen=True)
class FilterConfig(NetworkConfig):
    """MAMBA's filter."""

    normalize_obs: bool = False  # standardise observations by their running mean and deviation


@dataclass(frozen=True)
class ReconstructionConfig(TokenizerConfig):
    """MARIE's tokenizer."""

    normalize_obs: bool = False  # standardise observations by their running mean and deviation
    clamp_obs: bool = False  # keep reconstructed observations within [-1, 1]


def describe_perception(perception: Perception) -> dict[str, Any] | None:
    """Kind and settings of a perception of the library as JSON data; None for a class of the user's own."""
    if type(perception) is LatentPerception and type(perception.filter) is Filter:
        sizes = _fields(NetworkConfig, perception.filter.config)
        latent = FilterConfig(**sizes, normalize_obs=perception.obs_scale is not None)
        return {"kind": "mamba", "settings": latent.to_dict()}
    if type(perception) is Reconstruction and type(perception.tokenizer) is Tokenizer:
        sizes, normalizes = _fields(TokenizerConfig, perception.tokenizer.config), perception.scale is not None
        coded = ReconstructionConfig(**sizes, normalize_obs=normalizes, clamp_obs=perception.clamp)
        return {"kind": "marie", "settings": coded.to_dict()}
    return None


def build_perception(described: Mapping[str, Any], spec: EnvSpec) -> tuple[Perception, EnvSpec]:
    """A perception with initial weights, and the sizes of what it shows, from the description in an untrusted file.

    Raises:
        ConfigError: there is no such perception, or a setting is invalid.
    """
    kind, settings = described["kind"], described["settings"]
    if kind == "mamba":
        latent = checked_fields(FilterConfig, settings)
        perception = LatentPerception(Filter(latent, spec), _scale(latent.normalize_obs, spec), spec)
        return perception, feature_spec(latent, spec)
    if kind == "marie":
        coded = checked_fields(ReconstructionConfig, settings)
        scale = _scale(coded.normalize_obs, spec)
        return Reconstruction(Tokenizer(coded, spec), scale, coded.clamp_obs), spec
    raise ConfigError(f"there is no perception {shown(kind)}")


def _fields(kind: type[Config], config: Config) -> dict[str, Any]:
    """What a class of settings declares, without what derived ones add."""
    return {f.name: getattr(config, f.name) for f in fields(kind)}


def _scale(wanted: bool, spec: EnvSpec) -> Normalizer | None:
    return Normalizer((spec.n_agents, spec.obs_dim), samples=spec.obs_samples) if wanted else None
