"""Checkpoint folders of three files: ``tensors.safetensors``, ``tree.json`` and ``manifest.json``.

The manifest is written last. It holds size and SHA-256 of the other two and its own SHA-256: a folder with a valid
manifest is complete, and every changed byte is detected.

A checkpoint is replaced by renaming folders: ``checkpoint.new`` is written completely, then ``checkpoint`` becomes
``checkpoint.old`` and ``checkpoint.new`` becomes ``checkpoint``. If ``checkpoint.old`` exists but not ``checkpoint``,
``checkpoint.new`` is complete, so a crash at any moment leaves one that loads. A link in place of ``checkpoint`` is
replaced likewise, and what it points to is kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dima.config import read_text
from dima.errors import RunFolderError
from dima.storage.atomic import fingerprint, read_errors, sync, verify, write_errors
from dima.storage.manifest import JSON_BYTES, check_format, manifest_text, read_verified
from dima.storage.serialization import Tree, decode, encode
from dima.version import __version__

FORMAT = 4  # of checkpoints, raised with every change of their trees; 4: the average policy, features in any unit
TENSORS, TREE, MANIFEST = "tensors.safetensors", "tree.json", "manifest.json"


def save_tree(folder: Path, tree: Tree) -> None:
    """Write a tree into a new folder and flush it to disk.

    Raises:
        RunFolderError: the disk is full or read-only.
        TypeError: the tree holds something that is neither a tensor nor plain data.
    """
    text, tensors = encode(tree)
    with write_errors(folder):
        folder.mkdir(parents=True)
        save_file(tensors, folder / TENSORS)
        (folder / TREE).write_text(text, encoding="utf-8")
        body = {
            "format": FORMAT,
            "dima": __version__,
            "files": {name: fingerprint(folder / name) for name in (TENSORS, TREE)},
        }
        (folder / MANIFEST).write_text(manifest_text(body), encoding="utf-8")
        for name in (TENSORS, TREE, MANIFEST):
            sync(folder / name)
        sync(folder)
        sync(folder.parent)


def load_tree(folder: Path, written_by: str = "") -> Tree:
    """Read a tree after verifying its files against the manifest.

    Args:
        folder: of the checkpoint.
        written_by: the commit that wrote it, where known, for messages.

    Raises:
        RunFolderError: a file is missing, truncated or changed, or of a format this version does not read.
    """
    files = read_manifest(folder, written_by)["files"]
    for name in (TENSORS, TREE):
        verify(folder / name, files[name])
    with read_errors(folder):
        tree: Tree = decode(read_text(folder / TREE, JSON_BYTES), load_file(folder / TENSORS))
        if not isinstance(tree, dict):
            raise ValueError(f"{TREE} is not an object")
    return tree


def read_manifest(folder: Path, written_by: str = "") -> dict[str, Any]:
    """Read and check the manifest of a checkpoint.

    Raises:
        RunFolderError: it is missing, damaged, or of a format this version does not read.
    """
    path = folder / MANIFEST
    manifest = read_verified(path)
    check_format(path, manifest, FORMAT, written_by, "use that version, or train again")
    files = manifest.get("files")
    if not isinstance(files, dict) or files.keys() != {TENSORS, TREE} or not all(map(_is_fingerprint, files.values())):
        raise RunFolderError(f"{path} is damaged: expected the fingerprints of {TENSORS} and {TREE} under files")
    return manifest


def _is_fingerprint(facts: object) -> bool:
    if not isinstance(facts, dict) or facts.keys() != {"size", "sha256"}:
        return False
    return type(facts["size"]) is int and 0 <= facts["size"] < 2**63


def replace_checkpoint(path: Path, tree: Tree) -> None:
    """Replace the checkpoint at ``path``, if any, by a new one.

    Raises:
        RunFolderError: the disk is full or read-only; the earlier checkpoint still loads.
    """
    new, old = _new(path), _old(path)
    with write_errors(path):
        settle_checkpoint(path)
        try:
            save_tree(new, tree)
        except RunFolderError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
        sync(path.parent)
        settle_checkpoint(path)


def settle_checkpoint(path: Path) -> None:
    """Finish an interrupted replacement and remove its leftovers."""
    complete = current_checkpoint(path)
    if complete not in (None, path):
        os.rename(complete, path)
    for leftover in (_new(path), _old(path)):
        if leftover.is_symlink():
            leftover.unlink()
        elif leftover.exists():
            shutil.rmtree(leftover)


def replaced_folders(path: Path) -> tuple[Path, ...]:
    """Folders that may be symbolic links: a replacement renames and removes them, and never writes into them."""
    return path, _old(path)


def current_checkpoint(path: Path) -> Path | None:
    """Folder of the newest complete checkpoint, or None."""
    if path.exists():
        return path
    return _new(path) if _old(path).exists() else None


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")
