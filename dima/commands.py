"""The commands: each reads its options, calls one public function and prints what that answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dima.config import Config, Count, Whole
from dima.datasets.config import ImportConfig, RecordConfig, import_config, record_config
from dima.diagnosis.config import DiagnosisConfig
from dima.envs.base import TaskInfo
from dima.errors import ConfigError, nearest
from dima.options import parse
from dima.run_config import OfflineConfig, TrainConfig, build_config, offline_config
from dima.summary import settings_line

_EXAMPLE = "mamujoco/halfcheetah-2x3"  # the task that `dima train --help` shows the options of
_VALUELESS = ("--overwrite", "--no-overwrite", "--quiet", "--no-quiet")
Device = Literal["auto", "cpu", "cuda"]
_DATASET = {  # the commands of `dima dataset`
    "record": "play policies and keep their episodes: dima dataset record TASK --sources random RUN,mode",
    "info": "what a dataset holds, after checking every byte of it",
    "import": "take over a dataset of Minari: dima dataset import TASK --minari NAME",
    "export": "hand a dataset to Minari: dima dataset export DATASET NAME",
}


@dataclass(frozen=True)
class TrainOptions:
    config: Annotated[TrainConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # start again where an earlier run is kept
    quiet: bool = False  # one plain line a round instead of progress bars


@dataclass(frozen=True)
class ResumeOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    steps: Count | None = None  # go on to this many environment steps; default: as the run was started
    rounds: Count | None = None  # likewise for a run of `dima fit`
    quiet: bool = False  # one plain line a round instead of progress bars


@dataclass(frozen=True)
class EvaluateOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    episodes: Count = 20  # episodes to play with the policy's mode
    seed: Whole | None = None  # of the episodes; default: the run's own evaluation seed
    device: Device = "auto"  # where the policy computes
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class DiagnoseOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    config: Annotated[DiagnosisConfig, tyro.conf.arg(name="", prefix_name=False)] = DiagnosisConfig()
    also: tuple[str, ...] = ()  # other runs' folders on the same task, whose policies play too
    out: str | None = None  # folder for the results; default: diagnosis/ in the run folder
    device: Device = "auto"  # where everything is computed
    quiet: bool = False  # no progress bars
    json: bool = False  # print everything as one JSON object


@dataclass(frozen=True)
class ReportOptions(Config):
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders, or folders that hold some
    out: str = "report"  # folder of report.html and report.csv; an earlier report in it is replaced
    score: tuple[float, ...] = ()  # team returns to tell the steps to; default: shares of each task's scale
    at: Count | None = None  # environment steps to compare at; default: as far as half of the runs got
    reference: str | None = None  # YAML file, task: [team return that counts as 0, as 1]; default: what was seen
    plots: bool = False  # also write every plot as SVG and PNG
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class RecordOptions:
    config: Annotated[RecordConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an earlier dataset
    quiet: bool = False  # plain lines instead of progress bars


@dataclass(frozen=True)
class InfoOptions(Config):
    dataset: tyro.conf.Positional[str]  # folder of a dataset
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ImportOptions:
    config: Annotated[ImportConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an earlier dataset


@dataclass(frozen=True)
class ExportOptions(Config):
    dataset: tyro.conf.Positional[str]  # folder of a dataset
    name: tyro.conf.Positional[str]  # what Minari is to call it, such as mine/halfcheetah-v0
    form: Literal["agents", "joint"] = "agents"  # a dictionary of agents' spaces, or state and joint action as vectors


@dataclass(frozen=True)
class FitOptions:
    config: Annotated[OfflineConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # start again where an earlier run is kept
    quiet: bool = False  # one plain line a round instead of progress bars


@dataclass(frozen=True)
class TasksOptions(Config):
    text: tyro.conf.Positional[str] = ""  # show only the names that hold this text


@dataclass(frozen=True)
class CheckOptions(Config):
    task: tyro.conf.Positional[str]  # a task's name, or package.module:factory of your own environment


@dataclass(frozen=True)
class NoOptions(Config):
    pass


@dataclass
class _Choice:
    """What has to be known before the other flags can be: they depend on it."""

    names: dict[str, Any] = field(default_factory=dict)  # of the task, the algorithm and the preset
    rest: list[str] = field(default_factory=list)


def train(args: Sequence[str]) -> int:
    choice = _choose(args)
    choice.names["task"] = _the_task(choice, args, "dima train")
    config = build_config(**choice.names)
    options = parse(TrainOptions, choice.rest, "dima train TASK", TrainOptions(config))

    from dima.progress import choose_progress
    from dima.train import train as run

    summary = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    print(summary.table())
    return 0 if summary.finished else 130


def resume(args: Sequence[str]) -> int:
    options = parse(ResumeOptions, args, "dima resume")

    from dima.progress import choose_progress
    from dima.train import resume as run

    summary = run(options.run, steps=options.steps, rounds=options.rounds, progress=choose_progress(options.quiet))
    print(summary.table())
    return 0 if summary.finished else 130


def evaluate(args: Sequence[str]) -> int:
    options = parse(EvaluateOptions, args, "dima evaluate")

    from dima.agent import load

    agent = load(options.run, options.device)
    result = agent.evaluate(options.episodes, options.seed)
    config = agent.config
    if options.json:
        told = {"run": options.run, "task": config.task, "env": config.env.to_dict(), "trained": agent.trained}
        numbers = {"mean": result.mean, "std": result.std, "returns": result.returns, "lengths": result.lengths}
        print(json.dumps(told | numbers | {"episodes": options.episodes}))
    else:
        print(f"{config.algorithm} on {config.task} ({settings_line(config.env.to_dict())})")
        print(f"team return {result.mean:,.1f} ± {result.std:,.1f} over {options.episodes} episodes, ", end="")
        print(f"lowest {min(result.returns):,.1f}, highest {max(result.returns):,.1f}")
        if not agent.trained:
            print("this run learnt a world model from a dataset; its policy is untrained")
    return 0


def diagnose(args: Sequence[str]) -> int:
    options = parse(DiagnoseOptions, args, "dima diagnose")

    from dima.diagnosis.diagnose import FOLDER
    from dima.diagnosis.diagnose import diagnose as run
    from dima.diagnosis.report import PAGE
    from dima.progress import choose_progress

    out = Path(options.out or Path(options.run, FOLDER))
    progress = choose_progress(options.quiet)
    found = run(options.run, options.config, also=options.also, out=out, device=options.device, progress=progress)
    print(json.dumps(found.to_dict()) if options.json else "\n".join([*found.findings, f"page: {out / PAGE}"]))
    return 0


def report(args: Sequence[str]) -> int:
    options = parse(ReportOptions, args, "dima report")

    from dima.report.build import report as write

    done = write(
        options.runs,
        options.out,
        scores=options.score,
        at=options.at,
        reference=options.reference,
        plots=options.plots,
    )
    print(json.dumps(done.to_dict()) if options.json else done.summary())
    return 0


def dataset(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:<8}{about}" for name, about in _DATASET.items()]
        print("usage: dima dataset COMMAND ...\n\n" + "\n".join(lines) + "\n")
        print("`dima dataset COMMAND --help` explains a command's options.")
        return 0
    if args[0] not in _DATASET:
        raise ConfigError(f"there is no command {args[0]!r} of `dima dataset`: {nearest(args[0], _DATASET)}")
    return {"record": _record, "info": _info, "import": _import, "export": _export}[args[0]](args[1:])


def _record(args: Sequence[str]) -> int:
    choice = _choose(args, learns=False)
    config = record_config(_the_task(choice, args, "dima dataset record"))
    options = parse(RecordOptions, choice.rest, "dima dataset record TASK", RecordOptions(config))

    from dima.datasets.record import record as run
    from dima.progress import choose_progress

    done = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    if not done.finished:
        print(f"interrupted after {done.steps:,} steps: the same command goes on with {done.folder}")
        return 130
    return _info([str(done.folder)])


def _info(args: Sequence[str]) -> int:
    options = parse(InfoOptions, args, "dima dataset info")

    from dima.datasets.describe import describe, table
    from dima.datasets.reader import Dataset

    told = describe(Dataset.open(options.dataset))
    print(json.dumps(told) if options.json else table(told))
    return 0


def _import(args: Sequence[str]) -> int:
    choice = _choose(args, learns=False)
    config = import_config(_the_task(choice, args, "dima dataset import"))
    options = parse(ImportOptions, choice.rest, "dima dataset import TASK", ImportOptions(config))

    from dima.datasets.minari import import_minari

    return _info([str(import_minari(options.config, overwrite=options.overwrite).path)])


def _export(args: Sequence[str]) -> int:
    options = parse(ExportOptions, args, "dima dataset export")

    from dima.datasets.minari import export_minari
    from dima.datasets.reader import Dataset

    where = export_minari(Dataset.open(options.dataset), options.name, options.form)
    print(f"{where}: minari.load_dataset({options.name!r}) opens it")
    return 0


def fit(args: Sequence[str]) -> int:
    choice = _choose(args, "dataset")

    from dima.offline import fit as run
    from dima.offline import fit_config
    from dima.progress import choose_progress

    if "dataset" in choice.names:
        config = fit_config(**choice.names)
    elif {"-h", "--help"} & set(args):
        config = offline_config("DATASET", _EXAMPLE, choice.names.get("algorithm", OfflineConfig.algorithm))
    else:
        raise ConfigError("no dataset was given: write `dima fit DATASET`, with a folder of `dima dataset record`")
    options = parse(FitOptions, choice.rest, "dima fit DATASET", FitOptions(config))
    summary = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    print(summary.table())
    return 0 if summary.finished else 130


def tasks(args: Sequence[str]) -> int:
    options = parse(TasksOptions, args, "dima tasks")

    from dima.envs import all_tasks

    found = [task for task in all_tasks() if options.text in task.name]
    if not found:
        raise ConfigError(f"no task's name holds {options.text!r}: `dima tasks` lists them all")
    print("\n".join(map(_task_line, found)))
    return 0


def algorithms(args: Sequence[str]) -> int:
    parse(NoOptions, args, "dima algorithms")

    from dima.algorithms import ALGORITHMS
    from dima.presets import preset_names
    from dima.run_config import learner_config

    for name in ALGORITHMS:
        about = (type(learner_config(name)).__doc__ or "").strip().splitlines()[0]
        print(f"{name:<8}  {about}\n{'':<8}  presets: {', '.join(preset_names(name))}")
    return 0


def check(args: Sequence[str]) -> int:
    options = parse(CheckOptions, args, "dima check")

    from dima.envs.check import check_environment

    report = check_environment(options.task)
    print("\n".join(report.lines))
    return 0 if report.ok else 2


def doctor(args: Sequence[str]) -> int:
    parse(NoOptions, args, "dima doctor")

    from dima.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return 1 if any(finding.fatal for finding in findings) else 0


def _task_line(task: TaskInfo) -> str:
    agents = "any number" if task.n_agents is None else task.n_agents
    return f"{task.name:<40}  {agents} agents  {task.note}".rstrip()


def _the_task(choice: _Choice, args: Sequence[str], command: str) -> str:
    """The task that was given; an example where only help is wanted."""
    if "task" not in choice.names and not {"-h", "--help"} & set(args):
        raise ConfigError(f"no task was given: write `{command} TASK`, with a task that `dima tasks` lists")
    task: str = choice.names.get("task", _EXAMPLE)
    return task


def _choose(args: Sequence[str], subject: str = "task", learns: bool = True) -> _Choice:
    """Take the subject, a word without a flag, out of the arguments; ``--algorithm``, ``--preset`` if it learns."""
    flags = [f"--{name}" for name in (subject, *(("algorithm", "preset") if learns else ()))]
    choice, waiting = _Choice(), list(args)
    before = ""
    while waiting:
        arg = waiting.pop(0)
        name, has_value, value = arg.partition("=")
        if name in flags:
            if not has_value and (not waiting or waiting[0].startswith("-")):
                raise ConfigError(f"{name} needs a value")
            choice.names[name[2:]] = value if has_value else waiting.pop(0)
        elif arg.startswith("-") or subject in choice.names or _takes_value(before):
            choice.rest.append(arg)
        else:
            choice.names[subject] = arg
        before = arg
    return choice


def _takes_value(flag: str) -> bool:
    valueless = flag in _VALUELESS or "=" in flag or flag.split(".")[-1].lstrip("-").startswith("no-")
    return flag.startswith("--") and not valueless and flag not in ("--algorithm", "--preset")
