"""Models that imagine observations alone: no errors of the state, no imagined pictures, the rest as ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dima.analysis.imagine.compare import Comparison, compare
from dima.analysis.imagine.page import build_page
from dima.analysis.imagine.pictures import Pictures
from dima.analysis.imagine.results import evaluate_comparison
from dima.errors import DivergenceError


@pytest.fixture
def blind(stride, drifting_model, policy, dots):
    """Compares what a model imagines that is off by 0.25 more at every step, and sees no state."""

    class Blind(drifting_model):
        predicts_state = False

        def observe(self, latent):
            view = super().observe(latent)
            return replace(view, state=torch.full_like(view.state, torch.nan))

    def run(drift: float = 0.25, model=Blind, horizons=(2, 8)) -> tuple[Comparison, object]:
        env = stride()
        scene = dots(env)
        found = compare(env, model(env.spec, drift), policy, seed=2, horizons=horizons, start=0, scene=scene)
        pictures = Pictures(found, scene, "stride", fps=5)
        return found, evaluate_comparison(
            found,
            unit="paces",
            spec=env.spec,
            kinds=["position", "place"],
            run={"algorithm": "blind", "task": "stride", "run": "runs/stride"},
            actions="recorded",
            pictures=pictures,
            no_pictures="No state.",
        )

    return run


def test_what_needs_no_state_is_that_of_a_model_that_predicts_it(blind, drifting_model) -> None:
    (found, without), (other, with_state) = blind(), blind(model=drifting_model)
    assert found.imagined.state is None and other.imagined.state is not None
    assert np.array_equal(found.imagined.obs, other.imagined.obs)
    assert np.array_equal(without.obs_error, with_state.obs_error)
    assert list(without.errors) == ["observations"] and list(with_state.errors) == ["state", "observations"]
    assert without.verdicts == [verdict for verdict in with_state.verdicts if not verdict.sentence.startswith("State")]
    near, far = without.horizons
    assert (near.state_error, near.state_persistence_sum) == (None, None)
    assert far.obs_error == with_state.horizons[1].obs_error
    plain, full = without.to_dict(), with_state.to_dict()
    assert {name for name in full["steps"] if name not in plain["steps"]} == {
        "state_error",
        "state_persistence",
        "state_error_by_kind",
    }


def test_the_film_shows_the_real_episode_alone(blind) -> None:
    found, imagination = blind()
    assert found.imagined.poses == [] and len(found.real.poses) == 9
    pictures = imagination.pictures
    assert pictures.caption == "The real episode alone; real time, 5 steps/s."
    assert len(pictures[3]) == 1 and pictures.measures() == {}
    pictures.frame(8)
    pictures.strip(8)
    html = build_page(imagination, b"film", {}).html()
    assert "There are no imagined pictures. No state." in html and "this world model predicts observations only" in html


def test_observations_that_vary_most_are_drawn_once_each(blind) -> None:
    _, imagination = blind()
    page = build_page(imagination, None, {})
    (figure,) = [figure for name, figure in page._figures.items() if name == "observations"]
    assert [axes.get_title() for axes in figure.axes] in (["a:0", "a:1"], ["a:1", "a:0"])  # b:0 is a:1 once more
    real, imagined = figure.axes[0].lines
    feature = int(figure.axes[0].get_title()[-1])
    assert np.array_equal(real.get_ydata(), imagination.comparison.real.obs[:, 0, feature])
    assert np.array_equal(imagined.get_ydata(), imagination.comparison.imagined.obs[:, 0, feature])


def test_observations_that_are_not_finite_are_refused(blind) -> None:
    with pytest.raises(DivergenceError, match="NaN or infinite numbers from step 1 on"):
        blind(drift=float("inf"))
