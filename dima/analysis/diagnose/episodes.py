"""Real episodes for a diagnosis, and the scales of their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dima.data import Act, Episode
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.experience.episodes import episode_seed, play
from dima.experience.replay import check_chunk
from dima.nn.normalizer import Normalizer
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.storage.serialization import Tree

_MAX_ENVS = 20  # environments played at a time


@dataclass(frozen=True)
class EpisodeSource:
    """Episodes of one policy.

    Attributes:
        name: of the policy, or of where else they come from.
        episodes: whole episodes.
        seeds: of the environment, one for each episode; empty where they are unknown.
        trained_on: whether the world model was trained on them.
    """

    name: str
    episodes: list[Episode]
    seeds: tuple[int, ...] = ()
    trained_on: bool = False


def play_fresh(
    make: Callable[[], JointEnv],
    policies: Mapping[str, Act],
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[EpisodeSource]:
    """Play whole episodes of each policy on seeds that training never uses.

    Args:
        make: builds one environment of the task.
        policies: by display name.
        episodes: of each policy; no two episodes share a seed.
        seed: of everything drawn here.
        device: where the policies compute.
        progress: advanced once per policy.
    """
    sources = []
    with (
        (progress or Progress()).phase("play fresh episodes", len(policies)) as advance,
        VectorEnv(make, min(episodes, _MAX_ENVS)) as envs,
        drawn_from(device, seed),
    ):
        for index, (name, act) in enumerate(policies.items()):
            seeds = tuple(episode_seed(seed, index * episodes + i, "evaluation") for i in range(episodes))
            sources.append(EpisodeSource(name, play(envs, act, seeds, device), seeds))
            advance()
    return sources


def reservoir_sample(episodes: Iterable[Episode], limit: int, seed: int) -> list[Episode]:
    """Draw at most ``limit`` episodes uniformly from an iterable of unknown length."""
    rng = np.random.default_rng(seed)
    kept: list[Episode] = []
    for number, episode in enumerate(episodes):
        index = int(rng.integers(number + 1))
        if len(kept) < limit:
            kept.append(episode)
        elif index < limit:
            kept[index] = episode
    return kept


def replay_episodes(chunks: Iterable[Tree]) -> Iterator[Episode]:
    """Episodes of a saved replay, oldest first."""
    for chunk in chunks:
        check_chunk(chunk)
        yield from _chunk_episodes(chunk)


def _chunk_episodes(chunk: Tree) -> Iterator[Episode]:
    row = 0
    while row < len(chunk["last"]):
        end = int(chunk["last"][row]) - chunk["start"]
        with_last, acted = slice(row, end + 1), slice(row, end)
        yield Episode(
            obs=chunk["obs"][with_last],
            state=chunk["state"][with_last],
            action_mask=chunk["action_mask"][with_last],
            action=chunk["action"][acted],
            reward=chunk["reward"][acted],
            terminated=chunk["terminated"][acted],
            truncated=chunk["truncated"][acted],
        )
        row = end + 1


@dataclass(frozen=True)
class FeatureScales:
    """Names, groups and standard deviations of a task's features; a constant's is its size, at least 1."""

    agents: tuple[str, ...]
    names: tuple[str, ...]  # of the S state features
    kinds: tuple[str, ...]  # of the S state features
    state_scale: Tensor  # (S,)
    obs_scale: Tensor  # (N, O)
    state_varies: Tensor  # (S,) bool
    obs_varies: Tensor  # (N, O) bool
    obs_valid: Tensor  # (N, O) bool, False for padding

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Indices of the state features of each kind."""
        found: dict[str, list[int]] = {}
        for feature, kind in enumerate(self.kinds):
            found.setdefault(kind, []).append(feature)
        return found


def feature_scales(env: JointEnv, episodes: Sequence[Episode]) -> FeatureScales:
    """Measure the scales by which errors on these episodes are standardised."""
    spec = env.spec
    state = Normalizer((spec.state_dim,))
    obs = Normalizer((spec.n_agents, spec.obs_dim), samples=spec.obs_samples)
    for episode in episodes:
        state.update(episode.state)
        obs.update(episode.obs, spec.alive(episode.state))
    return FeatureScales(
        agents=spec.agents,
        names=tuple(env.state_names()),
        kinds=tuple(env.state_kinds()),
        state_scale=state.scale,
        obs_scale=obs.scale,
        state_varies=state.varies,
        obs_varies=obs.varies,
        obs_valid=torch.from_numpy(spec.obs_valid),
    )
