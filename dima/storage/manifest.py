"""JSON manifests that contain a SHA-256 digest of their own content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dima.config import read_text, shown
from dima.errors import RunFolderError
from dima.version import __version__

JSON_BYTES = 1 << 25  # maximal size of a file; parsed, it takes up to thirty times as much memory


def manifest_text(body: Mapping[str, Any]) -> str:
    """JSON text of an object with its digest, for :func:`read_verified`."""
    return json.dumps({**body, "sha256": digest(body)}, indent=1)


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of an object, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_verified(path: Path) -> dict[str, Any]:
    """Read a manifest and verify its digest.

    Returns:
        The object without its digest.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        body = json.loads(read_text(path, JSON_BYTES))
        intact = body.pop("sha256") == digest(body)
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing: the folder is damaged") from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise RunFolderError(f"{path} is damaged: its content does not match its SHA-256")
    return dict(body)


def check_format(
    path: Path,
    facts: Mapping[str, Any],
    known: int,
    commit: str = "",
    advice: str = "use the version that wrote it",
) -> None:
    """Refuse files in a format of another version of the library.

    Args:
        path: of the file.
        facts: its content.
        known: the format that this version reads.
        commit: of the library that wrote it, where known.
        advice: what to do instead.

    Raises:
        RunFolderError: the format differs.
    """
    if facts.get("format") != known:
        writer = str(facts.get("dima", "unknown"))[:20] + (f" (commit {commit})" if commit else "")
        raise RunFolderError(
            f"{path} has format {shown(facts.get('format'))}, written by dima {writer}; this is dima "
            f"{__version__}, which reads format {known}: {advice}"
        )
