"""The run folder: crash-safe storage of one run.

    config.yaml      the resolved configuration
    protocol.json    format, versions, commit, class of machine
    metrics.jsonl    one record per line
    checkpoint/      the state after the last saved iteration (see ``dima.storage.checkpoint``)
    replay/          chunks of experience, each written once
    tensorboard/     event files
    diagnosis/       results of `dima diagnose`
    imagination/     results of `dima imagine`; with --act policy: imagination-policy/
    videos/          results of `dima evaluate --video`
    export/          results of `dima export`

Everything logged or written after the last :meth:`RunFolder.save` belongs to iterations that will be repeated:
:meth:`RunFolder.load` on a writable folder removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dima.config import read_yaml, user_path, yaml_text
from dima.errors import RunFolderError
from dima.runtime.provenance import commit_id, protocol, protocol_history, resumed, uncommitted_diff
from dima.storage.atomic import refuse_links, write_errors, write_text
from dima.storage.checkpoint import (
    current_checkpoint,
    read_manifest,
    replace_checkpoint,
    replaced_folders,
    settle_checkpoint,
)
from dima.storage.chunks import Listing, keep_chunks, read_chunks, write_chunks
from dima.storage.dashboards import Dashboard, open_dashboards, require_dashboards
from dima.storage.layout import (
    CHECKPOINT,
    CONFIG,
    FORMAT,
    KIND,
    METRICS,
    PROTOCOL,
    REPLAY,
    check_available,
    read_protocol,
    remove_results,
)
from dima.storage.lock import FolderLock
from dima.storage.metrics import Metrics, append_metrics, plain_metrics, read_metrics, sync_metrics, truncate_metrics
from dima.storage.saved import Saved, read_checkpoint, tensor_bytes
from dima.storage.serialization import Tree

TOO_LARGE = "its config.yaml describes more than its checkpoint holds"  # why a run cannot be loaded


class RunFolder:
    """Folder of one run. Use :meth:`create` or :meth:`open`, best in a ``with``."""

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
        """Create and lock the folder of a new run.

        Args:
            path: a folder that does not exist, is empty, or, with ``overwrite``, holds an earlier run.
            config: the resolved configuration, plain data.
            overwrite: remove the earlier run's results first.
            device: device of the run, recorded in the protocol.

        Raises:
            RunFolderError: the folder holds something else, or a run and ``overwrite`` is off, or is locked by
                another process, or cannot be written.
            ConfigError: a dashboard in the configuration cannot be used.
        """
        path = user_path(path)
        holds_run = check_available(path, overwrite)
        require_dashboards(config)
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path)
        try:
            with write_errors(path):
                if holds_run:
                    remove_results(path)
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
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> RunFolder:
        """Open the folder of an existing run.

        Args:
            path: the folder.
            write: lock it and clean up after a crash, to continue the run; otherwise nothing in it is changed.

        Raises:
            RunFolderError: it is missing, not a run folder, of another format, or, if ``write``, locked by another
                process or with a symbolic link in it.
        """
        path = user_path(path)
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise RunFolderError(f"{path} {what}: give a run folder, as `dima train` printed it")
        read_protocol(path)
        if write:
            refuse_links(path, replaced_folders(path / CHECKPOINT))
        lock = FolderLock(path) if write else None
        if lock is not None:
            with write_errors(path):
                settle_checkpoint(path / CHECKPOINT)
        return cls(path, lock)

    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run.

        Raises:
            RunFolderError: it is missing.
            ConfigError: it is not valid YAML.
        """
        if not (self.path / CONFIG).is_file():
            raise RunFolderError(f"{self.path / CONFIG} is missing: the folder is damaged")
        return read_yaml(self.path / CONFIG)

    def replace_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration, as when a run is extended beyond its original length.

        Raises:
            RunFolderError: the disk is full or read-only; the earlier configuration is kept.
        """
        with write_errors(self.path):
            self._write_config(config)

    def protocol(self) -> dict[str, Any]:
        """Versions, commit and machine at the start; under ``resumed``, of resumes that differ."""
        return read_protocol(self.path)

    def record_resume(self, step: int, device: str) -> None:
        """Record versions, commit and machine of a resume, if they changed.

        Args:
            step: environment steps at the resume.
            device: device of the run from now on.

        Raises:
            RunFolderError: the disk is full or read-only; the earlier record is kept.
        """
        before = self.protocol()
        after = resumed(before, step, protocol(device))
        if after != before:
            with write_errors(self.path):
                write_text(self.path / PROTOCOL, json.dumps(after, indent=1) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to the metrics and the dashboards.

        Dashboards show records with a ``step`` only.

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
        with write_errors(self.path):
            if self._dashboards is None:
                self._dashboards = open_dashboards(self.path, self.config(), purge_step=max(kept, default=-1) + 1)
            for dashboard in self._dashboards:
                dashboard.log(step, numbers)

    def records(self) -> list[Metrics]:
        """All records logged so far.

        Raises:
            RunFolderError: the file is damaged.
        """
        return read_metrics(self.path / METRICS)

    def save(self, tree: Tree, chunks: Sequence[Tree] = (), *, drop_before: int = 0) -> None:
        """Write a checkpoint; everything logged so far becomes permanent.

        Args:
            tree: the state without the replay's content.
            chunks: experience added to the replay since the last ``save``; numbered from :attr:`next_chunk`.
            drop_before: chunks with smaller numbers are obsolete: they are deleted, or not written at all.

        Raises:
            RunFolderError: the disk is full or read-only; the earlier checkpoint still loads.
        """
        folder = self.path / REPLAY
        skipped = max(0, drop_before - self._next_chunk)  # new chunks that are obsolete already
        listing = self._listing | write_chunks(folder, self._next_chunk + skipped, chunks[skipped:])
        listing = {number: facts for number, facts in listing.items() if number >= drop_before}
        next_chunk = self._next_chunk + len(chunks)
        length = sync_metrics(self.path / METRICS)
        content = {"run": tree, "chunks": listing, "next_chunk": next_chunk, "metrics_bytes": length}
        replace_checkpoint(self.path / CHECKPOINT, content)
        self._listing, self._next_chunk = listing, next_chunk
        keep_chunks(folder, listing)

    @property
    def next_chunk(self) -> int:
        """Number of the next chunk to be saved."""
        return self._next_chunk

    @property
    def mismatch(self) -> str:
        """Why a checkpoint that is intact may not load: its config was edited, or another version wrote it."""
        version = str(protocol_history(self.protocol())[-1].get("dima", "unknown"))[:20]
        writer = f"dima {version}" + (f", commit {self._written_by}" if self._written_by else "")
        return f"its checkpoint does not fit its config.yaml, or not this version of dima ({writer} wrote it)"

    @property
    def has_checkpoint(self) -> bool:
        """Whether an iteration was saved."""
        return current_checkpoint(self.path / CHECKPOINT) is not None

    @property
    def checkpoint_size(self) -> int | None:
        """Bytes of the checkpoint's tensors, without the replay; None before the first.

        Raises:
            RunFolderError: the checkpoint is damaged.
        """
        folder = current_checkpoint(self.path / CHECKPOINT)
        return None if folder is None else tensor_bytes(read_manifest(folder, self._written_by))

    def load(self) -> Saved:
        """Load the last saved state.

        A writable folder is first rewound to that state: later metrics and chunks are removed.

        Raises:
            RunFolderError: no iteration was saved, or a file is missing, truncated or changed.
        """
        found = read_checkpoint(self.path / CHECKPOINT, self._written_by)
        if found is None:
            raise self._no_checkpoint()
        content, digest, size = found
        self._listing, self._next_chunk = content["chunks"], content["next_chunk"]
        if self._lock is not None:
            truncate_metrics(self.path / METRICS, content["metrics_bytes"])
            keep_chunks(self.path / REPLAY, self._listing)
        return Saved(content["run"], read_chunks(self.path / REPLAY, self._listing), digest, size)

    def rewind_to_start(self) -> None:
        """Remove the output of an interrupted first iteration.

        Raises:
            RunFolderError: more than one iteration was logged, or the disk is read-only.
        """
        if self._iterations > 1:
            raise self._no_checkpoint()
        truncate_metrics(self.path / METRICS, 0)
        keep_chunks(self.path / REPLAY, {})

    def close(self) -> None:
        """Close the dashboards and release the lock."""
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
        """Number of logged iterations; the first is saved before the second begins."""
        return max((record.get("iteration", 0) for record in self.records()), default=0)

    @property
    def _written_by(self) -> str:
        """The commit that wrote the checkpoint, abbreviated; empty where unknown."""
        return commit_id(protocol_history(self.protocol())[-1])

    def _no_checkpoint(self) -> RunFolderError:
        if self._iterations > 1:
            lost = f"its checkpoint was removed or not kept, though {self._iterations} iterations were logged"
            return RunFolderError(f"{self.path}: {lost}: it can be reported, not loaded or resumed")
        return RunFolderError(f"{self.path} holds no checkpoint yet: its first iteration has not finished")

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_text(self.path / CONFIG, yaml_text(config))
