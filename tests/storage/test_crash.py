"""Crashes and full disks at every step of a save leave the old state or the new one."""

import contextlib
import errno
import os
import shutil
import signal
import time

import pytest

import dima.storage.checkpoint
import dima.storage.chunks
from dima.errors import RunFolderError
from dima.storage.layout import CHECKPOINT
from dima.storage.run_folder import RunFolder
from tests.storage.runs import CONFIG, chunk, contents, state


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

    @pytest.mark.parametrize("linked", [False, True])
    @pytest.mark.parametrize("k", range(1, STEPS + 1))
    def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(self, run, monkeypatch, k, linked):
        if linked:
            (run / CHECKPOINT).rename(run.parent / "elsewhere")
            (run / CHECKPOINT).symlink_to(run.parent / "elsewhere")
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
