"""Commands that analyse runs: imagine, diagnose, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dima.analysis.diagnose.config import DiagnosisConfig
from dima.cli.options import parse
from dima.cli.positional import Device
from dima.config import Config, Count, Range, Whole


@dataclass(frozen=True)
class ImagineOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    horizon: tuple[Count, ...] = ()  # numbers of steps to report; default: those of 15 50 200 that fit into the episode
    act: Literal["recorded", "policy"] = "recorded"  # whose actions: a real episode's, or the policy's in imagination
    seed: Whole | None = None  # of the episode; default: the first that `dima evaluate` plays
    start: Whole | None = None  # step of the episode to begin at; default: 100, or earlier if the horizon needs it
    out: str | None = None  # folder for the results; default: imagination/ in the run folder, or imagination-policy/
    width: Annotated[int, Range(64, 1920)] = 320  # pixels of each picture
    fps: Annotated[int, Range(1, 60)] = 10  # frames a second of the film
    task: str | None = None  # the run's task, repeated: consent to import it, where it is package.module:factory
    device: Device = "auto"  # where the world model computes
    quiet: bool = False  # no progress bar
    json: bool = False  # print everything as one JSON object


@dataclass(frozen=True)
class DiagnoseOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    config: Annotated[DiagnosisConfig, tyro.conf.arg(name="", prefix_name=False)] = DiagnosisConfig()
    also: tuple[str, ...] = ()  # folders of other runs on the task whose policies play, too
    task: str | None = None  # the run's task, repeated: consent to import it, where it is package.module:factory
    out: str | None = None  # folder for the results; default: diagnosis/ in the run folder
    device: Device = "auto"  # where everything is computed
    quiet: bool = False  # no progress bars
    json: bool = False  # print everything as one JSON object


@dataclass(frozen=True)
class ReportOptions(Config):
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders, or folders that hold some
    out: str = "report"  # folder of report.html and report.csv; an earlier report in it is replaced
    score: tuple[float, ...] = ()  # team returns of the sample-efficiency table; default: 50, 75, 90 % of the scale
    at: Count | None = None  # environment steps to compare at; default: the most that half of the runs reached
    reference: str | None = None  # YAML file, task: [team return that counts as 0, as 1]; default: from the runs
    plots: bool = False  # also write every plot as SVG and PNG
    json: bool = False  # print one JSON object


def imagine(args: Sequence[str]) -> int:
    options = parse(ImagineOptions, args, "dima imagine")

    from dima.analysis.imagine.page import PAGE
    from dima.analysis.imagine.run import FOLDERS
    from dima.analysis.imagine.run import imagine as run
    from dima.runtime.progress import choose_progress
    from dima.storage.atomic import results_folder

    out = Path(options.out) if options.out else results_folder(Path(options.run), FOLDERS[options.act])
    found = run(
        options.run,
        options.horizon or None,
        options.act,
        seed=options.seed,
        start=options.start,
        width=options.width,
        fps=options.fps,
        out=out,
        device=options.device,
        task=options.task,
        progress=choose_progress(options.quiet),
    )
    if found.no_pictures:
        print(f"dima: no film and no strip: {found.no_pictures}", file=sys.stderr)
    print(json.dumps(found.to_dict()) if options.json else "\n".join([*found.findings, f"page: {out / PAGE}"]))
    return 0


def diagnose(args: Sequence[str]) -> int:
    options = parse(DiagnoseOptions, args, "dima diagnose")

    from dima.analysis.diagnose.page import PAGE
    from dima.analysis.diagnose.run import FOLDER
    from dima.analysis.diagnose.run import diagnose as run
    from dima.runtime.progress import choose_progress
    from dima.storage.atomic import results_folder

    out = Path(options.out) if options.out else results_folder(Path(options.run), FOLDER)
    found = run(
        options.run,
        options.config,
        also=options.also,
        out=out,
        device=options.device,
        task=options.task,
        progress=choose_progress(options.quiet),
    )
    print(json.dumps(found.to_dict()) if options.json else "\n".join([*found.findings, f"page: {out / PAGE}"]))
    return 0


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
    print(json.dumps(done.to_dict()) if options.json else done.summary())
    return 0
