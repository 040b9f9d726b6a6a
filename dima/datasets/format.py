"""File format of a dataset: manifest and chunks of episodes, and their checks.

    dataset.json   manifest: task, environment settings, sizes, sources, versions, split, chunks with their SHA-256
    episodes/      chunks of whole episodes, each written once

The manifest is replaced atomically after every chunk, so a crash loses at most the chunk being written. It also holds
its own SHA-256. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch

from dima.config import Config, Count, NonNegative, Positive, Range, Whole, checked_fields, shown
from dima.data import EnvSpec, Episode, check_episode
from dima.errors import ConfigError, RunFolderError
from dima.registry import FromFile
from dima.runtime.provenance import commit_id
from dima.storage.atomic import read_errors
from dima.storage.chunks import Listing
from dima.storage.manifest import check_format, read_verified
from dima.storage.serialization import Tree

KIND, FORMAT = "dima dataset", 1
MANIFEST, EPISODES = "dataset.json", "episodes"
RANDOM = "random"  # as a source's policy: uniform over the action space
_ROW_FIELDS = ("state", "obs", "action_mask")  # T + 1 rows for an episode of T steps
_STEP_FIELDS = ("action", "reward", "terminated", "truncated")  # T rows
Manifest = dict[str, Any]
HeldOutShare = Annotated[float, Range(0, 0.9)]


@dataclass(frozen=True)
class Source(Config):
    """One component of a mixture of policies, as recorded in the manifest."""

    policy: str = RANDOM  # a run folder, or `random`: uniform over the action space
    share: Positive = 1.0  # of the recorded steps, relative to the other sources' shares
    mode: bool = False  # the policy's most probable action instead of samples
    noise: NonNegative = 0.0  # standard deviation of noise added to continuous actions, which lie in [-1, 1]
    correlation: Annotated[float, Range(0, 0.9999)] = 0.0  # of the noise from step to step (Ornstein-Uhlenbeck)


@dataclass(frozen=True)
class Header:
    """Description of a recording.

    An interrupted recording is continued only under an equal header.
    """

    task: str
    env: dict[str, Any]  # settings of the environment
    spec: EnvSpec
    sources: list[dict[str, Any]]  # of each, a :class:`Source` as plain data, and facts of its run
    request: dict[str, Any]  # number of steps, seed, ...; plain data

    def to_dict(self) -> dict[str, Any]:
        """Plain data, equal to what JSON returns."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"spec": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Header:
        """Inverse of :meth:`to_dict`, the task as a ``FromFile``; other entries are ignored.

        Raises:
            ConfigError: an entry has a wrong type.
        """
        task, env, sources, request = (content[name] for name in ("task", "env", "sources", "request"))
        for name, value, kind in (("task", task, str), ("env", env, dict), ("request", request, dict)):
            if not isinstance(value, kind):
                raise ConfigError(f"{name} = {shown(value)} does not fit: expected a value of type {kind.__name__}")
        if not isinstance(sources, list) or not all(isinstance(source.get("policy"), str) for source in sources):
            raise ConfigError(f"sources = {shown(sources)} does not fit: expected a list with a policy in each entry")
        return cls(FromFile(task), env, checked_fields(EnvSpec, content["spec"]), sources, request)


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of a dataset.

    Raises:
        RunFolderError: the folder is missing, not a dataset, damaged or of another format.
    """
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise RunFolderError(f"{path} {what}: give the folder that `dima dataset record` printed")
    if not (path / MANIFEST).exists():
        raise RunFolderError(f"{path} is not a dima dataset: it has no {MANIFEST}; `dima dataset record` makes one")
    body = read_verified(path / MANIFEST)
    check_format(path / MANIFEST, body, FORMAT, commit_id(body.get("protocol")))
    with read_errors(path / MANIFEST):
        _check_manifest(body)
    return body


@dataclass(frozen=True)
class _Chunk(Config):
    """Entry of the manifest for one chunk."""

    size: Whole  # bytes
    sha256: str
    source: Whole
    episodes: Count
    steps: Count


def _check_manifest(body: Manifest) -> None:
    """Check types and ranges in a manifest.

    Raises:
        Exception: of any type, a check failed.
    """
    spec = Header.from_dict(body).spec
    if len({len(spec.agents), len(spec.obs_sizes), len(spec.action_sizes)}) > 1 or not spec.agents:
        raise ValueError("the numbers of agents and of their sizes differ")
    chunks = [checked_fields(_Chunk, chunk) for chunk in body["chunks"]]
    episodes = sum(chunk.episodes for chunk in chunks)
    if not all(type(number) is int and 0 <= number < episodes for number in body["held_out"]):
        raise ValueError("held_out names an episode that does not exist")
    if not isinstance(body["complete"], bool) or not isinstance(body["protocol"], dict):
        raise ValueError("complete or protocol has a wrong type")
    if body["complete"] and not chunks:
        raise ValueError("it is complete but holds no episode")


def check_chunk(chunk: Tree, spec: EnvSpec, episodes: int, steps: int) -> None:
    """Check that a chunk holds whole episodes with the task's shapes.

    Args:
        chunk: its content.
        spec: the task's sizes.
        episodes: their number according to the manifest.
        steps: likewise.

    Raises:
        Exception: of any type, a check failed.
    """
    lengths, seeds = chunk["steps"], chunk["seeds"]
    if not all(type(length) is int and length > 0 for length in lengths) or not len(lengths) == len(seeds) == episodes:
        raise ValueError(f"it does not hold {episodes} episodes as the manifest says")
    if not all(seed is None or (type(seed) is int and 0 <= seed < 2**63) for seed in seeds):
        raise ValueError("a seed is not a whole number")
    if sum(lengths) != steps:
        raise ValueError(f"it does not hold {steps} steps as the manifest says")
    for number, (_, episode) in enumerate(unpack(chunk)):
        try:
            check_episode(episode, spec)
        except ValueError as error:
            raise ValueError(f"episode {number} of {episodes} in it: {error}") from None


def listing(manifest: Manifest) -> Listing:
    """Size and SHA-256 of each chunk of a dataset."""
    return {n: {name: chunk[name] for name in ("size", "sha256")} for n, chunk in enumerate(manifest["chunks"])}


def pack(episodes: Sequence[Episode], seeds: Sequence[int | None]) -> Tree:
    """Concatenate episodes, with their environments' seeds where known, into a chunk."""
    columns = {
        name: torch.cat([getattr(episode, name) for episode in episodes]) for name in (*_ROW_FIELDS, *_STEP_FIELDS)
    }
    return {"seeds": list(seeds), "steps": [len(episode) for episode in episodes], **columns}


def unpack(chunk: Tree) -> Iterator[tuple[int | None, Episode]]:
    """Split a chunk into seeds and episodes: inverse of :func:`pack`."""
    steps = chunk["steps"]
    columns = {name: chunk[name].split([n + 1 for n in steps]) for name in _ROW_FIELDS}
    columns |= {name: chunk[name].split(steps) for name in _STEP_FIELDS}
    for n, seed in enumerate(chunk["seeds"]):
        yield seed, Episode(**{name: parts[n] for name, parts in columns.items()})
