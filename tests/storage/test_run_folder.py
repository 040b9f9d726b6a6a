"""Run folders: crash safety at every step, clear errors, one writer."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time

import pytest
import torch

import dima.storage.atomic
import dima.storage.checkpoint
import dima.storage.chunks
import dima.storage.saved
from dima.errors import ConfigError, RunFolderError
from dima.storage.layout import CHECKPOINT, METRICS, PROTOCOL, REPLAY
from dima.storage.run_folder import RunFolder

CONFIG = {"task": "toy/walk", "seed": 3}


def chunk(value):
    return {"obs": torch.full((4, 2), float(value)), "length": value}


def state(value):
    return {"weights": torch.full((3,), float(value)), "iteration": value}


def contents(path):
    """The iteration and the chunks that a folder would be resumed with."""
    with RunFolder.open(path, write=True) as folder:
        if not folder.has_checkpoint:
            return None, [], []
        saved = folder.load()
        assert torch.equal(saved.tree["weights"], state(saved.tree["iteration"])["weights"])
        chunks = [(number, int(tree["obs"][0, 0])) for number, tree in saved.chunks]
        return saved.tree["iteration"], chunks, [record["iteration"] for record in folder.records()]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with three finished iterations; iteration i has chunk i - 1."""
    path = tmp_path_factory.mktemp("template") / "run"
    with RunFolder.create(path, CONFIG) as folder:
        for i in (1, 2, 3):
            folder.log({"step": 10 * i, "iteration": i})
            folder.save(state(i), [chunk(i)])
    return path


@pytest.fixture
def run(template, tmp_path):
    """A copy of the template to do harm to."""
    return shutil.copytree(template, tmp_path / "run")


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
        (run / PROTOCOL).write_text(json.dumps(facts | {"format": 77, "dima": "8.0"}))
        with pytest.raises(RunFolderError, match=r"has format 77, written by dima 8\.0"):
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


