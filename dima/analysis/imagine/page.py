"""An imagination as files: numbers, film, strip, and one self-contained page that shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dima.analysis.html.figures import PALETTE, plot
from dima.analysis.html.page import Page
from dima.analysis.imagine.canvas import stack
from dima.analysis.imagine.encode import mp4, png
from dima.analysis.imagine.imagination import Imagination
from dima.analysis.imagine.pictures import IMAGINED, REAL, Pictures
from dima.runtime.progress import Progress
from dima.storage.atomic import disk_errors, write_bytes, write_text

DATA, PAGE, FILM, STRIP = "imagination.json", "imagination.html", "imagination.mp4", "strip.png"
_STANDING = PALETTE[5]  # colour of a world where nothing changes
_LEGEND = (
    "An error is the mean absolute difference of a feature, in the environment's units; beside it stands that of a "
    "world where nothing changes after the start."
)


def save(imagination: Imagination, folder: Path, fps: float, progress: Progress) -> Path:
    """Write everything, each file in one step; the answer is the page's path. See :meth:`Imagination.save`."""
    pictures = imagination.pictures
    film = _film(pictures, fps, progress) if pictures is not None else None
    strips = {h: pictures.strip(h) for h in imagination.beside.horizons} if pictures is not None else {}
    with disk_errors(folder, "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DATA, json.dumps(imagination.to_dict(), indent=1, allow_nan=False) + "\n")
        for name in (FILM, STRIP):  # of an earlier imagination, which had pictures
            (folder / name).unlink(missing_ok=True)
        if film is not None:
            write_bytes(folder / FILM, film)
            write_bytes(folder / STRIP, png(stack(list(strips.values()))))
    page(imagination, film, strips).save(folder / PAGE)
    return folder / PAGE


def _film(pictures: Pictures, fps: float, progress: Progress) -> bytes:
    with progress.phase("draw", total=len(pictures)) as advance:

        def shown() -> Iterator[np.ndarray]:
            for frame in pictures.frames():
                yield frame
                advance()

        return mp4(shown(), fps)


def page(imagination: Imagination, film: bytes | None, strips: dict[int, np.ndarray]) -> Page:
    """The page.

    Args:
        imagination: what it is about.
        film: the MP4 file, if there is one.
        strips: by horizon.
    """
    beside, run = imagination.beside, imagination.run
    whose = {
        "recorded": "given the actions that the policy really took",
        "policy": "with the policy acting on what it saw there; the real environment was then given the same actions",
    }[imagination.acting]
    page = Page(
        f"Imagined and real: {run['algorithm']} on {run['task']}",
        f"From step {beside.start} of a fresh episode the world model imagined {len(beside.imagined)} steps, {whose}. "
        "It saw nothing of what really happened after the start.",
    )
    page.section("In short")
    page.facts(dict(sentence.split(": ", 1) for sentence in imagination.findings()))
    if film is None:
        page.notice(f"There are no pictures. {imagination.unseen}")
    else:
        page.section("Film")
        page.video(film, "film", f"Left what happened, right what was imagined. {_LEGEND}")
        page.section("Filmstrips")
        for horizon, strip in strips.items():
            told = f"A few of the first {horizon} steps, real above imagined."
            page.image(png(strip), f"strip-{horizon}", told, wide=True)
    _errors(page, imagination)
    _rewards(page, imagination)
    page.section("Where these numbers come from")
    page.facts({**run, "episode's seed": beside.seed, "first step": beside.start, "actions": imagination.acting})
    return page


def _errors(page: Page, imagination: Imagination) -> None:
    found = imagination.horizons()
    page.section("Error", _LEGEND)
    rows = {
        "state": [f.state for f in found],
        "state, nothing changes": [f.state_unchanged for f in found],
        "state, summed over steps": [f.state_sum for f in found],
        "state, nothing changes, summed": [f.state_unchanged_sum for f in found],
        "observations": [f.obs for f in found],
        "observations, nothing changes": [f.obs_unchanged for f in found],
    }
    _table(page, imagination, rows, "Error after each number of steps.")
    if worse := [str(f.steps) for f in found if f.state_sum > f.state_unchanged_sum]:
        page.notice(
            f"Over {', '.join(worse)} steps the imagined state was further from the truth, all steps together, than "
            "one that never changes."
        )
    steps = np.arange(len(imagination.state_error))
    for what, error, unchanged in (
        ("state", imagination.state_error, imagination.state_unchanged),
        ("observations", imagination.obs_error.mean(1), imagination.obs_unchanged.mean(1)),
    ):
        pair = [Line("imagined", steps, error, IMAGINED), Line("nothing changes", steps, unchanged, _STANDING)]
        sums = [replace(line, values=line.values.cumsum()) for line in pair]
        page.figure(_curves(imagination, "error", pair), f"error-{what}", f"Error of the {what} after each step.")
        page.figure(
            _curves(imagination, "sum of errors", sums), f"error-{what}-summed", f"The same for the {what}, summed."
        )
    if len(imagination.kinds) > 1:
        lines = [Line(kind, steps, error) for kind, error in imagination.kinds.items()]
        told = "Error of the state by kind of feature, in its own units."
        page.figure(_curves(imagination, "error", lines), "error-kinds", told)


def _rewards(page: Page, imagination: Imagination) -> None:
    real, imagined = imagination.beside.real, imagination.beside.imagined
    page.section("Reward")
    found = imagination.horizons()
    rows = {"rewards, imagined": [f.reward for f in found], "rewards, real": [f.real_reward for f in found]}
    for name, (truth, belief) in imagination.measures.items():
        rows[f"{name}, imagined"] = [float(belief[f.compared]) for f in found]
        rows[f"{name}, real"] = [float(truth[f.compared]) for f in found]
    where = f" and {', '.join(imagination.measures)}" if imagination.measures else ""
    _table(page, imagination, rows, f"Sum of the rewards{where} after each number of steps.")
    for what, summed in (("reward", False), ("sum of rewards", True)):
        lines = []
        for name, course, color in (("real", real, REAL), ("imagined", imagined, IMAGINED)):
            values = np.cumsum(course.reward) if summed else course.reward
            lines.append(Line(name, np.arange(1, len(course) + 1), values, color))
        page.figure(_curves(imagination, what, lines), what.replace(" ", "-"), f"The {what} after each step.")


def _table(page: Page, imagination: Imagination, rows: dict[str, list[float]], caption: str) -> None:
    """A column for each horizon."""
    beside = imagination.beside
    ended = (
        "" if len(beside.real) == len(beside.imagined) else f"The real episode ended after {len(beside.real)} steps."
    )
    head = ["", *(f"{steps} steps" for steps in beside.horizons)]
    page.table(head, [[name, *values] for name, values in rows.items()], caption, ended)


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    color: str | None = None  # the palette's next when not given


def _curves(imagination: Imagination, label: str, lines: list[Line]) -> Figure:
    """Lines over steps, with a mark at each horizon."""
    figure, axes = plot(4.8, 3.2, xlabel="imagined steps", ylabel=label)
    for line in lines:
        axes.plot(line.steps, line.values, label=line.name, color=line.color)
    for horizon in imagination.beside.horizons[:-1]:
        axes.axvline(horizon, color="black", alpha=0.25, linewidth=0.8, linestyle="-")
    figure.legend(loc="outside upper left", ncols=min(2, len(lines)), fontsize=10, frameon=False)
    return figure
