"""How a dataset lies on disk.

    dataset.json   task, environment settings, sizes, sources, versions, split, and the chunks with their SHA-256
    episodes/      chunks of whole episodes, each written once

``dataset.json`` is replaced in one step after every chunk, so a crash loses at most the chunk being written. It holds
the SHA-256 of itself, too; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dima.config import Config, Count, Whole, checked_fields, shown
from dima.data import EnvSpec, Episode
from dima.errors import ConfigError, RunFolderError
from dima.registry import FromFile
from dima.storage.atomic import reading
from dima.storage.chunks import Listing
from dima.storage.manifest import check_format, read_sealed
from dima.storage.serialization import Tree

KIND, FORMAT = "dima dataset", 1
MANIFEST, EPISODES = "dataset.json", "episodes"
_ROWS = ("state", "obs", "action_mask")  # of an episode, one more than steps
_STEPS = ("action", "reward", "terminated", "truncated")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What a dataset is a recording of. The same header goes on with a recording that was cut off."""

    task: str
    env: dict[str, Any]  # settings of the environment
    spec: EnvSpec
    sources: list[dict[str, Any]]  # whose episodes; plain data
    request: dict[str, Any]  # how many of them, from which seed, ...; plain data

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON gives it back."""
        spec = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.spec).items()}
        return {**asdict(self), "spec": spec}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Header:
        """What :meth:`to_dict` described, its task as a ``FromFile``; other entries are not looked at.

        Raises:
            ConfigError: an entry is not of its kind.
        """
        task, env, sources, request = (content[name] for name in ("task", "env", "sources", "request"))
        for name, value, kind in (("task", task, str), ("env", env, dict), ("request", request, dict)):
            if not isinstance(value, kind):
                raise ConfigError(f"{name} = {shown(value)} does not fit")
        if not isinstance(sources, list) or not all(isinstance(one.get("policy"), str) for one in sources):
            raise ConfigError(f"sources = {shown(sources)} does not fit")
        return cls(FromFile(task), env, checked_fields(EnvSpec, content["spec"]), sources, request)


def read_manifest(path: Path) -> Manifest:
    """The checked manifest of a dataset's folder.

    Raises:
        RunFolderError: the folder is missing, not a dataset, damaged or of another format.
    """
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise RunFolderError(f"{path} {what}: give a dataset's folder, as `dima dataset record` printed it")
    if not (path / MANIFEST).exists():
        raise RunFolderError(f"{path} is not a dima dataset: it has no {MANIFEST}; `dima dataset record` makes one")
    body = read_sealed(path / MANIFEST)
    check_format(path / MANIFEST, body, FORMAT)
    with reading(path / MANIFEST):
        _check_manifest(body)
    return body


@dataclass(frozen=True)
class _Chunk(Config):
    """What the manifest tells of a chunk."""

    size: Whole
    sha256: str
    source: Whole
    episodes: Count
    steps: Count


def _check_manifest(body: Manifest) -> None:
    """Make sure that everything in a manifest is of the kind that it is used as.

    Raises:
        Exception: of any kind, something is not.
    """
    spec = Header.from_dict(body).spec
    if len({len(spec.agents), len(spec.obs_sizes), len(spec.action_sizes)}) > 1 or not spec.agents:
        raise ValueError("its agents and their sizes are not equally many")
    chunks = [checked_fields(_Chunk, chunk) for chunk in body["chunks"]]
    episodes = sum(chunk.episodes for chunk in chunks)
    if not all(type(number) is int and 0 <= number < episodes for number in body["held_out"]):
        raise ValueError("an episode is held out that there is not")
    if not isinstance(body["complete"], bool) or not isinstance(body["protocol"], dict):
        raise ValueError("complete or protocol are of another kind")
    if body["complete"] and not chunks:
        raise ValueError("it holds no episode")


def check_chunk(chunk: Tree, spec: EnvSpec, episodes: int, steps: int) -> None:
    """Make sure that a chunk holds so many whole episodes of a task's sizes.

    Raises:
        Exception: of any kind, it does not.
    """
    lengths, seeds = chunk["steps"], chunk["seeds"]
    if not all(type(length) is int and length > 0 for length in lengths) or not len(lengths) == len(seeds) == episodes:
        raise ValueError(f"it does not hold the {episodes} episodes that it is said to hold")
    if not all(seed is None or (type(seed) is int and 0 <= seed < 2**63) for seed in seeds):
        raise ValueError("a seed is no whole number")
    if sum(lengths) != steps:
        raise ValueError(f"it does not hold the {steps} steps that it is said to hold")
    agents, rows = spec.n_agents, steps + episodes
    shapes = {
        "state": (rows, spec.state_dim),
        "obs": (rows, agents, spec.obs_dim),
        "action_mask": (rows, agents, spec.action_dim),
        "action": (steps, agents, spec.action_dim),
        "reward": (steps,),
        "terminated": (steps,),
        "truncated": (steps,),
    }
    for name, shape in shapes.items():
        truth = name in ("action_mask", "terminated", "truncated")
        if chunk[name].dtype is not (torch.bool if truth else torch.float32) or tuple(chunk[name].shape) != shape:
            raise ValueError(f"{name} is not of the task's sizes")


def listing(manifest: Manifest) -> Listing:
    """The fingerprints of a dataset's chunks."""
    return {n: {name: chunk[name] for name in ("size", "sha256")} for n, chunk in enumerate(manifest["chunks"])}


def pack(episodes: Sequence[Episode], seeds: Sequence[int | None]) -> Tree:
    """Episodes as one chunk, each with the seed of its environment, where that is known."""
    columns = {name: torch.cat([getattr(episode, name) for episode in episodes]) for name in (*_ROWS, *_STEPS)}
    return {"seeds": list(seeds), "steps": [len(episode) for episode in episodes], **columns}


def unpack(chunk: Tree) -> Iterator[tuple[int | None, Episode]]:
    """The seeds and episodes that :func:`pack` was given."""
    steps = chunk["steps"]
    columns = {name: chunk[name].split([n + 1 for n in steps]) for name in _ROWS}
    columns |= {name: chunk[name].split(steps) for name in _STEPS}
    for n, seed in enumerate(chunk["seeds"]):
        yield seed, Episode(**{name: parts[n] for name, parts in columns.items()})