class TestMetrics:
    def test_records_are_plain_json(self, tmp_path):
        with RunFolder.create(tmp_path / "run", CONFIG) as folder:
            folder.log({"step": 5, "loss": torch.tensor(0.5), "bad": float("nan"), "list": [1, float("inf")]})
            folder.log({"note": "no step", "nested": {"x": torch.tensor(2)}})
            lines = (tmp_path / "run" / METRICS).read_text().splitlines()
            assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == folder.records()
            assert folder.records()[0] == {"step": 5, "loss": 0.5, "bad": None, "list": [1, None]}

    def test_an_incomplete_last_line_is_skipped(self, run):
        with (run / METRICS).open("a") as file:
            file.write('{"step": 4')
        assert len(RunFolder.open(run).records()) == 3

    def test_a_broken_line_is_named(self, run):
        lines = (run / METRICS).read_text().splitlines()
        (run / METRICS).write_text("\n".join([lines[0], "?", lines[2]]) + "\n")
        with pytest.raises(RunFolderError, match="line 2 is not a JSON object"):
            RunFolder.open(run).records()

    def test_truncated_metrics_are_detected_on_resume(self, run):
        (run / METRICS).write_bytes((run / METRICS).read_bytes()[:-5])
        with RunFolder.open(run, write=True) as folder, pytest.raises(RunFolderError, match=r"metrics\.jsonl is trunc"):
            folder.load()

    def test_tensorboard_shows_the_numbers(self, tmp_path, monkeypatch):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        # event files are read in the order of their names, which tell the second: a resumed run is a later one
        began, calls = time.time(), itertools.count()
        monkeypatch.setattr(time, "time", lambda: began + next(calls))
        with RunFolder.create(tmp_path / "run", CONFIG | {"tensorboard": True}) as folder:
            folder.log({"step": 1, "loss": 0.5, "name": "text", "none": float("nan")})
            folder.log({"step": 2, "loss": 0.25})
            folder.save(state(1))
            folder.log({"step": 3, "loss": 9.0})  # of an iteration that never finishes
        with RunFolder.open(tmp_path / "run", write=True) as folder:
            folder.load()
            folder.log({"step": 3, "loss": 0.125})
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25), (3, 0.125)]

    def test_wandb_is_an_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        folder = RunFolder.create(tmp_path / "run", CONFIG | {"wandb": True})
        with folder, pytest.raises(ConfigError, match=r"pip install 'dima-marl\[wandb\]'"):
            folder.log({"step": 1})

    def test_wandb_gets_the_numbers_under_the_runs_name(self, tmp_path, monkeypatch):
        calls = []

        class Run:
            def log(self, numbers, step):
                calls.append((step, numbers))

            def finish(self):
                calls.append("finish")

        class Wandb:
            def init(**settings):
                calls.append((settings["id"], settings["resume"]))
                return Run()

        monkeypatch.setitem(sys.modules, "wandb", Wandb)
        with RunFolder.create(tmp_path / "walk" / "dima-seed0", CONFIG | {"wandb": True}) as folder:
            folder.log({"step": 1, "loss": 2.0})
        assert calls == [(f"{tmp_path.name}-walk-dima-seed0", "allow"), (1, {"loss": 2.0}), "finish"]


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


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, no clean-up runs."""


def interrupt_at(monkeypatch, k, error):
    """Let the k-th step that touches names or content on disk fail."""
    count = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == k:
                raise error
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "rename", counted(os.rename))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(os, "unlink", counted(os.unlink))
    monkeypatch.setattr(os, "rmdir", counted(os.rmdir))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(dima.storage.checkpoint, "save_file", counted(dima.storage.checkpoint.save_file))
    monkeypatch.setattr(dima.storage.chunks, "save_tree_file", counted(dima.storage.chunks.save_tree_file))
    return lambda: count


OLD, NEW = (3, [(0, 1), (1, 2), (2, 3)], [1, 2, 3]), (4, [(2, 3), (3, 4)], [1, 2, 3, 4])
STEPS = 25  # more than a save has


class TestCrash:
    def save_fourth(self, run):
        with RunFolder.open(run, write=True) as folder:
            folder.load()
            folder.log({"step": 40, "iteration": 4})
            folder.save(state(4), [chunk(4)], drop_before=2)

    @pytest.mark.parametrize("k", range(1, STEPS + 1))
    def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(self, run, monkeypatch, k):
        with monkeypatch.context() as patched:
            counted = interrupt_at(patched, k, Killed())
            try:
                self.save_fourth(run)
                finished = True
            except Killed:
                finished = False
        assert finished == (counted() < k)
        assert k < STEPS or finished, "a save has more steps than are tried here"
        found = contents(run)
        assert found in ([NEW] if finished else [OLD, NEW])
        assert sorted(path.name for path in run.iterdir() if "checkpoint" in path.name) == [CHECKPOINT]
        self.save_fourth(run) if found == OLD else None
        assert contents(run) == NEW

    @pytest.mark.parametrize("k", range(1, 16))
    def test_a_kill_in_the_first_save_leaves_all_or_nothing(self, tmp_path, monkeypatch, k):
        folder = RunFolder.create(tmp_path / "run", CONFIG)
        folder.log({"step": 10, "iteration": 1})
        with monkeypatch.context() as patched, folder:
            interrupt_at(patched, k, Killed())
            with contextlib.suppress(Killed):
                folder.save(state(1), [chunk(1)])
        assert contents(tmp_path / "run") in ((None, [], []), (1, [(0, 1)], [1]))

    @pytest.mark.parametrize(
        ("k", "code"),
        [(k, errno.ENOSPC) for k in range(1, STEPS)]
        + [(k, code) for k in (1, 4, 9) for code in (errno.EROFS, errno.EACCES)],
    )
    def test_a_disk_that_fails_gives_one_line_and_keeps_the_old_state(self, run, monkeypatch, k, code):
        with monkeypatch.context() as patched:
            interrupt_at(patched, k, OSError(code, os.strerror(code)))
            try:
                self.save_fourth(run)
            except RunFolderError as error:
                message = str(error)
                assert "cannot write" in message
                assert os.strerror(code).lower() in message
                assert "\n" not in message
        assert contents(run) in (OLD, NEW)

    def test_an_interrupted_overwrite_can_be_repeated(self, run, monkeypatch):
        for k in range(1, 12):
            with monkeypatch.context() as patched:
                interrupt_at(patched, k, Killed())
                with contextlib.suppress(Killed):
                    RunFolder.create(run, {"task": "second"}, overwrite=True).close()
        with RunFolder.create(run, {"task": "second"}, overwrite=True) as folder:
            assert not folder.has_checkpoint
            assert folder.config() == {"task": "second"}

    def test_a_full_disk_in_safetensors(self, run, monkeypatch):
        from safetensors import SafetensorError

        def full(*args, **kwargs):
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        with monkeypatch.context() as patched:
            patched.setattr(dima.storage.checkpoint, "save_file", full)
            with pytest.raises(RunFolderError, match="no space left on device"):
                self.save_fourth(run)
        assert not (run / "checkpoint.new").exists()
        assert contents(run) == OLD

    def test_real_kills(self, run):
        """A process that saves iteration after iteration is killed at random moments."""
        reached = [3]
        for wait in (0.0, 0.013, 0.029, 0.041):
            ready, tell = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(ready)
                save_forever(run, tell)
            os.close(tell)
            while os.read(ready, 1) != b"2":  # two iterations are done
                pass
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(ready)
            found, chunks, records = contents(run)
            assert records == list(range(1, found + 1))
            assert chunks[-1] == (found - 1, found)
            assert found >= reached[-1] + 2
            reached.append(found)


def save_forever(path, tell):
    """The body of the process that gets killed."""
    with RunFolder.open(path, write=True) as folder:
        first = folder.load().tree["iteration"] + 1
        for i in range(first, first + 10_000):
            folder.log({"step": 10 * i, "iteration": i})
            folder.save(state(i), [chunk(i)], drop_before=i - 4)
            os.write(tell, str(min(9, i - first + 1)).encode())
    os._exit(0)


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
