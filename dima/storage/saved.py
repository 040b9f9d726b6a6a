"""Read the saved state of a run, also while another process replaces it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dima.config import count, read_text
from dima.errors import RunFolderError
from dima.storage.atomic import read_errors
from dima.storage.checkpoint import TENSORS, TREE, current_checkpoint, load_tree, read_manifest
from dima.storage.chunks import check_listing
from dima.storage.manifest import JSON_BYTES, digest
from dima.storage.serialization import Tree

_READ_ATTEMPTS = 5  # a reader may find a checkpoint that is being replaced


@dataclass
class Saved:
    """State of a run after its last saved iteration."""

    tree: Tree
    chunks: Iterator[tuple[int, Tree]]  # (number, content) of the replay chunks in order, read one at a time
    digest: str  # SHA-256 that identifies this state
    size: int  # bytes of its tensors without the chunks


def read_checkpoint(path: Path, written_by: str = "") -> tuple[Tree, str, int] | None:
    """Load and check the newest checkpoint.

    Args:
        path: the checkpoint folder, which another process may be replacing.
        written_by: the commit that wrote it, where known, for messages.

    Returns:
        Its content, its digest and the bytes of its tensors; None if there is no checkpoint.

    Raises:
        RunFolderError: a file is missing, truncated or changed.
    """
    for attempt in range(_READ_ATTEMPTS):
        folder = current_checkpoint(path)
        if folder is None:
            return None
        inode = _inode(folder)
        try:
            content, manifest = _checked(load_tree(folder, written_by), folder), read_manifest(folder)
            return content, digest(manifest), tensor_bytes(manifest)
        except RunFolderError:
            if _inode(folder) == inode or attempt == _READ_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def tensor_bytes(manifest: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint's tensors, from its manifest."""
    return int(manifest["files"][TENSORS]["size"])


def saved_metrics_bytes(path: Path) -> int | None:
    """Length of the metrics that a checkpoint holds, without reading tensors; None if there is no checkpoint.

    Raises:
        RunFolderError: the checkpoint is damaged.
    """
    folder = current_checkpoint(path)
    if folder is None:
        return None
    with read_errors(folder):
        return count(json.loads(read_text(folder / TREE, JSON_BYTES))["metrics_bytes"])


def _inode(folder: Path) -> int | None:
    """Identity of a checkpoint folder, which changes when another replaces it."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _checked(content: Tree, folder: Path) -> Tree:
    """Check the types of an untrusted checkpoint's content."""
    with read_errors(folder):
        check_listing(content["chunks"])
        if not isinstance(content["run"], dict):
            raise ValueError("the state of the run is not an object")
        for name in ("next_chunk", "metrics_bytes"):
            count(content[name])
    return content
