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
