"""An imagination in numbers and words: errors by kind and agent, horizons beyond an early end, a page that warns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dima.analysis.imagine.compare import beside
from dima.analysis.imagine.imagination import examined

RUN = {"algorithm": "dima", "task": "stride", "run": "runs/stride"}


@pytest.fixture
def examine(stride, believer, policy):
    """Imagines with a drift and says how far that is off."""

    def run(drift: float, horizons: list[int], goal: float = np.inf, acting="recorded"):
        env = stride(goal=goal)
        found = beside(env, believer(env.spec, drift), policy, seed=2, horizons=horizons, acting=acting, start=0)
        kinds = ["position", "place"]
        return examined(found, spec=env.spec, kinds=kinds, run=RUN, acting=acting, pictures=None, unseen="No paint.")

    return run


def test_errors_by_feature_agent_and_horizon(examine) -> None:
    told = examine(0.25, [2, 8])
    np.testing.assert_allclose(told.state_error, 0.25 * np.arange(9), atol=1e-4)
    np.testing.assert_allclose(told.kinds["place"], 0.25 * np.arange(9), atol=1e-4)
    np.testing.assert_allclose(told.obs_error, 0.25 * np.arange(9)[:, None] * np.ones(2), atol=1e-4)
    near, far = told.horizons()
    assert (near.steps, near.compared, far.steps, far.compared) == (2, 2, 8, 8)
    assert far.state == pytest.approx(2.0, abs=1e-4) and far.state_sum == pytest.approx(9.0, abs=1e-3)
    assert far.state_unchanged == pytest.approx(told.beside.gap_unchanged("state")[8].mean())
    assert far.state_unchanged_sum == pytest.approx(told.beside.gap_unchanged("state").mean(1).sum())
    assert near.obs == pytest.approx(0.5, abs=1e-4)
    assert near.obs_unchanged == pytest.approx(told.obs_unchanged[2].mean())
    assert far.reward - far.real_reward == pytest.approx(9.0, abs=1e-3)
    assert told.findings()[0] == (
        f"2 steps: state error {near.state_sum / 2:.3g} on average, {near.state:.3g} at the end (had nothing changed "
        f"{near.state_unchanged_sum / 2:.3g} and {near.state_unchanged:.3g}), "
        f"reward {near.reward:.4g} imagined, {near.real_reward:.4g} real"
    )


def test_horizons_beyond_an_early_end_are_compared_up_to_it(examine, tmp_path: Path) -> None:
    length = len(examine(0.0, [1], goal=2.0).beside.real)
    assert length == 1
    told = examine(2.0, [1, 6], goal=2.0, acting="policy")
    ended = len(told.beside.real)
    assert ended < 6
    assert told.horizons()[1].compared == ended
    assert told.findings()[1].startswith(f"6 steps (the real episode ended after {ended}): ")
    page = told.save(tmp_path / "out").read_text()
    assert f"The real episode ended after {ended} steps." in page
    json.loads((tmp_path / "out" / "imagination.json").read_text())


def test_the_page_warns_of_a_model_worse_than_none(examine, tmp_path: Path) -> None:
    assert "than one that never changes" not in examine(0.0, [4]).save(tmp_path / "good").read_text()
    page = examine(9.0, [4, 6]).save(tmp_path / "bad").read_text()
    assert "Over 4, 6 steps the imagined state was further from the truth" in page
    assert "There are no pictures. No paint." in page
    assert '<figure id="error-kinds">' in page
