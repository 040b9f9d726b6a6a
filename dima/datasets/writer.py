"""A dataset that grows, chunk by chunk, safe against a crash at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dima.data import Episode
from dima.datasets.format import EPISODES, FORMAT, KIND, MANIFEST, Header, Manifest, listing, pack, read_manifest
from dima.datasets.reader import Dataset
from dima.errors import DatasetError, RunFolderError
from dima.storage.atomic import disk_errors, refuse_links, write_text
from dima.storage.chunks import keep_chunks, write_chunks
from dima.storage.lock import NAME as LOCK
from dima.storage.lock import FolderLock
from dima.storage.manifest import sealed
from dima.version import __version__


class DatasetWriter:
    """Adds episodes to a dataset's folder, which it locks. Use :meth:`open`; close it, or use it in a ``with``."""

    def __init__(self, path: Path, lock: FolderLock, manifest: Manifest) -> None:
        self.path, self._lock, self._manifest = path, lock, manifest

    @classmethod
    def open(
        cls, path: str | Path, header: Header, protocol: Mapping[str, Any], *, overwrite: bool = False
    ) -> DatasetWriter:
        """Begin a dataset, or go on with one of the same header that was cut off.

        Args:
            path: a folder that does not exist, is empty, or holds such a recording.
            header: what is recorded.
            protocol: versions and machine, for the record.
            overwrite: remove an earlier dataset first.

        Raises:
            RunFolderError: the folder holds something else, is in use or cannot be written.
            DatasetError: it holds a dataset already, or a recording that was begun otherwise.
        """
        path = Path(path)
        taken = _refuse_taken(path)
        refuse_links(path)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path)
        try:
            begun = _unfinished(path, header) if taken and not overwrite else None
            writer = cls(path, lock, begun or _begin(header, protocol))
            writer._save()
            keep_chunks(path / EPISODES, listing(writer._manifest))
        except BaseException:
            lock.close()
            raise
        return writer

    @property
    def episodes(self) -> int:
        """How many there are so far."""
        return sum(chunk["episodes"] for chunk in self._manifest["chunks"])

    def steps(self, source: int | None = None) -> int:
        """How many environment steps there are so far, of one source or of all."""
        chunks = self._manifest["chunks"]
        return sum(chunk["steps"] for chunk in chunks if source is None or chunk["source"] == source)

    def add(self, episodes: Sequence[Episode], source: int = 0, seeds: Sequence[int | None] | None = None) -> None:
        """Append a chunk; it is on disk when this returns.

        Args:
            episodes: at least one.
            source: the number of their source.
            seeds: of their environments, where known.

        Raises:
            RunFolderError: the disk is full or read-only; what was there before still counts.
        """
        chunks = self._manifest["chunks"]
        chunk = pack(episodes, seeds or [None] * len(episodes))
        facts = write_chunks(self.path / EPISODES, len(chunks), [chunk])[len(chunks)]
        chunks.append({**facts, "source": source, "episodes": len(episodes), "steps": sum(chunk["steps"])})
        self._save()

    def finish(self, held_out: float, seed: int) -> Dataset:
        """Split into training and held-out episodes, and declare the dataset complete.

        Args:
            held_out: share of each source's episodes that is kept from training; unless it is 0, at least one of two
                or more is kept, and at least one is not.
            seed: of the draw.

        Raises:
            DatasetError: there is no episode.
        """
        if not self.episodes:
            raise DatasetError(f"{self.path} would be empty: no episode was recorded")
        chunks = self._manifest["chunks"]
        sources = np.repeat([chunk["source"] for chunk in chunks], [chunk["episodes"] for chunk in chunks])
        self._manifest |= {"complete": True, "held_out": split(sources, held_out, seed)}
        self._save()
        return Dataset(self.path, self._manifest)

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _save(self) -> None:
        with disk_errors(self.path):
            write_text(self.path / MANIFEST, sealed(self._manifest))


def split(sources: np.ndarray, share: float, seed: int) -> list[int]:
    """The numbers of the episodes to hold out, drawn source by source.

    Args:
        sources: (E,) number of each episode's source.
        share: of each source's episodes.
        seed: of the draw.
    """
    rng, kept = np.random.default_rng(seed), []
    for source in np.unique(sources):
        numbers = np.flatnonzero(sources == source)
        count = min(max(1, round(share * len(numbers))), len(numbers) - 1) if share else 0
        kept += rng.choice(numbers, count, replace=False).tolist()
    return sorted(kept)


def _begin(header: Header, protocol: Mapping[str, Any]) -> Manifest:
    facts = {"kind": KIND, "format": FORMAT, "dima": __version__, "complete": False, "held_out": [], "chunks": []}
    return facts | header.to_dict() | {"protocol": dict(protocol)}


def _refuse_taken(path: Path) -> bool:
    """Whether the folder holds a dataset; False when it is free."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose another folder")
    if not path.exists() or all(child.name in (LOCK, MANIFEST + ".new") for child in path.iterdir()):
        return False
    if not (path / MANIFEST).exists():
        raise RunFolderError(f"{path} is not a dima dataset, so it is never overwritten: choose another folder")
    return True


def _unfinished(path: Path, header: Header) -> Manifest:
    """The manifest of the recording to go on with."""
    manifest = read_manifest(path)
    if manifest["complete"]:
        raise DatasetError(f"{path} already holds a dataset: --overwrite replaces it, --out chooses another folder")
    for name, value in header.to_dict().items():
        if manifest[name] != value:
            raise DatasetError(
                f"{path} holds a recording that was begun otherwise ({name} = {manifest[name]} there, {value} here): "
                "--overwrite replaces it, --out chooses another folder"
            )
    return manifest
