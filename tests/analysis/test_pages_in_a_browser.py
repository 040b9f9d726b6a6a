"""The pages of `dima diagnose`, `imagine` and `report`, opened from their files in Chromium without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dima
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.html.page import Page, plot
from dima.training.online import train
from dima.training.run_config import build_config
from tests.analysis.report.conftest import write_run as write_run
from tests.browser import NAMES, browser, look, measure

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(browser() is None, reason=f"no browser is installed: none of {', '.join(NAMES)}"),
]
PHONE, DESK = 390, 1200
DARK = "--blink-settings=preferredColorScheme=0"
PLOTS = {
    "diagnosis": {
        *("error-state", "error-state-summed", "error-observations", "error-observations-summed"),
        *("error-state-parts", "error-state-parts-summed", "error-observations-parts"),
        *("error-observations-parts-summed", "error-sources", "rank-histogram", "coverage", "spread-skill"),
        *("reward-error", "reward-steps", "reward-bias", "return-scatter", "return-correlation"),
        *("order-sensitivity", "denoising-agents", "denoising-levels", "influence", "termination-reliability"),
    },
    "imagination": {
        *("film", "strip-2", "strip-4", "error-state", "error-state-summed", "error-observations"),
        *("error-observations-summed", "error-kinds", "reward", "sum-of-rewards"),
    },
    "report": {
        *("curve-0-toy-linear", "curve-1-toy-walk", "interquartile-mean", "interquartile-mean-over-steps"),
        *("performance-profile", "probability-of-improvement"),
    },
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory, write_run) -> dict[str, Path]:
    """One of each kind."""
    root = tmp_path_factory.mktemp("pages")
    fixed = {"run": str(root / "run"), "device": "cpu", "threads": 1, "tensorboard": False, "steps": 150}
    agent = dima.load(train(build_config("mpe/simple_spread", "dima", "debug", fixed)).folder, "cpu")
    settings = DiagnosisConfig(episodes=3, segments=8, horizon=5, samples=4, calibration_segments=6, orders=2, starts=3)
    for task in ("toy/walk", "toy/linear"):
        for algorithm in ("dima", "mappo"):
            for seed in range(3):
                returns = [float(seed), 1.0 + seed, 2.5 * len(algorithm)]
                write_run(
                    root / "runs", f"{task}-{algorithm}{seed}", returns, task=task, algorithm=algorithm, seed=seed
                )
    dima.diagnose(agent, settings, out=root / "diagnosis")
    dima.imagine(agent, [2, 4], start=0, width=96, out=root / "imagination")
    return {
        "diagnosis": root / "diagnosis" / "diagnosis.html",
        "imagination": root / "imagination" / "imagination.html",
        "report": dima.report(root / "runs", root / "report").page,
    }


@pytest.mark.parametrize("kind", PLOTS)
def test_a_page_opens_without_a_complaint_and_asks_for_nothing(pages, kind, tmp_path) -> None:
    seen = look(pages[kind], tmp_path)
    assert seen.console == [] and seen.requests == []
    assert set(re.findall(r'<figure id="([^"]+)"', seen.html)) == PLOTS[kind]


@pytest.mark.parametrize(("width", "flags"), [(PHONE, (DARK,)), (DESK, ())], ids=["dark phone", "desk"])
@pytest.mark.parametrize("kind", PLOTS)
def test_every_plot_is_there_and_nothing_sticks_out(pages, kind, width, flags, tmp_path) -> None:
    found = measure(pages[kind], tmp_path, width, *flags)
    assert found["window"] == found["content"] == width
    ground, ink = (sum(map(int, re.findall(r"\d+", found[name]))) for name in ("ground", "ink"))
    assert (ground < ink) == bool(flags)
    assert set(found["figures"]) == PLOTS[kind]
    for name, part in found["figures"].items():
        assert min(part["box"]) > 60 and min(part["caption"]) > 10, name
        assert part["kind"] == ("video" if name == "film" else "img" if name.startswith("strip") else "svg")
        if part["kind"] != "svg":
            assert min(part["own"]) > 60, f"{name} could not be decoded"
    strips = [part["box"][0] for name, part in found["figures"].items() if name.startswith("strip")]
    assert all(shown > 600 for shown in strips), "a phone shrinks a filmstrip until nobody can read it"


def test_a_page_that_complains_or_loads_something_would_be_noticed(tmp_path) -> None:
    figure, _ = plot()
    page = Page("title")
    page.figure(figure, "plot", "caption")
    page.save(tmp_path / "good.html")
    html = (tmp_path / "good.html").read_text()
    inside = '<script>nowhere()</script><img src="http://example.com/picture.png"></body>'
    bad = tmp_path / "bad.html"
    bad.write_text(html.replace("</body>", inside))
    (tmp_path / "guarded").mkdir()
    guarded = look(bad, tmp_path / "guarded")
    assert len(guarded.console) == 2 and guarded.requests == []  # the page's own policy forbids both
    bad.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", inside))
    (tmp_path / "open").mkdir()
    seen = look(bad, tmp_path / "open")
    assert seen.console == ["Uncaught ReferenceError: nowhere is not defined"]
    assert seen.requests == ["http://example.com/picture.png"]
