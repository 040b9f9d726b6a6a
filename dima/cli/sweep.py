"""The command sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from dima.cli.answer import answer
from dima.cli.options import parse
from dima.config import Config


@dataclass(frozen=True)
class SweepOptions(Config):
    file: tyro.conf.Positional[str]  # YAML file of tasks, algorithms, seeds, settings; see docs/sweeps.md
    out: str | None = None  # folder of all runs; default: that of the file, or runs/<name of the file>
    address: str | None = None  # of a Ray cluster, such as auto or 10.0.0.1:6379; default: this machine
    serial: bool = False  # one run after another, without Ray
    allow: tuple[str, ...] = ()  # names package.module:Name in the file that may be imported: consent to run their code
    dry_run: bool = False  # check the file, list the run folders and what they hold, and start nothing
    quiet: bool = False  # print nothing but warnings and errors
    json: bool = False  # print the results as one JSON object


def sweep(args: Sequence[str]) -> int:
    options = parse(SweepOptions, args, "dima sweep")

    from dima.sweeps.progress import choose_sweep_progress
    from dima.sweeps.run import sweep as run

    if options.dry_run:
        return _list(options)
    result = run(
        options.file,
        out=options.out,
        backend="serial" if options.serial else None,
        address=options.address,
        allow=options.allow,
        progress=choose_sweep_progress(options.quiet),
    )
    if options.json:
        answer(result.to_dict())
    elif not options.quiet:
        print(result.summary())
    sys.stdout.flush()
    for failure in result.failures:
        print(f"dima: {failure.name}: {failure.error}", file=sys.stderr)
    if result.interrupted:
        print("dima: stopped and saved: run the same command to go on", file=sys.stderr)
    return result.status


def _list(options: SweepOptions) -> int:
    """Print the runs of a sweep that would be carried out."""
    from dima.sweeps.plan import make_plan
    from dima.sweeps.run import open_searches
    from dima.sweeps.spec import read_sweep

    plan = make_plan(read_sweep(options.file, out=options.out, address=options.address), options.allow)
    searches = open_searches(plan)
    if options.json:
        runs = [{"name": run.name, "folder": str(run.config.folder), "state": run.state} for run in plan.runs]
        begun = [{"file": str(one.path), "begun": len(one.numbers), "trials": one.spec.trials} for one in searches]
        answer({"out": str(plan.sweep.out), "total": plan.total, "runs": runs, "searches": begun})
        return 0
    for planned in plan.runs:
        print(f"{planned.state:<12}{planned.config.folder}")
    for search in searches:
        print(f"{len(search.numbers)} of {search.spec.trials} trials begun: {search.path}")
    print(f"{plan.total} runs in {plan.sweep.out}")
    return 0
