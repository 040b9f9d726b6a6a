"""Errors by kind, agent and horizon, also beyond an early end; and a page that warns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dima.analysis.imagine.compare import compare
from dima.analysis.imagine.page import save
from dima.analysis.imagine.results import Imagination, evaluate_comparison
from dima.runtime.progress import Progress
from dima.runtime.verdicts import Verdict

RUN = {"algorithm": "dima", "task": "stride", "run": "runs/stride"}


@pytest.fixture
def examine(stride, drifting_model, policy):
    """Compares an imagined trajectory with a drift."""

    def run(drift: float, horizons: list[int], goal: float = np.inf, actions="recorded"):
        env = stride(goal=goal)
        found = compare(
            env, drifting_model(env.spec, drift), policy, seed=2, horizons=horizons, actions=actions, start=0
        )
        kinds = ["position", "place"]
        return evaluate_comparison(
            found,
            unit="paces",
            spec=env.spec,
            kinds=kinds,
            run=RUN,
            actions=actions,
            pictures=None,
            no_pictures="No paint.",
        )

    return run


def written(imagination: Imagination, folder: Path) -> str:
    """The page, as text."""
    return save(imagination, folder, 10, Progress()).read_text()


def test_errors_by_feature_agent_and_horizon(examine) -> None:
    found = examine(0.25, [2, 8])
    np.testing.assert_allclose(found.state_error, 0.25 * np.arange(9), atol=1e-4)
    np.testing.assert_allclose(found.kind_errors["place"], 0.25 * np.arange(9), atol=1e-4)
    np.testing.assert_allclose(found.obs_error, 0.25 * np.arange(9)[:, None] * np.ones(2), atol=1e-4)
    near, far = found.horizons
    assert (near.steps, near.compared, far.steps, far.compared) == (2, 2, 8, 8)
    assert far.state_error == pytest.approx(2.0, abs=1e-4) and far.state_error_sum == pytest.approx(9.0, abs=1e-3)
    assert far.state_persistence == pytest.approx(found.comparison.persistence_error("state")[8].mean())
    assert far.state_persistence_sum == pytest.approx(found.comparison.persistence_error("state").mean(1).sum())
    assert near.obs_error == pytest.approx(0.5, abs=1e-4)
    assert near.obs_persistence == pytest.approx(found.obs_persistence[2].mean())
    assert far.imagined_reward - far.real_reward == pytest.approx(9.0, abs=1e-3)
    assert found.findings[0] == (
        f"2 steps: state error {near.state_error_sum / 2:.3g} on average, {near.state_error:.3g} at the end "
        f"(persistence: {near.state_persistence_sum / 2:.3g} and {near.state_persistence:.3g}), "
        f"reward {near.imagined_reward:.4g} imagined, {near.real_reward:.4g} real"
    )


def test_horizons_beyond_an_early_end_are_compared_up_to_it(examine, tmp_path: Path) -> None:
    length = len(examine(0.0, [1], goal=2.0).comparison.real)
    assert length == 1
    found = examine(2.0, [1, 6], goal=2.0, actions="policy")
    ended = len(found.comparison.real)
    assert ended < 6
    assert found.horizons[1].compared == ended
    assert found.findings[1].startswith(f"6 steps (the real episode ended after {ended}): ")
    page = written(found, tmp_path / "out")
    assert f"The real episode ended after {ended} steps." in page
    json.loads((tmp_path / "out" / "imagination.json").read_text())


def test_verdicts(examine, tmp_path: Path) -> None:
    good = examine(0.0, [4])
    limits = "within 0.5 standard deviations and closer than the last state repeated"
    assert [str(verdict) for verdict in good.verdicts[:2]] == [
        f"✓ State: follows reality for all 4 steps, {limits}",
        f"✓ Observations: follows reality for all 4 steps, {limits}",
    ]
    assert str(good.verdicts[2]).startswith("✓ Reward: ") and len(good.verdicts) == 3
    bad = examine(9.0, [4, 6])
    assert [str(verdict) for verdict in bad.verdicts[:2]] == [
        "⚠ State: worse than the last state repeated over 4, 6 steps",
        "⚠ Observations: worse than the last state repeated over 4, 6 steps",
    ]
    assert bad.verdicts[0].severity == "grave" and bad.verdicts[2].sentence.startswith("Reward: ")
    assert bad.to_dict()["verdicts"][0] == {"severity": "grave", "sentence": bad.verdicts[0].sentence}
    page = written(bad, tmp_path / "bad")
    assert page.index(bad.verdicts[0].sentence) < page.index("<nav")
    assert "There are no pictures. No paint." in page
    assert "in paces" in page and "runs/stride" not in page


def test_ends_are_judged(examine) -> None:
    found = examine(2.0, [1, 6], goal=2.0, actions="policy")
    ended = len(found.comparison.real)
    assert 1 < ended < 6
    missed = f"Termination: the real episode ends at step {ended}, the imagined one goes on"
    assert Verdict("grave", missed) in found.verdicts
    for step, said in (
        (ended, Verdict("good", f"Termination: at step {ended}, as imagined")),
        (1, Verdict("grave", "Termination: imagined at step 1, where the real episode goes on")),
    ):
        continuation = np.where(np.arange(1, 7) == step, 0.2, 0.9)
        other = replace(found.comparison, imagined=replace(found.comparison.imagined, continuation=continuation))
        assert said in replace(found, comparison=other).verdicts


def test_errors_are_in_standard_deviations(examine) -> None:
    plain = examine(0.25, [4])
    scaled = replace(plain.comparison, state_scale=np.array([1.0, 5.0]), obs_scale=np.full((2, 2), 10.0))
    np.testing.assert_allclose(scaled.error("state"), plain.comparison.error("state") / [1, 5])
    np.testing.assert_allclose(scaled.persistence_error("obs"), plain.comparison.persistence_error("obs") / 10)
