"""Lock on a folder: one writing process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dima.errors import RunFolderError
from dima.storage.atomic import write_errors

NAME = "run.lock"


class FolderInUse(RunFolderError):
    """Another process writes the folder."""


class FolderLock:
    """Exclusive lock on a folder until closed or until the process ends.

    Forked children do not hold it.

    Raises:
        FolderInUse: another process holds the lock.
        RunFolderError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        with write_errors(path):
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "unknown"
            self._drop()
            raise FolderInUse(
                f"{folder} is being written by another process (id {holder}): wait for it, or choose another folder"
            ) from None
        with write_errors(path):
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, str(os.getpid()).encode())
        os.register_at_fork(after_in_child=self._drop)

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._drop()

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
