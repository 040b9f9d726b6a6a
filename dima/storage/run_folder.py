"""The run folder: config, metrics, checkpoint and replay of one run, safe against a crash at any moment.

    config.yaml      the resolved configuration
    protocol.json    format, versions, commit, class of machine
    metrics.jsonl    one record a line
    checkpoint/      the state after the last saved iteration (see ``dima.storage.checkpoint``)
    replay/          chunks of experience, each written once
    tensorboard/     event files
    diagnosis/       what `dima diagnose` found, if it was asked
    imagination/     what `dima imagine` showed, if it was asked; with --act policy: imagination-policy/
    videos/          likewise `dima evaluate --video`

Whatever was logged or written after the last :meth:`RunFolder.save` belongs to iterations that are repeated:
:meth:`RunFolder.load` on a writable folder removes it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dima.config import read_text, read_yaml, shown, yaml_text
from dima.errors import RunFolderError
from dima.runtime.provenance import check_protocol, protocol, protocol_history, resumed, uncommitted_diff
from dima.storage.atomic import disk_errors, reading, refuse_links, write_text
from dima.storage.checkpoint import (
    TENSORS,
    current_checkpoint,
    load_tree,
    read_manifest,
    replace_checkpoint,
    settle_checkpoint,
)
from dima.storage.chunks import Listing, check_listing, keep_chunks, read_chunks, write_chunks
from dima.storage.dashboards import Dashboard, open_dashboards
from dima.storage.lock import NAME as LOCK
from dima.storage.lock import FolderLock
from dima.storage.manifest import check_format, seal
from dima.storage.metrics import (
    Metrics,
    append_metrics,
    plain_metrics,
    read_metrics,
    sync_metrics,
    truncate_metrics,
)
from dima.storage.serialization import Tree

KIND, FORMAT = "dima run folder", 1  # the format of everything but the checkpoint, whose own is newer
MISFIT = "its checkpoint does not fit its config.yaml"  # what is wrong with a folder that cannot be taken up
TOO_LARGE = "its config.yaml describes more than its checkpoint holds"  # likewise
CONFIG, PROTOCOL, METRICS, CHECKPOINT, REPLAY = "config.yaml", "protocol.json", "metrics.jsonl", "checkpoint", "replay"
_RESULTS = (
    *(METRICS, "checkpoint", "checkpoint.new", "checkpoint.old", REPLAY),
    *("tensorboard", "videos", "imagination", "imagination-policy", "diagnosis", "report.html"),
)
_PROTOCOL_BYTES = 1 << 17  # at most; one has some 700
_READ_ATTEMPTS = 5  # a reader may meet a writer between two renames


@dataclass
class Saved:
    """The state after the last saved iteration."""

    tree: Tree
    chunks: Iterator[tuple[int, Tree]]  # (number, content) of the replay chunks in order, read one at a time
    seal: str  # SHA-256 that tells this state from any other
    size: int  # bytes of its tensors without the chunks


class RunFolder:
    """One run's folder. Use :meth:`create` or :meth:`open`; close it, or use it in a ``with``."""

    def __init__(self, path: Path, lock: FolderLock | None) -> None:
        self.path = path
        self._lock = lock
        self._listing: Listing = {}
        self._next_chunk = 0
        self._dashboards: list[Dashboard] | None = None

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], *, overwrite: bool = False, device: str = "cpu"
    ) -> RunFolder:
        """Start a new run's folder and lock it.

        Args:
            path: a folder that does not exist, is empty, or, with ``overwrite``, holds an earlier run.
            config: the resolved configuration, plain data.
            overwrite: remove the earlier run's results first.
            device: what the run computes on, for the record.

        Raises:
            RunFolderError: the folder holds something else, or a run and ``overwrite`` is off, or is in use by
                another process, or cannot be written.
        """
        path = Path(path)
        ours = _refuse_taken(path, overwrite)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path)
        try:
            with disk_errors(path):
                if ours:
                    _remove_results(path)
                facts = {"kind": KIND, "format": FORMAT} | protocol(device)
                write_text(path / PROTOCOL, json.dumps(facts, indent=1) + "\n")
                if diff := uncommitted_diff():
                    write_text(path / "uncommitted.diff", diff)
                folder = cls(path, lock)
                folder._write_config(config)
        except BaseException:
            lock.close()
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> RunFolder:
        """Open an existing run's folder.

        Args:
            path: the folder.
            write: lock it and clean up after a crash, to go on with the run; otherwise nothing in it is touched.

        Raises:
            RunFolderError: it is missing, not a run folder, of another format, or in use by another process; or is to
                be written, and holds a symbolic link.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise RunFolderError(f"{path} {what}: give the folder of a run, as `dima train` printed it")
        _check_ours(path)
        if write:
            refuse_links(path)
        lock = FolderLock(path) if write else None
        if lock is not None:
            with disk_errors(path):
                settle_checkpoint(path / CHECKPOINT)
        return cls(path, lock)

    def config(self) -> dict[str, Any]:
        """The resolved configuration the run was started with.

        Raises:
            RunFolderError: it is missing.
            ConfigError: it is not valid YAML.
        """
        if not (self.path / CONFIG).is_file():
            raise RunFolderError(f"{self.path / CONFIG} is missing: the folder is damaged")
        return read_yaml(self.path / CONFIG)

    def replace_config(self, config: Mapping[str, Any]) -> None:
        """Change the configuration from now on, as when a run is carried further than it was started for.

        Raises:
            RunFolderError: the disk is full or read-only; the configuration before stands.
        """
        with disk_errors(self.path):
            self._write_config(config)

    def protocol(self) -> dict[str, Any]:
        """Versions, commit and class of machine of the run's start; ``resumed``: likewise of resumes under others."""
        return _check_ours(self.path)

    def go_on(self, step: int, device: str) -> None:
        """Record that the run goes on from a step under today's versions, commit and machine, if they differ.

        Raises:
            RunFolderError: the disk is full or read-only; the record before stands.
        """
        before = self.protocol()
        after = resumed(before, step, protocol(device))
        if after != before:
            with disk_errors(self.path):
                write_text(self.path / PROTOCOL, json.dumps(after, indent=1) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Add one record to the metrics, and to the dashboards under its ``step``.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        plain, first = plain_metrics(record), self._dashboards is None
        kept = [known["step"] for known in self.records() if "step" in known] if first else []
        append_metrics(self.path / METRICS, plain)
        step = plain.get("step")
        if step is None:
            return
        numbers = {k: v for k, v in plain.items() if isinstance(v, int | float) and k != "step"}
        with disk_errors(self.path):
            if self._dashboards is None:
                self._dashboards = open_dashboards(self.path, self.config(), purge_step=max(kept, default=-1) + 1)
            for dashboard in self._dashboards:
                dashboard.log(step, numbers)

    def records(self) -> list[Metrics]:
        """Every record logged so far.

        Raises:
            RunFolderError: the file is damaged.
        """
        return read_metrics(self.path / METRICS)

    def save(self, tree: Tree, chunks: Sequence[Tree] = (), *, drop_before: int = 0) -> None:
        """Make everything up to now permanent.

        Args:
            tree: the whole state apart from the replay's content.
            chunks: what the replay gained since the last ``save``; numbered from :attr:`next_chunk` on.
            drop_before: chunks with smaller numbers are needed no more: they are deleted, or not written at all.

        Raises:
            RunFolderError: the disk is full or read-only; the checkpoint before still loads.
        """
        folder = self.path / REPLAY
        gone = max(0, drop_before - self._next_chunk)  # of the new ones
        listing = self._listing | write_chunks(folder, self._next_chunk + gone, chunks[gone:])
        listing = {number: facts for number, facts in listing.items() if number >= drop_before}
        next_chunk = self._next_chunk + len(chunks)
        length = sync_metrics(self.path / METRICS)
        content = {"run": tree, "chunks": listing, "next_chunk": next_chunk, "metrics_bytes": length}
        replace_checkpoint(self.path / CHECKPOINT, content)
        self._listing, self._next_chunk = listing, next_chunk
        keep_chunks(folder, listing)

    @property
    def next_chunk(self) -> int:
        """The number that the next saved chunk gets."""
        return self._next_chunk

    @property
    def has_checkpoint(self) -> bool:
        """Whether an iteration was ever saved."""
        return current_checkpoint(self.path / CHECKPOINT) is not None

    @property
    def checkpoint_size(self) -> int | None:
        """Bytes of the checkpoint's tensors, the replay's left out; None where no iteration was finished.

        Raises:
            RunFolderError: the checkpoint is damaged.
        """
        folder = current_checkpoint(self.path / CHECKPOINT)
        return None if folder is None else _tensor_bytes(read_manifest(folder, self._written_by))

    def load(self) -> Saved:
        """The state after the last saved iteration. A writable folder is first rewound to that moment.

        Raises:
            RunFolderError: there is none yet, or a file is missing, truncated or changed.
        """
        content, sha256, size = self._read_checkpoint()
        self._listing, self._next_chunk = content["chunks"], content["next_chunk"]
        if self._lock is not None:
            truncate_metrics(self.path / METRICS, content["metrics_bytes"])
            keep_chunks(self.path / REPLAY, self._listing)
        return Saved(content["run"], read_chunks(self.path / REPLAY, self._listing), sha256, size)

    def rewind_to_start(self) -> None:
        """Remove what a first iteration left that was never saved, to begin the run again.

        Raises:
            RunFolderError: more iterations than that were made, or the disk is read-only.
        """
        if self._iterations > 1:
            raise self._no_checkpoint()
        truncate_metrics(self.path / METRICS, 0)
        keep_chunks(self.path / REPLAY, {})

    def close(self) -> None:
        """Finish the dashboards' files and let go of the folder."""
        for dashboard in self._dashboards or ():
            dashboard.close()
        self._dashboards = None
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def _iterations(self) -> int:
        """How many iterations were logged; the first is saved before the second begins."""
        return max((record.get("iteration", 0) for record in self.records()), default=0)

    @property
    def _written_by(self) -> str:
        """The commit that wrote the checkpoint, abbreviated; empty where unknown."""
        commit = protocol_history(self.protocol())[-1].get("commit")
        found = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]*", str(commit.get("id"))) if isinstance(commit, dict) else None
        return found[1] if found else ""

    def _no_checkpoint(self) -> RunFolderError:
        if self._iterations > 1:
            lost = f"its checkpoint was removed or not kept, though {self._iterations} iterations were logged"
            return RunFolderError(f"{self.path}: {lost}: it can be reported, not loaded or resumed")
        return RunFolderError(f"{self.path} holds no checkpoint yet: its first iteration has not finished")

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_text(self.path / CONFIG, yaml_text(config))

    def _read_checkpoint(self) -> tuple[Tree, str, int]:
        for attempt in range(_READ_ATTEMPTS):
            folder = current_checkpoint(self.path / CHECKPOINT)
            if folder is None:
                raise self._no_checkpoint()
            before = _identity(folder)
            try:
                content, manifest = _checked(load_tree(folder, self._written_by), folder), read_manifest(folder)
                return content, seal(manifest), _tensor_bytes(manifest)
            except RunFolderError:
                if _identity(folder) == before or attempt == _READ_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")


