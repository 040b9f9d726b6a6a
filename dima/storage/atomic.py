"""Write files atomically, verify them, and turn errors into messages.

An interrupted write leaves the old content or the new. Writes never follow a symbolic link out of the folder. Errors of
the operating system and of untrusted files become one line for the user.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dima.errors import RunFolderError, UserError

_OTHER_FOLDER = "choose another folder (what was saved before is kept)"


@contextmanager
def write_errors(path: Path, remedy: str = _OTHER_FOLDER) -> Iterator[None]:
    """Turn errors of the operating system into one-line messages.

    Args:
        path: file or folder that is written.
        remedy: advice besides freeing space and allowing writing.

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
    """Turn any exception in reading an untrusted file into a one-line message.

    Args:
        what: the file or folder.
        trouble: the diagnosis in the message.

    Raises:
        RunFolderError: any exception but a ``UserError``, which passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # malicious content can raise any exception
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunFolderError(f"{what} {trouble}: {why}") from error


def refuse_links(folder: Path, replaced: Collection[Path] = ()) -> None:
    """Refuse a folder with symbolic links: writes could leave it.

    Args:
        folder: the folder.
        replaced: folders in it that may be links, since they are read and renamed, never written into.

    Raises:
        RunFolderError: it contains another link.
    """
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if (
                path.is_symlink()
                and not (path in replaced and path.is_dir())
                and not _is_wandbs(path, folder / "wandb")
            ):
                raise _link_error(path)


def _is_wandbs(link: Path, folder: Path) -> bool:
    """Whether a link is one of W&B's own: within its folder, or to the log of its service, which only that writes."""
    if folder not in link.parents:
        return False
    return link.name == "debug-core.log" or Path(os.path.realpath(link)).is_relative_to(folder.resolve())


def _link_error(path: Path) -> RunFolderError:
    return RunFolderError(
        f"{path} is a symbolic link, which may lead out of the folder: put what it stands for there, or remove it"
    )


def results_folder(folder: Path, name: str) -> Path:
    """Path for results in a run folder; errors as for :func:`refuse_links`."""
    path = folder / name
    if path.is_symlink():
        raise _link_error(path)
    refuse_links(path)
    return path


def require_writable(folder: Path, remedy: str = _OTHER_FOLDER) -> None:
    """Check that a folder can be written, before computing its content; changes nothing.

    Raises:
        RunFolderError: it, or the folder that it would be created in, is a file or read-only.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise _cannot_write(folder, f"{existing} is a file", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _cannot_write(folder, "permission denied", remedy)


def _cannot_write(path: Path, why: str, remedy: str) -> RunFolderError:
    return RunFolderError(f"cannot write {path}: {why}; free some space, allow writing or {remedy}")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content atomically."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:  # created, so never through an existing link
        file.write(content)
    commit(draft, path)


def commit(draft: Path, path: Path) -> None:
    """Rename a finished draft atomically and flush it to disk."""
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)


def fingerprint(path: Path) -> dict[str, str | int]:
    """Size and SHA-256 of a file."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
        return {"size": file.tell(), "sha256": sha256.hexdigest()}


def verify(path: Path, expected: object) -> None:
    """Compare a file with the fingerprint recorded when it was written.

    Raises:
        RunFolderError: the file is missing, cannot be read, or has changed.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise RunFolderError(f"{path} cannot be read (it is not a regular file): the folder is damaged")
        found: dict[str, str | int] = {"size": facts.st_size}
        if isinstance(expected, Mapping) and expected.get("size") == facts.st_size:  # otherwise it need not be read
            found = fingerprint(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RunFolderError(f"{path} cannot be read ({why}): the folder is damaged") from error
    if found != expected:
        raise RunFolderError(f"{path} is damaged: its {found['size']} bytes do not match the recorded size and SHA-256")
