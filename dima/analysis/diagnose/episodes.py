"""Episodes to judge a world model by: fresh ones of several policies, and some of those it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dima.data import Episode
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.experience.collector import Act, episode_seed, play
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.storage.serialization import Tree

_COPIES = 20  # environments played at a time, at most


@dataclass(frozen=True)
class Source:
    """Episodes of one policy.

    Attributes:
        name: of the policy, or of where else they come from.
        episodes: what was played.
        seeds: of the environment, one for each episode; empty where they are not known.
        seen: the world model was trained on them.
    """

    name: str
    episodes: list[Episode]
    seeds: tuple[int, ...] = ()
    seen: bool = False


def play_fresh(
    make: Callable[[], JointEnv],
    policies: Mapping[str, Act],
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[Source]:
    """So many whole episodes of each policy, on seeds that training never uses, all of them different.

    Args:
        make: builds one environment of the task.
        policies: by the name they are shown under.
        episodes: of each.
        seed: of everything drawn here.
        device: where the policies live.
        progress: told of each policy played.
    """
    sources = []
    with (
        (progress or Progress()).phase("play fresh episodes", len(policies)) as advance,
        VectorEnv(make, min(episodes, _COPIES)) as envs,
        drawn_from(device, seed),
    ):
        for place, (name, act) in enumerate(policies.items()):
            seeds = tuple(episode_seed(seed, place * episodes + i, "evaluation") for i in range(episodes))
            sources.append(Source(name, play(envs, act, seeds, device), seeds))
            advance()
    return sources


def some_of(episodes: Iterable[Episode], limit: int, seed: int) -> list[Episode]:
    """At most ``limit`` of them, all equally likely (reservoir sampling)."""
    rng = np.random.default_rng(seed)
    kept: list[Episode] = []
    for number, episode in enumerate(episodes):
        place = int(rng.integers(number + 1))
        if len(kept) < limit:
            kept.append(episode)
        elif place < limit:
            kept[place] = episode
    return kept


def stored_episodes(chunks: Iterable[Tree]) -> Iterator[Episode]:
    """The episodes that a run's replay was saved with, in order."""
    for chunk in chunks:
        yield from _episodes(chunk)


def _episodes(chunk: Tree) -> Iterator[Episode]:
    row = 0
    while row < len(chunk["last"]):
        end = int(chunk["last"][row]) - chunk["start"]
        whole, played = slice(row, end + 1), slice(row, end)
        yield Episode(
            obs=chunk["obs"][whole],
            state=chunk["state"][whole],
            action_mask=chunk["action_mask"][whole],
            action=chunk["action"][played],
            reward=chunk["reward"][played],
            terminated=chunk["terminated"][played],
            truncated=chunk["truncated"][played],
        )
        row = end + 1