def _tensor_bytes(manifest: Mapping[str, Any]) -> int:
    return int(manifest["files"][TENSORS]["size"])


def _identity(folder: Path) -> int | None:
    """Tells a checkpoint folder from the one that replaced it."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _facts(path: Path) -> dict[str, Any] | None:
    """What ``protocol.json`` says, or None when the folder is not ours."""
    try:
        facts = json.loads(read_text(path / PROTOCOL, _PROTOCOL_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and facts.get("kind") == KIND else None


def _check_ours(path: Path) -> dict[str, Any]:
    facts = _facts(path)
    if facts is None:
        raise RunFolderError(f"{path} is not a dima run folder: it has no valid {PROTOCOL}")
    check_format(path, facts, FORMAT)
    with reading(path / PROTOCOL):
        check_protocol(facts)
    return facts


def _checked(content: Tree, folder: Path) -> Tree:
    """What :meth:`RunFolder.save` writes, whoever wrote it."""
    with reading(folder):
        check_listing(content["chunks"])
        if not isinstance(content["run"], dict):
            raise ValueError("the run's state is no object")
        for name in ("next_chunk", "metrics_bytes"):
            if type(content[name]) is not int or not 0 <= content[name] < 2**63:
                raise ValueError(f"{name} = {shown(content[name])} is no count")
    return content


def _refuse_taken(path: Path, overwrite: bool) -> bool:
    """Whether the folder holds an earlier run that may be overwritten; False when it is free."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose another --run")
    if all(child.name in (LOCK, PROTOCOL + ".new") for child in path.iterdir()):
        return False
    if _facts(path) is None:
        raise RunFolderError(f"{path} is not a dima run folder, so it is never overwritten: choose another --run")
    begun = (path / CONFIG).exists() or current_checkpoint(path / CHECKPOINT) is not None
    if begun and not overwrite:  # without either, the start was cut off: nothing was learnt yet
        raise RunFolderError(
            f"{path} already holds a run: `dima resume {path}` goes on with it, --overwrite starts it again, "
            "--run chooses another folder"
        )
    return True


def _remove_results(path: Path) -> None:
    for name in _RESULTS:
        child = path / name
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)
