"""The whole diagnosis of a small run: files, page, command, and what cannot be diagnosed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dima
from dima.analysis.diagnose import plots
from dima.analysis.diagnose.bootstrap import Curve
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.diagnose.page import _far_apart, build_page, save
from dima.analysis.diagnose.results import Diagnosis
from dima.analysis.diagnose.run import diagnose_agent
from dima.analysis.targets import STATE
from dima.cli import main
from dima.errors import ConfigError, RunFolderError
from dima.recording.config import record_config
from dima.recording.record import record
from dima.training.offline import fit, fit_config
from dima.training.online import resume, train
from dima.training.run_config import build_config

SMALL = DiagnosisConfig(episodes=3, segments=8, horizon=3, samples=4, calibration_segments=6, starts=3)
FLAGS = [
    "--episodes=3",
    "--segments=8",
    "--samples=4",
    "--calibration-segments=6",
    "--starts=3",
    "--device=cpu",
    "--quiet",
]
PLOTS = {
    *(
        "error-state",
        "error-state-summed",
        "error-observations",
        "error-observations-summed",
        "error-observations-parts",
        "error-observations-parts-summed",
    ),
    *("error-sources", "rank-histogram", "coverage", "spread-skill", "reward-error"),
    *("reward-steps", "reward-bias", "termination-reliability", "return-scatter", "return-correlation"),
    *("order-sensitivity", "denoising-agents", "denoising-levels", "influence"),
}


def small_run(folder: Path, task: str = "toy/switches", algorithm: str = "dima", steps: int = 150) -> Path:
    fixed = {"run": str(folder), "device": "cpu", "threads": 1, "tensorboard": False, "steps": steps}
    return train(build_config(task, algorithm, "debug", fixed)).folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose task ends, forbids actions, and has two agents."""
    return small_run(tmp_path_factory.mktemp("runs") / "switches")


@pytest.fixture(scope="module")
def found(run: Path) -> Diagnosis:
    return dima.diagnose(run, SMALL, device="cpu")


# -- what is written --------------------------------------------------------------------------------------------------


def test_every_number_is_finite_and_says_where_it_comes_from(run: Path, found: Diagnosis) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    written = json.loads((run / "diagnosis" / "diagnosis.json").read_text(), parse_constant=refuse)
    assert written == json.loads(json.dumps(found.to_dict()))
    steps = written["run"].pop("steps")
    assert 150 <= steps < 250  # iterations play whole episodes
    assert written["run"] == {"task": "toy/switches", "algorithm": "dima", "preset": "debug", "seed": 0}
    assert written["config"] == build_config("toy/switches", "dima", "debug", written["config"]).to_dict()
    assert written["settings"] == SMALL.to_dict()
    assert written["protocol"]["packages"]["torch"]
    names = [source["name"] for source in written["sources"]]
    earlier = [f"policy at {steps:,} steps" for steps in dima.load(run, device="cpu").earlier]
    assert len(earlier) == 1  # the run had two iterations
    assert names == ["policy, drawn", "policy, mode", "random", *earlier, "replay (trained on)"]
    assert [source["trained_on"] for source in written["sources"]] == [False] * 4 + [True]
    seeds = [seed for source in written["sources"] for seed in source["seeds"]]
    assert len(set(seeds)) == 12
    assert set(written["error"]["by_source"]) == set(names)
    assert len(written["error"]["standardised"]["state"]["model"]["step"]["mean"]) == 3
    assert written["termination"]["terminations"] > 0


def test_every_plot_is_in_the_page_and_in_a_file(run: Path) -> None:
    html = (run / "diagnosis" / "diagnosis.html").read_text()
    figures = set(re.findall(r'<figure id="([^"]+)"', html))
    assert figures == PLOTS
    files = {path.name for path in (run / "diagnosis" / "plots").iterdir()}
    assert files == {f"{name}.{kind}" for name in PLOTS for kind in ("svg", "png")}
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)  # nothing from elsewhere


def test_the_page_shows_the_findings(run: Path, found: Diagnosis) -> None:
    html = (run / "diagnosis" / "diagnosis.html").read_text()
    assert len(found.findings) == 9 + (found.influence.agreement is not None)
    for sentence in found.findings:
        topic = sentence.partition(": ")[0]
        assert f"<dt>{topic}</dt>" in html
    for text in ("toy/switches", "policy, mode", "95% bootstrap", "commit"):
        assert text in html
    places = [html.index(verdict.sentence) for verdict in found.verdicts if verdict.sentence.isascii()]
    assert places == sorted(places) and places[-1] < html.index("<nav")


