"""Files of ours on a disk that may be full and that strangers may have written.

Writing leaves the old content or the new, whenever it is cut off, and never follows a link out of the folder; whatever
goes wrong, here or in what is read, is one clear line.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dima.errors import RunFolderError, UserError

_ELSEWHERE = "choose another folder (what was saved before is kept)"


@contextmanager
def write_errors(path: Path, remedy: str = _ELSEWHERE) -> Iterator[None]:
    """Turn what the operating system says while ``path`` is written into one line for the user.

    Args:
        path: what is written.
        remedy: what else the user can do than free some space or allow writing.

    Raises:
        RunFolderError: the disk is full or read-only, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, (error.strerror or str(error)).lower(), remedy) from error
    except SafetensorError as error:
        raise _cannot_write(path, str(error).lower(), remedy) from error


@contextmanager
def read_errors(what: object, trouble: str = "is damaged") -> Iterator[None]:
    """Turn whatever goes wrong while a file of a stranger is taken in into one line for the user.

    Args:
        what: the file or folder.
        trouble: what is wrong with it then.

    Raises:
        RunFolderError: anything at all was raised inside; errors of the user's pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what is written to mislead can make any code raise anything
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunFolderError(f"{what} {trouble}: {why}") from error


def refuse_links(folder: Path) -> None:
    """Refuse a folder with symbolic links in it, before it is written into: they may lead out of it.

    Raises:
        RunFolderError: it holds one.
    """
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise RunFolderError(f"{path} is a symbolic link, and what is written here must stay here: remove it")


def results_folder(folder: Path, name: str) -> Path:
    """The place of results within a folder of ours; errors as for :func:`refuse_links`."""
    path = folder / name
    if path.is_symlink():
        raise RunFolderError(f"{path} is a symbolic link, and what is written here must stay here: remove it")
    refuse_links(path)
    return path


def require_writable(folder: Path, remedy: str = _ELSEWHERE) -> None:
    """Refuse a folder that could not be written, before work is done whose results are to go there. Changes nothing.

    Raises:
        RunFolderError: it, or what it would be made in, is a file or must not be written.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise _cannot_write(folder, f"{there} is a file", remedy)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _cannot_write(folder, "permission denied", remedy)


def _cannot_write(path: Path, why: str, remedy: str) -> RunFolderError:
    return RunFolderError(f"cannot write {path}: {why}; free some space, allow writing or {remedy}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content in one step."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:  # anew: never through a link that lies there
        file.write(content)
    commit(draft, path)


def commit(draft: Path, path: Path) -> None:
    """Give a finished draft its final name, in one step and on disk."""
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)


def fingerprint(path: Path) -> dict[str, str | int]:
    """Size and SHA-256 of a file, to recognise it by later."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def verify(path: Path, expected: object) -> None:
    """Compare a file with the fingerprint taken when it was written.

    Raises:
        RunFolderError: the file is missing, cannot be read, or its bytes have changed.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise RunFolderError(f"{path} cannot be read (it is not a regular file): the folder is damaged")
        found: dict[str, str | int] = {"size": facts.st_size}
        if isinstance(expected, Mapping) and expected.get("size") == facts.st_size:  # or else it need not be read
            found = fingerprint(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RunFolderError(f"{path} cannot be read ({why}): the folder is damaged") from error
    if found != expected:
        raise RunFolderError(f"{path} is damaged: its {found['size']} bytes are not those that were written")
