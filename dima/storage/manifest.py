"""JSON that notices every changed byte: an object that holds the SHA-256 of the rest of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dima.config import read_text, shown
from dima.errors import RunFolderError
from dima.version import __version__

JSON_BYTES = 1 << 25  # of a file; parsed, it takes up to thirty times as much memory


def sealed(body: Mapping[str, Any]) -> str:
    """The text of a JSON object, to be read back by :func:`read_sealed`."""
    return json.dumps({**body, "sha256": seal(body)}, indent=1)


def seal(body: Mapping[str, Any]) -> str:
    """The SHA-256 of an object, however its entries are ordered."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, Any]:
    """The object that :func:`sealed` was given.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        body = json.loads(read_text(path, JSON_BYTES))
        whole = body.pop("sha256") == seal(body)
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing: the folder is damaged") from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise RunFolderError(f"{path} is damaged: its bytes are not those that were written")
    return dict(body)


def check_format(
    path: Path,
    facts: Mapping[str, Any],
    known: int,
    commit: str = "",
    advice: str = "use the version that wrote it",
) -> None:
    """Refuse files that another version of the library wrote in another format.

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