def test_parts_that_a_model_or_a_task_lacks_are_left_out(found: Diagnosis) -> None:
    quiet = replace(found.termination, terminations=0, predicted=0, recall=None, precision=None)
    poor = replace(
        found,
        order=None,
        denoising=None,
        calibration={},
        termination=quiet,
        influence=replace(found.influence, real=None, agreement=None),
        reward=replace(found.reward, r2=None),
    )
    html = build_page(poor).html()
    missing = {
        *("order-sensitivity", "denoising-agents", "denoising-levels", "termination-reliability"),
        *("rank-histogram", "coverage", "spread-skill"),
    }
    assert set(re.findall(r'<figure id="([^"]+)"', html)) == PLOTS - missing
    for text in ("processes all agents at once", "no termination in the", "not reproducible", "reward is constant"):
        assert text in html
    noisy = replace(poor, termination=replace(quiet, predicted=2, precision=0.0))
    assert "the model predicted 2." in " ".join(noisy.findings)


def test_kinds_of_state_features_are_drawn_apart_where_there_are_several(found: Diagnosis) -> None:
    kinds = [f"kind {i}" for i in range(4)]
    parts = {f"{STATE}: {kind}": found.error.standardised[STATE] for kind in kinds}
    assert [axes.get_title() for axes in plots.error_by_part(parts, cumulative=False).axes] == kinds
    odd = plots.error_by_part(dict(list(parts.items())[:3]), cumulative=True)
    assert [axes.get_xlabel() for axes in odd.axes] == ["", plots.HORIZON, plots.HORIZON]
    table = found.error.standardised | parts
    advantage = found.error.advantage | dict.fromkeys(parts, found.error.advantage[STATE])
    html = build_page(
        replace(found, error=replace(found.error, standardised=table, raw=table, advantage=advantage))
    ).html()
    assert 'id="error-state-parts"' in html and 'id="error-state-parts-summed"' in html


def test_a_state_of_many_features_is_named_by_kind(found: Diagnosis) -> None:
    wide = [[float(i) for i in range(80)]] * 2
    many = replace(
        found.influence,
        imagined=wide,
        real=wide,
        features=[f"f{i}" for i in range(80)],
        kinds=["left"] * 40 + ["right"] * 40,
    )
    labels = [label.get_text() for label in plots.influence(many).axes[1].get_xticklabels()]
    assert labels == ["left", "right"]


def test_curves_far_apart_are_drawn_on_a_logarithmic_scale(found: Diagnosis) -> None:
    one, other = (Curve([v] * 3, [v] * 3, [v] * 3) for v in (1.0, 11.0))
    assert _far_apart({"a": one, "b": other}) and not _far_apart({"a": one, "b": one}) and not _far_apart({"a": one})
    assert not _far_apart({"a": one, "b": Curve([None] * 3, [None] * 3, [None] * 3)})


# -- how it is asked --------------------------------------------------------------------------------------------------


