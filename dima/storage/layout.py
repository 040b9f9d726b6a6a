"""File names in a run folder; whether a folder is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dima.config import read_text
from dima.errors import RunFolderError
from dima.runtime.provenance import check_protocol, commit_id
from dima.storage.atomic import read_errors
from dima.storage.checkpoint import current_checkpoint
from dima.storage.dashboards import WANDB_ID
from dima.storage.lock import NAME as LOCK
from dima.storage.manifest import check_format

KIND, FORMAT = "dima run folder", 1  # the format of everything but the checkpoint, whose own is newer
CONFIG, PROTOCOL, METRICS, CHECKPOINT, REPLAY = "config.yaml", "protocol.json", "metrics.jsonl", "checkpoint", "replay"
_RESULTS = (
    *(METRICS, "checkpoint", "checkpoint.new", "checkpoint.old", REPLAY),
    *("wandb", WANDB_ID, "tensorboard", "videos", "imagination", "imagination-policy", "diagnosis", "report.html"),
    "export",
)
_MAX_PROTOCOL_BYTES = 1 << 17  # typically 700


def read_protocol(path: Path) -> dict[str, Any]:
    """Read and check the ``protocol.json`` of a run folder.

    Raises:
        RunFolderError: the folder is not a run folder, is damaged or has another format.
    """
    facts = _parse_protocol(path)
    if facts is None:
        raise RunFolderError(f"{path} is not a dima run folder: it has no valid {PROTOCOL}")
    check_format(path, facts, FORMAT, commit_id(facts))
    with read_errors(path / PROTOCOL):
        check_protocol(facts)
    return facts


def check_available(path: Path, overwrite: bool) -> bool:
    """Check that a new run may use a folder.

    Args:
        path: the folder; it may not exist yet.
        overwrite: allow a folder that holds an earlier run.

    Returns:
        Whether it holds the results of an earlier run, to be removed first.

    Raises:
        RunFolderError: it holds something else, or a run that may not be overwritten.
    """
    if not path.exists():
        return False
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose another --run")
    if all(child.name in (LOCK, PROTOCOL + ".new") for child in path.iterdir()):
        return False
    if _parse_protocol(path) is None:
        raise RunFolderError(f"{path} is not a dima run folder, so it is never overwritten: choose another --run")
    begun = (path / CONFIG).exists() or current_checkpoint(path / CHECKPOINT) is not None
    if begun and not overwrite:  # without either, the run was interrupted before it learnt anything
        raise RunFolderError(
            f"{path} already holds a run: `dima resume {path}` continues it, --overwrite starts it again, "
            "--run chooses another folder"
        )
    return True


def remove_results(path: Path) -> None:
    """Remove the results of a run; config, protocol and foreign files are kept."""
    for name in _RESULTS:
        child = path / name
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)


def _parse_protocol(path: Path) -> dict[str, Any] | None:
    """The content of ``protocol.json``; None if it is not a run folder."""
    try:
        facts = json.loads(read_text(path / PROTOCOL, _MAX_PROTOCOL_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and facts.get("kind") == KIND else None
