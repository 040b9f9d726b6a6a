"""A run resumed under another MuJoCo version: it warns, records both, and reports them with its returns."""

import json

import pytest

from dima.analysis.report.build import report
from dima.cli import main
from dima.runtime import provenance
from dima.storage.run_folder import RunFolder
from dima.training.online import resume, train
from dima.training.run_config import build_config

INSTALLED = provenance.package_version("mujoco")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A short run on MuJoCo, as if an older version had simulated it."""
    small = {"steps": 64, "evaluation_episodes": 1, "tensorboard": False, "env": {"episode_limit": 20}}
    folder = tmp_path_factory.mktemp("begun") / "run"
    config = build_config("mamujoco/hopper-3x1", "mappo", "debug", small | {"run": str(folder)})
    assert f"MuJoCo {INSTALLED}" in train(config).table()
    record = folder / "protocol.json"
    facts = json.loads(record.read_text())
    facts["packages"]["mujoco"] = "3.2.0"
    record.write_text(json.dumps(facts))
    return folder


def test_an_evaluation_names_the_versions_of_evaluation_and_training(begun, capsys):
    assert main(["evaluate", str(begun), "--episodes", "1"]) == 0
    assert f"MuJoCo {INSTALLED}, trained under 3.2.0)" in capsys.readouterr().out
    assert main(["evaluate", str(begun), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mujoco"] == {"evaluated": INSTALLED, "trained": ["3.2.0"]}


def test_a_resume_warns_in_one_line_and_records_both(begun, tmp_path, capsys):
    before = (begun / "protocol.json").read_text()
    with RunFolder.open(begun) as folder:
        steps = folder.records()[-1]["step"]
    assert main(["resume", str(begun), "--steps", "128"]) == 0
    out, err = capsys.readouterr()
    warnings = [line for line in err.splitlines() if "MuJoCo" in line]
    assert warnings == [
        f"dima: MuJoCo 3.2.0 simulated the steps up to {steps}, {INSTALLED} simulates the rest: returns may differ; "
        "protocol.json records both"
    ]
    assert f"MuJoCo 3.2.0, then {INSTALLED}" in out
    facts = json.loads((begun / "protocol.json").read_text())
    (resumed,) = facts.pop("resumed")
    assert facts == json.loads(before)
    assert (resumed["step"], resumed["packages"]["mujoco"]) == (steps, INSTALLED)

    assert main(["resume", str(begun), "--steps", "192", "--quiet"]) == 0  # the same version again
    assert "MuJoCo" not in capsys.readouterr().err
    assert len(json.loads((begun / "protocol.json").read_text())["resumed"]) == 1

    done = report([begun], tmp_path)
    assert f"MuJoCo 3.2.0 and {INSTALLED}" in done.summary()
    assert any("mix versions of MuJoCo" in verdict["sentence"] for verdict in done.to_dict()["verdicts"])
    assert f"3.2.0 and {INSTALLED}" in done.table.read_text().splitlines()[1]
    assert f"3.2.0 and {INSTALLED}" in done.page.read_text()


def test_resuming_a_finished_run_records_nothing(begun):
    before = (begun / "protocol.json").read_bytes()
    assert resume(begun).finished
    assert (begun / "protocol.json").read_bytes() == before
