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

from dima.data import EnvSpec, Episode
from dima.errors import RunFolderError
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
        """What :meth:`to_dict` described; other entries are not looked at."""
        facts: dict[str, Any] = content["spec"]
        spec: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in facts.items()}
        return cls(content["task"], content["env"], EnvSpec(**spec), content["sources"], content["request"])


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
    return body


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
