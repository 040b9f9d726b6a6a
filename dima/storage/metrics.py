"""Read and append ``metrics.jsonl``: one JSON object per line, the primary record of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dima.errors import RunFolderError
from dima.storage.atomic import write_errors

Metrics = dict[str, Any]
OLD_NAMES = {  # of metrics in runs of earlier versions
    "round": "iteration",
    "time/round": "time/iteration",
    "time/improve": "time/update",
    "updates/improve": "updates/update",
    "time/imagine_and_improve": "time/imagine_and_update",
    "updates/imagine_and_improve": "updates/imagine_and_update",
    "reward_model/proceed": "reward_model/continuation",
    "dynamics/proceed": "dynamics/continuation",
    "held_out/proceed": "held_out/continuation",
}
OLD_PREFIXES = {"held_out/still_": "held_out/persistence_"}  # likewise; a horizon follows
_MAX_LINE_BYTES = 1 << 20  # typically 5,000


def plain_metrics(record: Mapping[str, Any]) -> Metrics:
    """Convert to plain Python values: scalar tensors to numbers, infinite and undefined numbers to None."""
    return {name: _plain(value) for name, value in record.items()}


def append_metrics(path: Path, record: Metrics) -> None:
    """Append one line.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    line = json.dumps(record, allow_nan=False)
    with write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def sync_metrics(path: Path) -> int:
    """Flush the file to disk; returns its length in bytes.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    with write_errors(path), path.open("ab") as file:
        os.fsync(file.fileno())
        return file.tell()


def truncate_metrics(path: Path, length: int) -> None:
    """Cut the file to an earlier length in bytes.

    Raises:
        RunFolderError: the file is shorter than that, or cannot be written.
    """
    found = path.stat().st_size if path.exists() else 0
    if found < length:
        raise RunFolderError(f"{path} is truncated: it has {found} bytes and had {length} at the last checkpoint")
    if found > length:
        with write_errors(path):
            os.truncate(path, length)


def read_metrics(path: Path) -> list[Metrics]:
    """Read all complete lines in today's names; an incomplete last line, left by a crash, is skipped.

    Raises:
        RunFolderError: the file cannot be read, or a line is too long or not a JSON object.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise RunFolderError(f"{path} cannot be read: it is not a regular file")
    records = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, _MAX_LINE_BYTES), b""), 1):
                if line.endswith(b"\n") or len(line) == _MAX_LINE_BYTES:
                    records.append(_record(path, number, line))
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return records


def _record(path: Path, number: int, line: bytes) -> Metrics:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise RunFolderError(f"{path} is damaged: line {number} is not a JSON object")
    return {_current_name(name): value for name, value in record.items()}


def _current_name(name: str) -> str:
    for old, new in OLD_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return OLD_NAMES.get(name, name)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Mapping):
        return plain_metrics(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
