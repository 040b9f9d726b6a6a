"""Run folders on the Hugging Face hub: a run is a model repository there.

Only what `dima` itself writes travels. Left out are the lock, W&B's folder and ``uncommitted.diff``, which may hold
more than its author means to publish. A folder from the hub is data like any other: loading it executes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from dima.config import user_path
from dima.errors import ConfigError, RunFolderError, UserError, one_line
from dima.sharing.card import run_facts, run_text
from dima.storage.atomic import refuse_links, require_writable, write_errors
from dima.storage.layout import CHECKPOINT, CONFIG, METRICS, PROTOCOL, REPLAY, read_protocol
from dima.storage.run_folder import RunFolder
from dima.version import __version__

_FILES = (CONFIG, PROTOCOL, METRICS, "report.html")
_FOLDERS = (CHECKPOINT, REPLAY, "tensorboard", "videos", "imagination", "imagination-policy", "diagnosis", "export")
_CARD = "README.md"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(run: str | Path, repo: str, *, public: bool = False, replay: bool = True) -> str:
    """Copy a run folder to the hub, in one commit; what an earlier push left and the run has no more is removed.

    Args:
        run: the folder; no other process may be writing it.
        repo: ``owner/name``; made if there is none.
        public: whether a new repository is public.
        replay: with the replay, which resuming needs, and imagination from real states; the policy loads without it.

    Returns:
        The address of the repository.

    Raises:
        UserError: the folder is no run or has no checkpoint, the extra ``dima-marl[hub]`` is not installed, or the hub
            cannot be reached or refuses.
    """
    hub = _hub(repo)
    with RunFolder.open(run, write=True) as folder:  # locked, so that what is copied belongs together
        if not folder.has_checkpoint:
            raise RunFolderError(f"{run} holds no checkpoint: there is nothing to load from it")
        paths = {path.relative_to(folder.path).as_posix(): path for path in _own_files(folder.path, replay)}
        facts = run_facts(folder.config(), folder.protocol(), folder.records())
        with _hub_errors(repo):
            api = hub.HfApi(library_name="dima", library_version=__version__)
            address = api.create_repo(repo, private=not public, exist_ok=True)
            there = api.list_repo_files(repo)
            operations = [hub.CommitOperationAdd(name, str(path)) for name, path in paths.items()]
            operations.append(hub.CommitOperationAdd(_CARD, run_text(facts, repo).encode()))
            operations += [hub.CommitOperationDelete(name) for name in there if _is_own(name) and name not in paths]
            api.create_commit(repo, operations, commit_message=f"Run folder, by dima {__version__}")
    return str(address)


def pull(repo: str, run: str | Path | None = None, *, revision: str | None = None) -> Path:
    """Copy a run folder from the hub.

    Args:
        repo: ``owner/name``.
        run: the new folder; default: ``runs/<owner>/<name>``.
        revision: branch, tag or commit; default: the newest.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the repository does not or holds no run, the extra ``dima-marl[hub]`` is not
            installed, or the hub cannot be reached. Nothing is left behind.
    """
    hub = _hub(repo)
    folder = user_path(run or f"runs/{repo}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is never overwritten: choose another --run")
    require_writable(folder)
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with _hub_errors(repo):
            patterns = [*_FILES, *(f"{name}/*" for name in _FOLDERS)]  # a stranger's other files stay there
            hub.snapshot_download(repo, revision=revision, local_dir=str(draft), allow_patterns=patterns)
        shutil.rmtree(draft / ".cache", ignore_errors=True)  # the client's own
        try:
            read_protocol(draft)
            refuse_links(draft)
        except RunFolderError as error:
            raise RunFolderError(str(error).replace(str(draft), repo)) from None
        with write_errors(folder):
            draft.chmod(0o777 & ~_umask())
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _own_files(folder: Path, replay: bool) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _is_own(name) and (replay or not name.startswith(f"{REPLAY}/")):
            yield path


def _is_own(name: str) -> bool:
    """Whether a file of a run folder, by its path there, is one that `dima` writes and that may travel."""
    return name in _FILES or (name.partition("/")[0] in _FOLDERS and "/" in name and not name.endswith(".new"))


def _hub(repo: str) -> Any:
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"repo = {repo!r} does not fit: expected owner/name")
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise ConfigError("the hub needs the package huggingface_hub: pip install 'dima-marl[hub]'") from None


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many kinds, from the network to the hub's rules
        if type(error).__name__ in ("RepositoryNotFoundError", "RevisionNotFoundError"):
            why = "there is no such repository or revision, or you may not read it: see the name, and `hf auth login`"
        else:
            why = f"the hub cannot be used ({one_line(error)[:300]}): see the network, and `hf auth login`"
        raise ConfigError(f"{repo}: {why}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
