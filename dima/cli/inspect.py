"""Commands that analyse runs: demo, imagine, diagnose, report."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dima.analysis.diagnose.config import DiagnosisConfig
from dima.cli.answer import answer
from dima.cli.options import parse
from dima.cli.positional import Device
from dima.config import Config, Count, Range, Whole, user_path

if TYPE_CHECKING:
    from dima.analysis.diagnose.results import Diagnosis
    from dima.analysis.imagine.results import Imagination


@dataclass(frozen=True)
class DemoOptions(Config):
    out: str = "runs/demo"  # folder for a copy of the trained run, and the page in it
    open: bool = True  # open the page in a browser, where there is a screen
    device: Device = "auto"  # device of the world model
    quiet: bool = False  # no progress bars
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ImagineOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    horizon: tuple[Count, ...] = ()  # horizons to report, in steps; default: those of 15 50 200 within the episode
    act: Literal["recorded", "policy"] = "recorded"  # actions of the real episode, or of the policy in imagination
    seed: Whole | None = None  # seed of the episode; default: the first that `dima evaluate` plays
    start: Whole | None = None  # first imagined step of the episode; default: 100, or earlier if the horizon needs it
    out: str | None = None  # output folder; default: imagination/ or imagination-policy/ in the run folder
    width: Annotated[int, Range(64, 1920)] = 480  # width of each picture in pixels
    fps: Annotated[int, Range(1, 60)] = 10  # steps per second of the film
    webp: bool = False  # also write the film as an animated WebP, for READMEs
    task: str | None = None  # the run's task, repeated: consent to import it if it is package.module:factory
    algorithm: str | None = None  # likewise the run's algorithm, if it is package.module:Name
    device: Device = "auto"  # device of the world model
    quiet: bool = False  # no progress, only the answer
    json: bool = False  # print the results as one JSON object


@dataclass(frozen=True)
class DiagnoseOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    config: Annotated[DiagnosisConfig, tyro.conf.arg(name="", prefix_name=False)] = DiagnosisConfig()
    also: tuple[str, ...] = ()  # other runs on the task whose policies provide episodes, too
    task: str | None = None  # the run's task, repeated: consent to import it if it is package.module:factory
    algorithm: str | None = None  # likewise the run's algorithm, if it is package.module:Name
    out: str | None = None  # output folder; default: diagnosis/ in the run folder
    device: Device = "auto"  # device of the world model and the policies
    quiet: bool = False  # no progress, only the answer
    json: bool = False  # print the results as one JSON object


@dataclass(frozen=True)
class ReportOptions(Config):
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders, or folders that contain run folders
    out: str = "report"  # output folder for report.html and report.csv; an earlier report is replaced
    score: tuple[float, ...] = ()  # team returns of the sample-efficiency table; default: 50, 75 and 90 % of the scale
    at: Count | None = None  # environment steps to compare at; default: the most that half of the runs reached
    reference: str | None = None  # YAML file with task: [team return scored 0, scored 1]; default: from the runs
    plots: bool = False  # also write each plot as SVG and PNG
    json: bool = False  # print one JSON object


def demo(args: Sequence[str]) -> int:
    options = parse(DemoOptions, args, "dima demo")

    from dima.analysis.demo.run import demo as run
    from dima.runtime.progress import choose_progress

    found = run(options.out, device=options.device, progress=choose_progress(options.quiet))
    _tell_missing_pictures(found.imagination)
    if options.json:
        answer(found.to_dict())
    else:
        print(found.summary())
    if options.open and _has_screen():
        webbrowser.open(found.page.resolve().as_uri())
    return 0


def _has_screen() -> bool:
    """Whether a browser would have a window; without one, some would take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))


def _tell_missing_pictures(found: Imagination) -> None:
    if found.no_pictures:
        lost = "no film and no strip" if found.pictures is None else "no imagined pictures"
        print(f"dima: {lost}: {found.no_pictures}", file=sys.stderr)


def imagine(args: Sequence[str]) -> int:
    options = parse(ImagineOptions, args, "dima imagine")

    from dima.analysis.imagine.page import PAGE
    from dima.analysis.imagine.run import FOLDERS
    from dima.analysis.imagine.run import imagine as run
    from dima.runtime.progress import choose_progress
    from dima.storage.atomic import results_folder

    out = user_path(options.out) if options.out else results_folder(user_path(options.run), FOLDERS[options.act])
    found = run(
        options.run,
        options.horizon or None,
        options.act,
        seed=options.seed,
        start=options.start,
        width=options.width,
        fps=options.fps,
        webp=options.webp,
        out=out,
        device=options.device,
        task=options.task,
        algorithm=options.algorithm,
        progress=choose_progress(options.quiet),
    )
    _tell_missing_pictures(found)
    _print(found, out / PAGE, options.json)
    return 0


def diagnose(args: Sequence[str]) -> int:
    options = parse(DiagnoseOptions, args, "dima diagnose")

    from dima.analysis.diagnose.page import PAGE
    from dima.analysis.diagnose.run import FOLDER
    from dima.analysis.diagnose.run import diagnose as run
    from dima.runtime.progress import choose_progress
    from dima.storage.atomic import results_folder

    out = user_path(options.out) if options.out else results_folder(user_path(options.run), FOLDER)
    found = run(
        options.run,
        options.config,
        also=options.also,
        out=out,
        device=options.device,
        task=options.task,
        algorithm=options.algorithm,
        progress=choose_progress(options.quiet),
    )
    _print(found, out / PAGE, options.json)
    return 0


def _print(found: Imagination | Diagnosis, page: Path, as_json: bool) -> None:
    """Verdicts, the gravest first, then numbers."""
    if as_json:
        answer(found.to_dict() | {"page": str(page)})
    else:
        print("\n".join([*map(str, found.verdicts), "", *found.findings, "", f"page: {page}"]))


def report(args: Sequence[str]) -> int:
    options = parse(ReportOptions, args, "dima report")

    from dima.analysis.report.build import report as write

    done = write(
        options.runs,
        options.out,
        scores=options.score,
        at=options.at,
        reference=options.reference,
        plots=options.plots,
    )
    for problem in done.problems:
        print(f"dima: not in the report: {problem.path} {problem.reason}", file=sys.stderr)
    if options.json:
        answer(done.to_dict())
    else:
        print(done.summary())
    return 0
