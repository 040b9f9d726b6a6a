"""Film frames and strips of an imagination: which pictures, and what is written on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dima.analysis.imagine import pictures as module
from dima.analysis.imagine.compare import compare
from dima.analysis.imagine.pictures import Pictures, episode_frames, frames_per_second, speed
from dima.analysis.imagine.time_steps import policy_actions
from dima.envs.render.colors import PALETTE
from dima.envs.render.rendered import RenderedScene


@pytest.fixture
def written(monkeypatch) -> list[Any]:
    """What frames and strips are asked to show."""
    kept: list[Any] = []

    def keep(title, panels, *legend):
        kept.append((title, panels))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(module, "frame", keep)
    monkeypatch.setattr(module, "strip", keep)
    return kept


@pytest.fixture
def drifting(stride, drifting_model, policy, dots):
    """Pictures of an imagination that is off by 0.25 more at every step."""
    env = stride()
    found = compare(env, drifting_model(env.spec, drift=0.25), policy, seed=2, horizons=[3, 10], scene=dots(env))
    return found, Pictures(found, dots(env), "stride", fps=2.5)


def test_every_step_has_a_real_and_an_imagined_picture(drifting) -> None:
    found, pictures = drifting
    assert len(pictures) == 11 == len(list(pictures.frames()))
    real, imagined = pictures[0]
    assert np.array_equal(real, imagined)
    for trajectory, picture in zip((found.real, found.imagined), pictures[10], strict=True):
        assert picture[0, 0, 0] == int(np.clip(128 + 10 * trajectory.state[10, 0], 0, 255))
    shapes = {frame.shape for frame in pictures.frames()}
    assert len(shapes) == 1


def test_step_error_and_reward_stand_on_every_frame(drifting, written) -> None:
    found, pictures = drifting
    pictures.frame(0)
    pictures.frame(4)
    (start, _), (title, (real, imagined)) = written
    assert start == "stride, step 0 of 10"
    assert title == "stride, step 4 of 10"
    assert (real.name, imagined.name) == ("real", "imagined")
    assert real.caption[0] == f"reward {found.real.reward[3]:.3g}, sum {found.real.reward[:4].sum():.4g}"
    assert imagined.caption[0] == f"reward {found.imagined.reward[3]:.3g}, sum {found.imagined.reward[:4].sum():.4g}"
    assert real.caption[2] == f"x = {found.real.state[4, 0]:.2f}"
    persistence = np.abs(found.real.state[4] - found.real.state[0]).mean()
    assert imagined.caption[1] == f"error 1, persistence {persistence:.3g}"
    assert real.caption[1] == "0.5x real time, 2.5 steps/s"
    assert pictures.caption == "Left real, right imagined; 0.5x real time, 2.5 steps/s."
    assert written[0][1][0].caption[0] == "start"


def test_a_strip_shows_a_few_steps_evenly(drifting, written) -> None:
    found, pictures = drifting
    pictures.strip(10, width=8)
    pictures.strip(3, width=8)
    (title, (real, imagined)), (_, (short, _)) = written
    assert title == "stride: 10 steps"
    assert [panel.caption[0] for panel in real] == [f"step {step}" for step in (0, 2, 4, 6, 8, 10)]
    assert imagined[2].caption == ["step 4, error 1", f"reward {found.imagined.reward[3]:.3g}"]
    assert {panel.picture.shape for panel in (*real, *imagined)} == {(6, 8, 3)}
    assert len(short) == 4


def test_after_an_early_end_the_last_real_picture_stays(stride, drifting_model, policy, dots, written) -> None:
    env = stride(goal=2.0)
    found = compare(
        env, drifting_model(env.spec, 2.0), policy, seed=2, horizons=[6], actions="policy", start=0, scene=dots(env)
    )
    pictures, last = Pictures(found, dots(env), "stride", fps=5), len(found.real)
    assert last < 6
    assert np.array_equal(pictures[6][0], pictures[last][0])
    pictures.frame(last)
    pictures.frame(last + 1)
    (_, (ending, _)), (_, (ended, imagined)) = written
    assert ending.caption[2].endswith("terminated")
    assert ended.caption[0] == f"ended after step {last}"
    assert imagined.caption[1] == ""
    assert len(ended.caption) == len(ending.caption) == len(imagined.caption)
    pictures.strip(6)
    assert "error" not in written[-1][1][1][-1].caption[0]


@pytest.mark.parametrize(
    ("seconds", "fps", "text"),
    [
        (0.05, 10, "0.5x real time, 10 steps/s"),
        (0.05, 20, "real time, 20 steps/s"),
        (0.008, 25, "0.2x real time, 25 steps/s"),
        (0.0, 25, "25 steps/s"),
    ],
)
def test_the_speed_is_stated(stride, dots, seconds: float, fps: float, text: str) -> None:
    scene = dots(stride())
    scene.seconds = seconds
    assert speed(fps, scene) == text


def test_an_evaluation_is_filmed_in_real_time_up_to_a_limit(stride, dots) -> None:
    scene = dots(stride())
    assert frames_per_second(scene) == 5
    scene.seconds = 0.001
    assert frames_per_second(scene) == 25


def test_agents_of_a_scene_stand_in_the_legend(stride, dots, policy, monkeypatch) -> None:
    legends = []
    monkeypatch.setattr(module, "frame", lambda title, panels, legend: legends.append(legend))
    env = stride()
    scene = dots(env)
    scene.agents = ("a", "b")
    next(episode_frames(env, 0, policy_actions(policy, "cpu"), scene, "stride", 5))
    assert legends == [dict(zip("ab", PALETTE, strict=False))]


def test_where_imagined_states_cannot_be_drawn_the_real_ones_are(stride, drifting_model, policy, written) -> None:
    env = stride()
    env.render = lambda: np.full((12, 16, 3), env.parallel_env.steps, np.uint8)
    scene = RenderedScene(env, 16)
    found = compare(env, drifting_model(env.spec, drift=0.25), policy, seed=2, horizons=[4], start=3, scene=scene)
    pictures = Pictures(found, scene, "stride", fps=10)
    assert [picture[0, 0, 0] for step in range(5) for picture in pictures[step]] == [3, 4, 5, 6, 7]
    assert found.imagined.poses == [] and pictures.measures() == {}
    assert pictures.caption == "The real episode alone; 10 steps/s."
    pictures.frame(4)
    pictures.strip(4)
    (_, panels), (_, rows) = written
    assert [panel.name for panel in panels] == ["real"]
    assert [[panel.name for panel in row] for row in rows] == [["real"] * 5]


def test_measures_of_both(drifting) -> None:
    found, pictures = drifting
    real, imagined = pictures.measures()["x"]
    np.testing.assert_array_equal(real, found.real.state[:, 0])
    np.testing.assert_array_equal(imagined, found.imagined.state[:, 0])
