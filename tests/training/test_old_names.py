"""Run folders of earlier versions: their configs, metrics and reports are read, their checkpoints refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import dima
from dima.algorithms import algorithm_names
from dima.analysis.report.build import report
from dima.analysis.report.runs import read_run
from dima.cli import main
from dima.config import read_yaml
from dima.errors import ConfigError, RunFolderError
from dima.storage.checkpoint import FORMAT
from dima.storage.manifest import manifest_text
from dima.storage.metrics import OLD_NAMES, OLD_PREFIXES, read_metrics
from dima.training.old_names import RENAMED, RETIRED, modernise
from dima.training.online import train
from dima.training.run_config import OfflineConfig, RunConfig, build_config, offline_config

RESULTS = Path(__file__).parents[2] / "results"
KEPT = sorted(path.parent for path in RESULTS.glob("**/config.yaml") if (path.parent / "metrics.jsonl").exists())
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def has_field(config: RunConfig, path: str) -> bool:
    *sections, name = path.split(".")
    content = config.to_dict()
    for section in sections:
        content = content.get(section, {})
    return name in content


@pytest.mark.parametrize("old", RENAMED)
def test_renamed_fields_exist_under_their_new_names_only(old: str) -> None:
    configs = [build_config("toy/walk", "dima"), offline_config("data", "toy/walk", "dima")]
    new = ".".join([*old.split(".")[:-1], RENAMED[old]])
    assert any(has_field(config, new) for config in configs)
    assert not any(has_field(config, old) for config in configs)
    assert not any(has_field(build_config("toy/walk", name), path) for name in algorithm_names() for path in RETIRED)


def test_an_old_config_equals_todays() -> None:
    config = build_config("toy/walk", "dima", "small", {"evaluate_in_background": True})
    old = config.to_dict()
    old["evaluate_beside"] = old.pop("evaluate_in_background")
    learner = old["learner"]
    learner["round_steps"], learner["collect_beside"] = learner.pop("iteration_steps"), False
    del learner["collect_in_background"]
    denoiser = learner["world_model"]["denoiser"]
    denoiser["agents_at_once"], denoiser["whole_team"] = denoiser.pop("group_size"), 0.0
    before = json.dumps(old)
    assert RunConfig.from_dict(old) == config
    assert json.dumps(old) == before
    assert modernise(config.to_dict()) == config.to_dict()


def test_an_old_config_of_a_dataset_equals_todays() -> None:
    config = offline_config("data", "toy/walk", "dima").override({"iterations": 7})
    old = config.to_dict()
    old["rounds"] = old.pop("iterations")
    read = RunConfig.from_dict(old)
    assert isinstance(read, OfflineConfig)
    assert read == config


def test_a_retired_field_with_another_value_is_refused_but_compared() -> None:
    old = {"task": "toy/walk", "learner": {"world_model": {"denoiser": {"whole_team": 0.5}}}}
    with pytest.raises(ConfigError, match=r"denoiser\.whole_team = 0\.5 is no longer a field: it is always 0$"):
        RunConfig.from_dict(old)
    assert modernise(old, for_comparison=True) == old


def test_an_old_and_a_new_name_at_once_are_refused() -> None:
    both = {"task": "toy/walk", "learner": {"round_steps": 3, "iteration_steps": 4}}
    with pytest.raises(ConfigError, match=r"learner\.round_steps is the old name of iteration_steps: give one of them"):
        RunConfig.from_dict(both)


def test_old_metrics_are_read_in_todays_names(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = dict.fromkeys([*OLD_NAMES, *(f"{prefix}15" for prefix in OLD_PREFIXES), "denoiser/loss"], 1)
    path.write_text(json.dumps(old) + "\n")
    new = {*OLD_NAMES.values(), *(f"{prefix}15" for prefix in OLD_PREFIXES.values()), "denoiser/loss"}
    assert read_metrics(path) == [dict.fromkeys(new, 1)]


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: str(path.relative_to(RESULTS)))
def test_kept_runs_are_read(folder: Path) -> None:
    run, lines = read_run(folder), [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run.status in ("finished", "interrupted", "stopped")
    assert len(run.returns) == sum("evaluate/return" in line for line in lines)
    assert len(run.returns) > 0 or run.status == "stopped"
    assert run.seconds == pytest.approx(sum(line.get("time/round", line.get("time/iteration", 0)) for line in lines))
    assert run.seconds > 0
    assert not {name.split(".")[-1] for name in run.settings} & {"round_steps", "agents_at_once", "collect_beside"}
    assert not any("improve" in phase for phase in run.phases)
    if run.algorithm in algorithm_names() and run.settings.get("world_model.denoiser.whole_team", 0.0) == 0.0:
        RunConfig.from_dict(read_yaml(folder / "config.yaml"))


def test_kept_runs_are_reported(tmp_path: Path) -> None:
    chosen = [*sorted((RESULTS / "halfcheetah-2x3").glob("*-small-seed*")), RESULTS / "halfcheetah-6x1"]
    made = report(chosen, tmp_path)
    assert "mamujoco/halfcheetah-2x3" in made.summary() and "mamujoco/halfcheetah-6x1" in made.summary()
    assert "imagine and update" in made.page.read_text()


@pytest.fixture
def old(tiny) -> Path:
    """A run folder whose checkpoint is of the first format."""
    folder = train(tiny(steps=120)).folder
    manifest = folder / "checkpoint" / "manifest.json"
    body = json.loads(manifest.read_text())
    del body["sha256"]
    manifest.write_text(manifest_text(body | {"format": 1, "dima": "0.1.0"}))
    protocol = folder / "protocol.json"
    protocol.write_text(json.dumps(json.loads(protocol.read_text()) | {"commit": {"id": COMMIT, "dirty": False}}))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["resume"],
        ["resume", "--steps", "600"],
        ["evaluate"],
        ["imagine"],
        ["diagnose"],
        ["dataset", "record", "toy/walk", "--steps", "60", "--out", "{out}", "--device", "cpu", "--sources"],
    ],
    ids=" ".join,
)
def test_an_old_checkpoint_is_refused_in_a_line_that_names_its_commit(
    old: Path, command: list[str], capsys, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in sorted(old.rglob("*")) if path.is_file()}
    name, *more = [word.format(out=tmp_path / "data") for word in command]
    args = [name, *more, str(old)] if name == "dataset" else [name, str(old), *more]
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has format 1, written by dima 0.1.0 (commit 0123456789ab)" in line
    assert f"reads format {FORMAT}: use that version, or train again" in line
    assert before == {path: path.read_bytes() for path in sorted(old.rglob("*")) if path.is_file()}


def test_an_old_checkpoint_is_refused_by_load_and_its_run_still_reported(old: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"use that version, or train again$"):
        dima.load(old)
    assert "toy/walk" in report([old], tmp_path / "report").summary()


@pytest.mark.parametrize("commit", [None, {"id": "x\n; rm -rf /", "dirty": True}])
def test_an_unknown_commit_is_not_named(old: Path, commit: object) -> None:
    protocol = old / "protocol.json"
    protocol.write_text(json.dumps(json.loads(protocol.read_text()) | {"commit": commit}))
    with pytest.raises(RunFolderError, match=r"written by dima 0\.1\.0; this is dima"):
        dima.load(old)


def test_a_kept_run_without_a_checkpoint_is_one_line(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / "halfcheetah-2x3" / "dima-small-seed0", folder)
    for command in ("resume", "evaluate", "imagine", "diagnose"):
        assert main([command, str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "its checkpoint was removed or not kept, though" in line
