"""Training on two hands: every algorithm runs, a stopped run ends as an uninterrupted one, metrics are logged."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies.kill import contents, differences
from dima.cli import main
from dima.storage.run_folder import RunFolder
from dima.training.online import resume, train
from tests.reliability.test_resume import Interrupted, Power, pull_plug

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = {"steps": 260, "evaluate_every": 130}


def test_a_run_killed_within_an_episode_ends_like_an_uninterrupted_one(tiny, capsys) -> None:
    whole, again = (tiny("dexhands/pen", "mappo", run, learner={"rollout": 20}, **SHORT) for run in ("whole", "again"))
    assert train(whole).finished
    with pytest.raises(Power):
        train(again, progress=Interrupted("update", 6, pull_plug))
    assert resume(again.folder).finished
    assert not differences(contents(whole.folder), contents(again.folder))
    logged = [record for record in RunFolder.open(whole.folder).records() if "evaluate/return" in record]
    assert logged and all(record["evaluate/success"] == 0 for record in logged)
    assert main(["evaluate", str(whole.folder), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"success": [0.0]}
    assert main(["evaluate", str(whole.folder), "--episodes", "1"]) == 0
    assert "success 0 on average" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["dima", "hasac"])
def test_learners_run_on_two_hands(tiny, algorithm: str) -> None:
    config = tiny("dexhands/bottle-cap", algorithm, **SHORT)
    summary = train(config)
    assert summary.finished and len(summary.evaluations) >= 2
