"""Files of `dima imagine`: numbers, film, filmstrip, and a self-contained page with all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dima.analysis.html.figures import BASELINE_LINE, IMAGINED_LINE, REAL_LINE, plot, plots
from dima.analysis.html.page import Page
from dima.analysis.imagine.canvas import Kind, png, stack
from dima.analysis.imagine.pictures import encode_film
from dima.analysis.imagine.results import Imagination
from dima.analysis.targets import STATE
from dima.runtime.progress import Progress
from dima.storage.atomic import write_bytes, write_errors, write_text

DATA, PAGE, STRIP = "imagination.json", "imagination.html", "strip.png"
_FEATURES = 6  # of observations, at most, that are drawn
FILMS: dict[Kind, str] = {"mp4": "imagination.mp4", "webp": "imagination.webp"}


def save(imagination: Imagination, folder: Path, progress: Progress, webp: bool = False) -> Path:
    """Write ``imagination.json``, ``imagination.html``, and with pictures ``imagination.mp4`` and ``strip.png``.

    Args:
        imagination: the results.
        folder: created when missing; earlier files in it are replaced.
        progress: shows the frames drawn.
        webp: with pictures also write ``imagination.webp``.

    Returns:
        The page's path.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    pictures = imagination.pictures
    films: dict[Kind, bytes] = {}
    if pictures is not None:
        kinds: list[Kind] = ["mp4", "webp"] if webp else ["mp4"]
        films = encode_film(pictures.frames(), pictures.fps, progress, len(pictures), kinds)
    strips = {h: pictures.strip(h) for h in imagination.comparison.horizons} if pictures is not None else {}
    with write_errors(folder, "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DATA, json.dumps(imagination.to_dict(), indent=1, allow_nan=False) + "\n")
        for name in (*FILMS.values(), STRIP):  # of an earlier call that had pictures
            (folder / name).unlink(missing_ok=True)
        for kind, film in films.items():
            write_bytes(folder / FILMS[kind], film)
        if strips:
            write_bytes(folder / STRIP, png(stack(list(strips.values()))))
    build_page(imagination, films.get("mp4"), strips).save(folder / PAGE)
    return folder / PAGE


def build_page(imagination: Imagination, film: bytes | None, strips: dict[int, np.ndarray]) -> Page:
    """The page, without writing it.

    Args:
        imagination: the results.
        film: as MP4, if there is one.
        strips: by horizon.
    """
    comparison, run = imagination.comparison, imagination.run
    actions = {
        "recorded": "from the actions that the policy took in the real episode",
        "policy": "with the policy acting on imagined observations; the real environment was then given its actions",
    }[imagination.actions]
    page = Page(
        f"Imagined and real: {run['algorithm']} on {run['task']}",
        f"From step {comparison.start} of a fresh episode the world model imagined {len(comparison.imagined)} steps, "
        f"{actions}. After the start it observed nothing real. One episode is an example; a diagnosis takes many.",
        imagination.verdicts,
    )
    page.section("Numbers")
    page.facts(dict(sentence.split(": ", 1) for sentence in imagination.findings))
    pictures = imagination.pictures
    if film is None or pictures is None:
        page.notice(f"There are no pictures. {imagination.no_pictures}")
    else:
        page.section("Film")
        if imagination.no_pictures:
            page.notice(f"There are no imagined pictures. {imagination.no_pictures}")
        page.video(film, "film", f"{pictures.caption} {_definition(imagination)}")
        page.section("Filmstrips")
        for horizon, strip in strips.items():
            rows = "real" if imagination.no_pictures else "real above imagined"
            caption = f"Evenly spaced steps up to step {horizon}, {rows}."
            page.image(png(strip), f"strip-{horizon}", caption, wide=True)
    if STATE not in imagination.errors:
        _observations(page, imagination)
    _errors(page, imagination)
    _rewards(page, imagination)
    page.section("Protocol")
    facts = {"episode's seed": comparison.seed, "first step": comparison.start, "actions": imagination.actions}
    page.facts({**run, "run": Path(run["run"]).name, **facts})
    return page


def _observations(page: Page, imagination: Imagination) -> None:
    """Imagined beside real ones, in place of pictures."""
    comparison, names = imagination.comparison, imagination.spec.obs_names
    valid, steps = imagination.spec.obs_valid, np.arange(comparison.steps + 1)
    real, imagined = (one.obs[: len(steps), valid].T for one in (comparison.real, comparison.imagined))  # (F, T + 1)
    spread = (comparison.real.obs.std(0) / comparison.obs_scale)[valid]
    shown: list[int] = []
    for feature in np.argsort(-spread, kind="stable").tolist():
        copied = any(np.array_equal(real[feature], real[other]) for other in shown)  # agents often see the same
        if spread[feature] > 0 and not copied and len(shown) < _FEATURES:
            shown.append(feature)
    if not shown:
        return
    rows = -(-len(shown) // 2)
    figure, grid = plots(rows, 2, height=0.8 + 1.6 * rows, sharex=True)
    for axes, feature in zip(grid.flat, shown, strict=False):
        axes.plot(steps, real[feature], label="real", **REAL_LINE)
        axes.plot(steps, imagined[feature], label="imagined", **IMAGINED_LINE)
        axes.set_title(names[feature])
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    figure.supxlabel("imagined steps", fontsize=11)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=10, frameon=False
    )
    page.section("Observations")
    caption = "Features that vary most in the real episode, by agent and number, in the environment's units."
    page.figure(figure, "observations", caption)


def _definition(imagination: Imagination) -> str:
    return (
        f"Errors are mean absolute errors over features, in {imagination.unit}. Persistence is the baseline that "
        "predicts that nothing changes after the start."
    )


def _errors(page: Page, imagination: Imagination) -> None:
    found = imagination.horizons
    page.section("Error", _definition(imagination))
    compared, summed = [f.compared for f in found], {}

    def rows(target: str, error: np.ndarray, persistence: np.ndarray) -> dict[str, list[float]]:
        return {target: error[compared].tolist(), f"{target}, persistence": persistence[compared].tolist()}

    ends = {name: row for target, pair in imagination.errors.items() for name, row in rows(target, *pair).items()}
    _table(page, imagination, ends, "Error after each number of steps.")
    for target, (error, persistence) in imagination.errors.items():
        steps = np.arange(len(error))
        pair = [Line("imagined", steps, error, IMAGINED_LINE), Line("persistence", steps, persistence, BASELINE_LINE)]
        summed[target] = [replace(line, values=line.values.cumsum()) for line in pair]
        page.figure(_curves(imagination, "error", pair), f"error-{target}", f"Error of the {target} after each step.")
    if len(imagination.kind_errors) > 1:
        lines = [Line(kind, steps, error) for kind, error in imagination.kind_errors.items()]
        caption = "Error of the state by kind of feature."
        page.figure(_curves(imagination, "error", lines), "error-kinds", caption)
    with page.fold("Errors summed over steps"):
        main, (imagined, persistent) = next(iter(summed.items()))
        sums = rows(main, imagined.values, persistent.values)
        _table(page, imagination, sums, "Sum of the errors up to each number of steps.")
        for target, pair in summed.items():
            caption = f"Error of the {target}, summed over steps."
            page.figure(_curves(imagination, "sum of errors", pair), f"error-{target}-summed", caption)


def _rewards(page: Page, imagination: Imagination) -> None:
    real, imagined = imagination.comparison.real, imagination.comparison.imagined
    page.section("Reward")
    found = imagination.horizons
    rows = {
        "summed reward, imagined": [f.imagined_reward for f in found],
        "summed reward, real": [f.real_reward for f in found],
    }
    for name, (real_values, imagined_values) in imagination.measures.items():
        rows[f"{name}, imagined"] = [float(imagined_values[f.compared]) for f in found]
        rows[f"{name}, real"] = [float(real_values[f.compared]) for f in found]
    measures = f" and {', '.join(imagination.measures)}" if imagination.measures else ""
    _table(page, imagination, rows, f"Summed reward{measures} after each number of steps.")
    pair = [
        Line(name, np.arange(1, len(trajectory) + 1), trajectory.reward, style)
        for name, trajectory, style in (("real", real, REAL_LINE), ("imagined", imagined, IMAGINED_LINE))
    ]
    page.figure(_curves(imagination, "reward", pair), "reward", "The reward after each step.")
    with page.fold("Rewards summed over steps"):
        sums = [replace(line, values=line.values.cumsum()) for line in pair]
        page.figure(_curves(imagination, "sum of rewards", sums), "sum-of-rewards", "The sum of rewards.")


def _table(page: Page, imagination: Imagination, rows: dict[str, list[float]], caption: str) -> None:
    """A column for each horizon."""
    comparison = imagination.comparison
    length = len(comparison.real)
    ended = "" if length == len(comparison.imagined) else f"The real episode ended after {length} steps."
    head = ["", *(f"{steps} steps" for steps in comparison.horizons)]
    page.table(head, [[name, *values] for name, values in rows.items()], caption, ended)


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    style: Mapping[str, Any] = field(default_factory=dict)  # by default the palette's next


def _curves(imagination: Imagination, label: str, lines: list[Line]) -> Figure:
    """Lines over steps, with a mark at each horizon."""
    figure, axes = plot(4.8, 3.2, xlabel="imagined steps", ylabel=label)
    for line in lines:
        axes.plot(line.steps, line.values, label=line.name, **line.style)
    for horizon in imagination.comparison.horizons[:-1]:
        axes.axvline(horizon, color="black", alpha=0.25, linewidth=0.8, linestyle="-")
    figure.legend(loc="outside upper left", ncols=min(2, len(lines)), fontsize=10, frameon=False)
    return figure
