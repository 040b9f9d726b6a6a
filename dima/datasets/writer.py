"""Write a dataset chunk by chunk, safe against a crash at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dima.config import user_path
from dima.data import Episode
from dima.datasets.format import EPISODES, FORMAT, KIND, MANIFEST, Header, Manifest, listing, pack, read_manifest
from dima.datasets.reader import Dataset
from dima.errors import DatasetError, RunFolderError
from dima.storage.atomic import refuse_links, write_errors, write_text
from dima.storage.chunks import keep_chunks, write_chunks
from dima.storage.lock import NAME as LOCK
from dima.storage.lock import FolderLock
from dima.storage.manifest import manifest_text
from dima.version import __version__


class DatasetWriter:
    """Appends episodes to a dataset and locks its folder.

    Use :meth:`open`, best in a ``with``.
    """

    def __init__(self, path: Path, lock: FolderLock, manifest: Manifest, made: bool = False) -> None:
        self.path, self._lock, self._manifest = path, lock, manifest
        self._made = made  # the folder did not exist before

    @classmethod
    def open(
        cls, path: str | Path, header: Header, protocol: Mapping[str, Any], *, overwrite: bool = False
    ) -> DatasetWriter:
        """Start a dataset, or continue an interrupted one with the same header.

        Args:
            path: a folder that does not exist, is empty, or holds an interrupted recording.
            header: description of the recording.
            protocol: versions and machine, for the record.
            overwrite: remove an earlier dataset first.

        Raises:
            RunFolderError: the folder holds something else, is in use or cannot be written.
            DatasetError: it holds a complete dataset, or a recording with another header.
        """
        path = user_path(path)
        made, exists = not path.exists(), _holds_dataset(path)
        refuse_links(path)
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path)
        try:
            unfinished = _unfinished(path, header) if exists and not overwrite else None
            writer = cls(path, lock, unfinished or _new_manifest(header, protocol), made)
            writer._save()
            keep_chunks(path / EPISODES, listing(writer._manifest))
        except BaseException:
            lock.close()
            raise
        return writer

    @property
    def episodes(self) -> int:
        """Number of episodes so far."""
        return sum(chunk["episodes"] for chunk in self._manifest["chunks"])

    def steps(self, source: int | None = None) -> int:
        """Number of environment steps so far, of one source or of all."""
        chunks = self._manifest["chunks"]
        return sum(chunk["steps"] for chunk in chunks if source is None or chunk["source"] == source)

    def add(self, episodes: Sequence[Episode], source: int = 0, seeds: Sequence[int | None] | None = None) -> None:
        """Append a chunk and wait until it is on disk.

        Args:
            episodes: at least one.
            source: index of their source.
            seeds: of their environments, where known.

        Raises:
            RunFolderError: the disk is full or read-only; the earlier chunks are kept.
        """
        chunks = self._manifest["chunks"]
        chunk = pack(episodes, seeds or [None] * len(episodes))
        facts = write_chunks(self.path / EPISODES, len(chunks), [chunk])[len(chunks)]
        chunks.append({**facts, "source": source, "episodes": len(episodes), "steps": sum(chunk["steps"])})
        self._save()

    def finish(self, held_out: float, seed: int) -> Dataset:
        """Split into training and held-out episodes, and mark the dataset complete.

        Args:
            held_out: share of each source's episodes that is held out. Unless it is 0, each source with two episodes
                or more has at least one in either part.
            seed: of the random split.

        Raises:
            DatasetError: there is no episode.
        """
        if not self.episodes:
            raise DatasetError(f"{self.path} is empty: no episode was recorded")
        chunks = self._manifest["chunks"]
        sources = np.repeat([chunk["source"] for chunk in chunks], [chunk["episodes"] for chunk in chunks])
        self._manifest |= {"complete": True, "held_out": split(sources, held_out, seed)}
        self._save()
        return Dataset(self.path, self._manifest)

    def close(self) -> None:
        """Release the lock; a dataset without an episode leaves nothing behind."""
        if not self.episodes:
            with suppress(OSError):
                self._remove()
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _remove(self) -> None:
        """Remove a dataset without an episode."""
        if (self.path / EPISODES).exists():
            (self.path / EPISODES).rmdir()
        for name in (MANIFEST, LOCK):
            (self.path / name).unlink(missing_ok=True)
        if self._made:
            self.path.rmdir()

    def _save(self) -> None:
        with write_errors(self.path):
            write_text(self.path / MANIFEST, manifest_text(self._manifest))


def split(sources: np.ndarray, share: float, seed: int) -> list[int]:
    """Draw the held-out episodes, source by source.

    Args:
        sources: (E,) index of each episode's source.
        share: of each source's episodes.
        seed: of the draw.

    Returns:
        Their sorted numbers.
    """
    rng, held_out = np.random.default_rng(seed), []
    for source in np.unique(sources):
        numbers = np.flatnonzero(sources == source)
        count = min(max(1, round(share * len(numbers))), len(numbers) - 1) if share else 0
        held_out += rng.choice(numbers, count, replace=False).tolist()
    return sorted(held_out)


def _new_manifest(header: Header, protocol: Mapping[str, Any]) -> Manifest:
    facts = {"kind": KIND, "format": FORMAT, "dima": __version__, "complete": False, "held_out": [], "chunks": []}
    return facts | header.to_dict() | {"protocol": dict(protocol)}


def _holds_dataset(path: Path) -> bool:
    """Whether the folder holds a dataset; False if it is unused.

    Raises:
        RunFolderError: it holds something else.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose another folder")
    if not path.exists() or all(child.name in (LOCK, MANIFEST + ".new") for child in path.iterdir()):
        return False
    if not (path / MANIFEST).exists():
        raise RunFolderError(f"{path} is not a dima dataset, so it is never overwritten: choose another folder")
    return True


def _unfinished(path: Path, header: Header) -> Manifest:
    """Manifest of the interrupted recording to continue."""
    manifest = read_manifest(path)
    if manifest["complete"]:
        raise DatasetError(f"{path} already holds a dataset: --overwrite replaces it, --out chooses another folder")
    for name, value in header.to_dict().items():
        if manifest[name] != value:
            raise DatasetError(
                f"{path} holds a recording with other settings ({name} = {manifest[name]} there, {value} here): "
                "--overwrite replaces it, --out chooses another folder"
            )
    return manifest