def test_the_same_seed_finds_the_same_and_leaves_the_caller_s_alone(run: Path, found: Diagnosis) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    agent = dima.load(run, device="cpu")
    again = diagnose_agent(agent, SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.to_dict() == found.to_dict()
    other = diagnose_agent(agent, SMALL.override({"seed": 1}))
    assert other.error != found.error


def test_other_runs_policies_play_too(run: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(run, earlier)
    agent, other = dima.load(run, device="cpu"), dima.load(earlier, device="cpu")
    found = diagnose_agent(agent, SMALL, also=[other])
    name = f"earlier at {other.steps:,} steps, drawn"
    assert [source.name for source in found.sources if not source.trained_on][-1] == name
    assert name in found.error.by_source and name in found.returns.by_source
    with pytest.raises(ConfigError, match=r"also = .*earlier is given twice"):
        diagnose_agent(agent, SMALL, also=[other, other])
    walk = small_run(tmp_path / "walk", "toy/walk", "mappo", steps=40)
    with pytest.raises(ConfigError, match=r"also = .*walk is a run of toy/walk .* this one of toy/switches"):
        dima.diagnose(run, SMALL, also=[walk], device="cpu")


def test_the_command_says_what_it_found(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr("dima.analysis.diagnose.page.save", lambda found, folder: saved.append(folder))
    out = tmp_path / "out"
    assert main(["diagnose", str(run), "--horizon", "3", *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"page: {run / 'diagnosis' / 'diagnosis.html'}"
    verdicts, numbers = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert verdicts and all(line[0] in "✓⚠" for line in verdicts)
    assert [line.partition(": ")[0] for line in numbers[:3]] == ["State", "Observations", "By policy"]
    assert main(["diagnose", str(run), "--horizon", "3", "--out", str(out), "--json", *FLAGS]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == SMALL.to_dict()
    assert saved == [run / "diagnosis", out]


def test_the_chosen_horizon_is_reported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dima.analysis.diagnose.rollouts._MAX_DEFAULT_HORIZON", 2)
    found = diagnose_agent(dima.load(run, device="cpu"), SMALL.override({"horizon": None}))
    assert found.horizon == found.to_dict()["settings"]["horizon"] == len(found.error.segments) == 2


def test_a_run_goes_on_after_its_diagnosis_and_takes_it_away_when_it_begins_anew(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "walk", "toy/walk")
    (folder / "diagnosis").mkdir()
    (folder / "diagnosis" / "diagnosis.json").write_text("{}")
    assert resume(folder, steps=200).finished
    assert (folder / "diagnosis" / "diagnosis.json").is_file()
    fixed = {"run": str(folder), "device": "cpu", "threads": 1, "tensorboard": False, "steps": 150}
    train(build_config("toy/walk", "dima", "debug", fixed), overwrite=True)
    assert not (folder / "diagnosis").exists()


# -- what cannot be diagnosed -----------------------------------------------------------------------------------------


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1
    return lines[0]


def test_a_horizon_longer_than_any_episode(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(run), "--horizon", "31", *FLAGS]) == 2
    assert re.search(r"horizon = 31 is longer than any episode played: choose \d+ or less", one_line(capsys))


def test_a_run_that_learns_without_a_world_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_run(tmp_path / "run", "toy/walk", "mappo", steps=40)
    assert main(["diagnose", str(folder), *FLAGS]) == 2
    assert "mappo learns no world model" in one_line(capsys)


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name in ("config.yaml", "protocol.json"):
        shutil.copy(run / name, fresh / name)
    assert main(["diagnose", str(fresh), *FLAGS]) == 2
    assert "holds no checkpoint yet" in one_line(capsys)


def test_a_folder_that_cannot_be_written(run: Path, found: Diagnosis, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as early:  # before anything is played
        early.setattr("dima.analysis.diagnose.run.play_fresh", None)
        assert main(["diagnose", str(run), "--out", str(tmp_path / "file" / "out"), *FLAGS]) == 2
        assert re.search(r"cannot write .*out: .*file is a file; .* choose another --out", one_line(capsys))
        early.setattr("os.access", lambda path, mode: False)
        assert main(["diagnose", str(run), "--out", str(tmp_path / "new" / "out"), *FLAGS]) == 2
        assert "permission denied" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(RunFolderError, match="choose another --out"):
        save(found, tmp_path / "file")


@pytest.mark.parametrize(("flag", "least"), [("--samples", 3), ("--starts", 2), ("--orders", 2)])
def test_too_small_samples_are_refused(run: Path, flag: str, least: int, capsys) -> None:
    assert main(["diagnose", str(run), flag, str(least - 1)]) == 2
    assert f"{flag} = {least - 1} is out of range: expected at least {least}" in one_line(capsys)


# -- a run on a dataset -----------------------------------------------------------------------------------------------


def test_a_plain_model_fitted_to_a_dataset_is_diagnosed_on_its_held_out_episodes(tmp_path: Path, capsys) -> None:
    record(record_config("toy/switches").override({"out": str(tmp_path / "data"), "steps": 120, "device": "cpu"}))
    fixed = {"run": str(tmp_path / "run"), "device": "cpu", "threads": 1, "tensorboard": False, "iterations": 1}
    fixed |= {"evaluation_horizon": 2}
    fit(fit_config(tmp_path / "data", "ensemble", "debug", fixed))
    found = dima.diagnose(tmp_path / "run", SMALL, device="cpu")
    named = {source.name: source for source in found.sources}
    assert list(named) == ["policy, drawn", "policy, mode", "random", "dataset (held out)", "dataset (trained on)"]
    assert [source.trained_on for source in found.sources] == [False] * 4 + [True]
    assert named["dataset (held out)"].episodes == 3
    assert named["dataset (held out)"].segments == 8
    assert found.order is None  # the ensemble processes all agents at once
    assert "denoising-agents" not in (tmp_path / "run" / "diagnosis" / "diagnosis.html").read_text()

    shutil.rmtree(tmp_path / "data")
    assert main(["diagnose", str(tmp_path / "run"), "--horizon=3", *FLAGS]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "episodes of the dataset are left out" in err
