"""The study of the forms: what it writes, that it goes on where it stopped, its table and its count of operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies import forms, forms_curves
from dima.analysis.diagnose.error import MODEL, PERSISTENCE
from dima.analysis.targets import OBSERVATIONS, STATE
from dima.datasets.reader import Dataset
from dima.recording.config import record_config
from dima.recording.record import record

pytestmark = pytest.mark.usefixtures("one_thread")
CHOSEN = ["one, condition", "cumulative, condition+input, change", "ensemble, mean", "ensemble, member"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch) -> Path:
    """The folder of a finished study of one seed on toy/walk."""
    record(record_config("toy/walk").override({"out": str(tmp_path / "data"), "steps": 120, "env": {"n_agents": 2}}))
    for name, value in (("HORIZON", 6), ("SHOWN", (1, 6)), ("SEGMENTS", 9), ("ORDER_STEPS", 3)):
        monkeypatch.setattr(forms, name, value)
    run(tmp_path, monkeypatch)
    return tmp_path


def run(path: Path, monkeypatch) -> None:
    given = [str(path / "data"), "--out", str(path / "out"), "--work", str(path / "work"), "--preset", "debug"]
    given += [
        "--starts",
        "3",
        "--iterations",
        "1",
        "--updates",
        "2",
        "--batch",
        "8",
        "--seeds",
        "0",
        "--forms",
        *CHOSEN,
    ]
    given += ["--world-model", '{"denoiser": {"blocks": 2}}']
    monkeypatch.setattr("sys.argv", ["forms", *given])
    assert forms.main() == 0


def test_every_form_has_its_numbers_and_a_row(study: Path, monkeypatch, capsys) -> None:
    found = {path.name: json.loads(path.read_text()) for path in (study / "out").glob("*.json")}
    assert sorted(one["form"] for one in found.values()) == sorted(CHOSEN)
    for one in found.values():
        assert set(one["error"]) == {STATE, OBSERVATIONS}
        error = one["error"][OBSERVATIONS][MODEL]
        assert error["cumulative"]["mean"][-1] == pytest.approx(sum(error["step"]["mean"]))
        assert one["seed"] == 0
        assert one["config"]["learner"]["world_model"]["decoder_fit"]["updates"] == 2
        assert "ensemble" in one["form"] or one["config"]["learner"]["world_model"]["denoiser"]["blocks"] == 2
        assert ("spread" in one) == ("ensemble" not in one["form"])
    persistence = [one["error"][OBSERVATIONS][PERSISTENCE]["step"]["mean"] for one in found.values()]
    assert all(one == persistence[0] for one in persistence)  # all are asked about the same segments
    table = (study / "out" / "table.md").read_text()
    assert all(f"| {form} | 1 |" in table for form in CHOSEN)

    before = {path: path.stat().st_mtime_ns for path in (study / "out").glob("*.json")}
    run(study, monkeypatch)
    assert table.strip() in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (study / "out").glob("*.json")}


def test_one_ensemble_predicts_in_two_ways(study: Path) -> None:
    assert sorted(path.name for path in (study / "work").iterdir() if "ensemble" in path.name) == ["ensemble-seed0"]
    one, other = (json.loads((study / "out" / f"ensemble_{way}-seed0.json").read_text()) for way in ("mean", "member"))
    assert one["parameters"] == other["parameters"]
    assert one["error"]["state"][MODEL] != other["error"]["state"][MODEL]


def test_operations_of_an_imagined_step_as_counted_by_hand(study: Path) -> None:
    one = json.loads((study / "out" / "ensemble_mean-seed0.json").read_text())
    spec = Dataset.open(study / "data").spec
    sizes = one["config"]["learner"]["world_model"]
    joint = spec.n_agents * spec.action_dim
    hidden, seen = sizes["hidden"][0], sizes["decoder"]["hidden"][0]
    member = (spec.state_dim + joint) * hidden + hidden * (2 * (spec.state_dim + 1) + 1)
    decoder = spec.state_dim * seen + seen * spec.n_agents * spec.obs_dim
    assert one["flops"] == 2 * (sizes["members"] * member + decoder)


def test_an_interval_over_seeds_is_student_s() -> None:
    assert forms.spread_of([1.0, 2.0, 3.0]) == "2 ± 2.5"
    assert forms.spread_of([0.5]) == "0.5"


def test_results_of_earlier_versions_are_read_in_today_s_names() -> None:
    for result in forms.read_results(Path(__file__).parents[2] / "results" / "forms" / "halfcheetah-2x3"):
        assert {MODEL, PERSISTENCE} <= set(result["error"][OBSERVATIONS])


def test_the_picture_has_a_line_for_every_form(study: Path, monkeypatch) -> None:
    results = [json.loads(path.read_text()) for path in (study / "out").glob("*.json")]
    (axes,) = forms_curves.draw({"toy/walk": results}).axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert set(drawn) == {*CHOSEN, PERSISTENCE}
    for result in results:
        assert drawn[result["form"]] == forms_curves.curve_of(result, MODEL).tolist()
    monkeypatch.setattr("sys.argv", ["forms_curves", str(study / "out"), "--out", str(study / "forms.png")])
    assert forms_curves.main() == 0
    assert (study / "forms.png").read_bytes().startswith(b"\x89PNG")
