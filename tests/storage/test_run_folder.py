"""Run folders: created, opened, saved, loaded and locked, with clear errors."""

import errno
import json
import os
import shutil

import pytest
import torch

import dima.storage.chunks
import dima.storage.saved
from dima.errors import RunFolderError
from dima.storage.layout import CHECKPOINT, METRICS, PROTOCOL, REPLAY
from dima.storage.run_folder import RunFolder
from tests.storage.runs import CONFIG, chunk, contents, state


class TestCreate:
    def test_holds_config_and_protocol(self, run):
        with RunFolder.open(run) as folder:
            assert folder.config() == CONFIG
            protocol = folder.protocol()
        assert protocol["packages"]["torch"] == torch.__version__
        assert protocol["machine"]["cores"] >= 1
        assert protocol["machine"]["device"] == "cpu"

    def test_a_run_is_not_overwritten_by_default(self, run):
        with pytest.raises(RunFolderError, match=r"already holds a run: `dima resume .*--overwrite"):
            RunFolder.create(run, CONFIG)
        assert contents(run)[0] == 3

    def test_overwrite_starts_empty_and_keeps_foreign_files(self, run):
        (run / "notes.txt").write_text("mine")
        with RunFolder.create(run, {"task": "other"}, overwrite=True) as folder:
            assert not folder.has_checkpoint
            assert folder.records() == []
            assert folder.config() == {"task": "other"}
        assert (run / "notes.txt").read_text() == "mine"
        assert not (run / REPLAY).exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_foreign_folder_is_never_overwritten(self, tmp_path, overwrite):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "metrics.jsonl").write_text("not yours")
        with pytest.raises(RunFolderError, match=r"is not a dima run folder, so it is never overwritten"):
            RunFolder.create(tmp_path / "precious", CONFIG, overwrite=overwrite)
        assert (tmp_path / "precious" / "metrics.jsonl").read_text() == "not yours"

    def test_a_file_is_never_overwritten(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(RunFolderError, match="is a file"):
            RunFolder.create(tmp_path / "file", CONFIG, overwrite=True)
        with pytest.raises(RunFolderError, match=r"cannot write .*not a directory"):
            RunFolder.create(tmp_path / "file" / "run", CONFIG)

    def test_an_empty_folder_is_used(self, tmp_path):
        (tmp_path / "empty").mkdir()
        RunFolder.create(tmp_path / "empty", CONFIG).close()
        assert RunFolder.open(tmp_path / "empty").config() == CONFIG

    def test_records_uncommitted_changes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dima.storage.run_folder.uncommitted_diff", lambda: "--- a\n+++ b\n")
        RunFolder.create(tmp_path / "run", CONFIG).close()
        assert (tmp_path / "run" / "uncommitted.diff").read_text() == "--- a\n+++ b\n"


class TestOpen:
    def test_missing(self, tmp_path):
        with pytest.raises(RunFolderError, match="does not exist"):
            RunFolder.open(tmp_path / "nowhere")

    @pytest.mark.parametrize("content", [None, "", "{", "[]", '{"kind": "cake"}'])
    def test_a_foreign_folder(self, tmp_path, content):
        if content is not None:
            (tmp_path / PROTOCOL).write_text(content)
        with pytest.raises(RunFolderError, match="is not a dima run folder"):
            RunFolder.open(tmp_path)

    def test_another_version(self, run):
        facts = json.loads((run / PROTOCOL).read_text())
        (run / PROTOCOL).write_text(json.dumps(facts | {"format": 77, "dima": "8.0", "commit": {"id": "a" * 40}}))
        with pytest.raises(RunFolderError, match=r"has format 77, written by dima 8\.0 \(commit a{12}\)"):
            RunFolder.open(run)

    def test_without_config(self, run):
        (run / "config.yaml").unlink()
        with pytest.raises(RunFolderError, match=r"config\.yaml is missing"):
            RunFolder.open(run).config()

    def test_before_the_first_iteration_is_finished(self, tmp_path):
        with RunFolder.create(tmp_path / "run", CONFIG) as folder:
            folder.log({"step": 1, "iteration": 1})
            assert not folder.has_checkpoint
            with pytest.raises(RunFolderError, match="its first iteration has not finished"):
                folder.load()
        with RunFolder.open(tmp_path / "run", write=True) as folder:
            folder.rewind_to_start()
            assert folder.records() == []

    def test_reading_changes_nothing(self, run):
        (run / METRICS).open("a").write('{"step": 99}\n')
        (run / REPLAY / "000009.safetensors").write_bytes(b"orphan")
        with RunFolder.open(run) as folder:
            assert folder.load().tree["iteration"] == 3
            assert len(folder.records()) == 4
        assert (run / REPLAY / "000009.safetensors").exists()


class TestSave:
    def test_round_trip(self, run):
        assert contents(run) == (3, [(0, 1), (1, 2), (2, 3)], [1, 2, 3])

    def test_the_output_of_an_unfinished_iteration_is_removed(self, run):
        with RunFolder.open(run, write=True) as folder:
            folder.load()
            folder.log({"step": 40, "iteration": 4})
        (run / REPLAY / "000003.safetensors").write_bytes(b"half of a chunk")
        (run / REPLAY / "000004.safetensors.new").write_bytes(b"")
        assert contents(run) == (3, [(0, 1), (1, 2), (2, 3)], [1, 2, 3])
        assert sorted(path.name for path in (run / REPLAY).iterdir()) == [f"00000{i}.safetensors" for i in range(3)]

    def test_a_resumed_run_continues_the_numbers_of_chunks(self, run):
        with RunFolder.open(run, write=True) as folder:
            folder.load()
            assert folder.next_chunk == 3
            folder.log({"step": 40, "iteration": 4})
            folder.save(state(4), [chunk(4), chunk(5)], drop_before=2)
        assert contents(run) == (4, [(2, 3), (3, 4), (4, 5)], [1, 2, 3, 4])
        assert len(list((run / REPLAY).iterdir())) == 3

    def test_several_chunks_are_saved_together_without_obsolete_ones(self, run, monkeypatch):
        written = []
        save = dima.storage.chunks.save_tree_file
        monkeypatch.setattr(
            dima.storage.chunks, "save_tree_file", lambda path, tree: (written.append(path.name), save(path, tree))
        )
        with RunFolder.open(run, write=True) as folder:
            folder.load()
            folder.save(state(7), [chunk(4), chunk(5), chunk(6), chunk(7)], drop_before=5)
            assert folder.next_chunk == 7
        assert written == ["000005.safetensors.new", "000006.safetensors.new"]
        assert contents(run) == (7, [(5, 6), (6, 7)], [1, 2, 3])

    def test_old_chunks_are_not_rewritten(self, run):
        before = {path: path.stat().st_mtime_ns for path in (run / REPLAY).iterdir()}
        with RunFolder.open(run, write=True) as folder:
            folder.load()
            folder.save(state(4), [chunk(4)])
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    @pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
    def test_a_damaged_chunk_is_named(self, run, damage):
        path = run / REPLAY / "000001.safetensors"
        good = path.read_bytes()
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(good[:-3] if damage == "cut" else good[:-3] + b"\x07" + good[-2:])
        with RunFolder.open(run, write=True) as folder:
            saved = folder.load()
            with pytest.raises(RunFolderError, match=r"000001\.safetensors .*damaged"):
                list(saved.chunks)


class TestReaders:
    def test_a_reader_between_two_renames_finds_the_new_checkpoint(self, run):
        shutil.copytree(run / CHECKPOINT, run / "checkpoint.new")
        (run / CHECKPOINT).rename(run / "checkpoint.old")
        assert RunFolder.open(run).load().tree["iteration"] == 3

    def test_a_reader_retries_if_the_checkpoint_was_replaced(self, run, monkeypatch):
        real = dima.storage.saved.load_tree
        overtaken = []

        def load(folder, written_by=""):
            if not overtaken:
                overtaken.append(True)
                with RunFolder.open(run, write=True) as writer:
                    monkeypatch.setattr(dima.storage.saved, "load_tree", real)
                    writer.load()
                    monkeypatch.setattr(dima.storage.saved, "load_tree", load)
                    writer.save(state(4))
                raise RunFolderError("gone")
            return real(folder, written_by)

        monkeypatch.setattr(dima.storage.saved, "load_tree", load)
        assert RunFolder.open(run).load().tree["iteration"] == 4

    def test_damage_is_not_mistaken_for_a_writer(self, run):
        (run / CHECKPOINT / "manifest.json").unlink()
        with pytest.raises(RunFolderError, match=r"manifest\.json is missing"):
            RunFolder.open(run).load()


class TestLock:
    def test_one_writer_at_a_time(self, run):
        with RunFolder.open(run, write=True):
            with pytest.raises(RunFolderError, match=rf"being written by another process \(id {os.getpid()}\)"):
                RunFolder.open(run, write=True)
            with pytest.raises(RunFolderError, match="being written"):
                RunFolder.create(run, CONFIG, overwrite=True)
            RunFolder.open(run).load()
        assert contents(run)[0] == 3

    def test_a_forked_worker_does_not_hold_it(self, run):
        folder = RunFolder.open(run, write=True)
        wait, release = os.pipe()
        started, start = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(release)
            os.write(start, b"!")
            os.read(wait, 1)  # lives on until the parent lets it go
            os._exit(0)
        try:
            os.read(started, 1)
            os.close(folder._lock._descriptor)  # as when the parent is killed
            folder._lock._descriptor = None
            RunFolder.open(run, write=True).close()
        finally:
            os.close(release)
            os.waitpid(child, 0)
            for descriptor in (wait, started, start):
                os.close(descriptor)

    def test_read_only_folder(self, run, monkeypatch):
        def deny(*args):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr("dima.storage.lock.os.open", deny)
        with pytest.raises(RunFolderError, match=r"run\.lock: read-only file system"):
            RunFolder.open(run, write=True)
