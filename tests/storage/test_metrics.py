"""Metrics and dashboards of a run folder."""

import itertools
import json
import sys
import time

import pytest
import torch

from dima.errors import ConfigError, RunFolderError
from dima.storage.layout import METRICS
from dima.storage.run_folder import RunFolder
from tests.storage.runs import CONFIG, state


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


class Wandb:
    """Stands for the package."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.calls, self.fault = [], fault

    def login(self):
        if self.fault is not None:
            raise self.fault

    def init(self, **settings):
        self.calls.append({name: settings[name] for name in ("project", "id", "name", "resume")})
        return self

    def log(self, numbers, step):
        self.calls.append((step, numbers))

    def finish(self):
        self.calls.append("finish")


class TestWandb:
    ON = CONFIG | {"wandb": True}

    @pytest.fixture
    def wandb(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", fake := Wandb())
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        return fake

    def ids(self, fake):
        return [call["id"] for call in fake.calls if isinstance(call, dict)]

    def test_the_package_and_a_key_are_required_before_anything_is_written(self, tmp_path, monkeypatch):
        key = r"wandb = True needs a key \(RuntimeError: no tty\): run `wandb login`, or set WANDB_API_KEY"
        for found, said in ((None, r"pip install 'dima-marl\[wandb\]'"), (Wandb(RuntimeError("no tty")), key)):
            monkeypatch.setitem(sys.modules, "wandb", found)
            with pytest.raises(ConfigError, match=said):
                RunFolder.create(tmp_path / "run", self.ON)
            assert not (tmp_path / "run").exists()

    def test_it_gets_the_numbers_under_an_id_of_the_folder_s_own(self, tmp_path, wandb, monkeypatch):
        monkeypatch.setenv("WANDB_PROJECT", "mine")
        for parent in ("one", "two"):
            with RunFolder.create(tmp_path / parent / "lab:maze" / "seed0", self.ON) as folder:
                folder.log({"step": 1, "loss": 2.0})
        first, *logged, second = wandb.calls[:4]
        assert first == {"project": "mine", "id": first["id"], "name": "one-lab:maze-seed0", "resume": "allow"}
        assert logged == [(1, {"loss": 2.0}), "finish"]
        assert first["id"] != second["id"]
        assert first["id"].isalnum()

    def test_a_resumed_run_keeps_its_id_and_a_new_one_has_another(self, tmp_path, wandb):
        path = tmp_path / "run"
        with RunFolder.create(path, self.ON) as folder:
            folder.log({"step": 1})
            folder.save(state(1))
        (path / "wandb" / "run-1" / "logs").mkdir(parents=True)  # as the package does
        (path / "wandb" / "latest-run").symlink_to("run-1")
        (path / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "cache" / "wandb" / "core.log")
        with RunFolder.open(path, write=True) as folder:
            folder.log({"step": 2})
        with RunFolder.create(path, self.ON, overwrite=True) as folder:
            folder.log({"step": 1})
        first, resumed, new = self.ids(wandb)
        assert first == resumed != new
        assert wandb.calls[0]["project"] == "dima"

    def test_links_out_of_its_folder_and_strange_ids_are_refused(self, tmp_path, wandb):
        path = tmp_path / "run"
        RunFolder.create(path, self.ON).close()
        (path / "wandb").mkdir()
        (path / "wandb" / "latest-run").symlink_to("../replay")
        with pytest.raises(RunFolderError, match="latest-run is a symbolic link"):
            RunFolder.open(path, write=True)
        (path / "wandb" / "latest-run").unlink()
        (path / "wandb" / "run-1" / "files").mkdir(parents=True)
        (path / "wandb" / "run-1" / "files" / "output.log").symlink_to("../../../metrics.jsonl")
        with pytest.raises(RunFolderError, match=r"output\.log is a symbolic link"):
            RunFolder.open(path, write=True)
        (path / "wandb" / "run-1" / "files" / "output.log").unlink()
        (path / "wandb.id").write_text("a:b")
        with RunFolder.open(path, write=True) as folder, pytest.raises(RunFolderError, match="holds no id"):
            folder.log({"step": 1})

    def test_a_start_that_fails_is_one_line(self, tmp_path, wandb, monkeypatch):
        def fail(**settings):
            raise OSError("no network")

        monkeypatch.setattr(wandb, "init", fail)
        with RunFolder.create(tmp_path / "run", self.ON) as folder, pytest.raises(ConfigError, match="no network"):
            folder.log({"step": 1})
