"""Numbered, immutable files of experience, appended iteration by iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dima.storage.atomic import commit, fingerprint, read_errors, verify, write_errors
from dima.storage.serialization import Tree, load_tree_file, save_tree_file

Listing = dict[int, dict[str, Any]]  # size and SHA-256 of the chunks of a checkpoint, by number


def write_chunks(folder: Path, first: int, chunks: Sequence[Tree]) -> Listing:
    """Write chunks numbered from ``first``; returns their fingerprints.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    written = {}
    with write_errors(folder):
        folder.mkdir(exist_ok=True)
        for number, chunk in enumerate(chunks, first):
            path = chunk_path(folder, number)
            draft = path.with_name(path.name + ".new")
            save_tree_file(draft, chunk)
            written[number] = fingerprint(draft)
            commit(draft, path)
    return written


def read_chunks(folder: Path, listing: Listing) -> Iterator[tuple[int, Tree]]:
    """Iterate over the chunks of a listing in order.

    Raises:
        RunFolderError: a chunk is missing, truncated or changed.
    """
    for number in sorted(listing):
        path = chunk_path(folder, number)
        verify(path, listing[number])
        with read_errors(path):
            chunk = load_tree_file(path)
        yield number, chunk


def check_listing(listing: object) -> Listing:
    """Check the listing in an untrusted file.

    Raises:
        ValueError: it is invalid.
    """
    if not isinstance(listing, dict) or not all(type(number) is int and number >= 0 for number in listing):
        raise ValueError("its list of chunks is not indexed by number")
    if not all(isinstance(facts, dict) and facts.keys() == {"size", "sha256"} for facts in listing.values()):
        raise ValueError("a chunk has no size or no sha256")
    return listing


def keep_chunks(folder: Path, listing: Listing) -> None:
    """Remove chunks that are not in the listing."""
    names = {chunk_path(folder, number).name for number in listing}
    with write_errors(folder):
        for path in folder.glob("*.safetensors*"):
            if path.name not in names:
                path.unlink()


def chunk_path(folder: Path, number: int) -> Path:
    """File of a chunk."""
    return folder / f"{number:06d}.safetensors"
