"""The commands: each reads its options, calls one public function and prints what that answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dima.config import Config, Count, Range, Whole
from dima.envs.base import TaskInfo
from dima.errors import ConfigError
from dima.options import parse
from dima.run_config import RunConfig, build_config
from dima.summary import settings_line

if TYPE_CHECKING:
    from dima.agent import Agent

_EXAMPLE = "mamujoco/halfcheetah-2x3"  # the task that `dima train --help` shows the options of
_VALUELESS = ("--overwrite", "--no-overwrite", "--quiet", "--no-quiet")
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class TrainOptions:
    config: Annotated[RunConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # start again where an earlier run is kept
    quiet: bool = False  # one plain line a round instead of progress bars


@dataclass(frozen=True)
class ResumeOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    steps: Count | None = None  # go on to this many environment steps; default: as the run was started
    quiet: bool = False  # one plain line a round instead of progress bars


@dataclass(frozen=True)
class EvaluateOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    episodes: Count = 20  # episodes to play with the policy's mode
    seed: Whole | None = None  # of the episodes; default: the run's own evaluation seed
    device: Device = "auto"  # where the policy computes
    video: bool = False  # also film the first episode: into videos/ in the run folder
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ImagineOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    horizon: tuple[Count, ...] = ()  # steps to look at; default: those of 15 50 200 that the episode has room for
    act: Literal["recorded", "policy"] = "recorded"  # whose actions: a real episode's, or the policy's in imagination
    seed: Whole | None = None  # of the episode; default: the first that `dima evaluate` plays
    start: Whole | None = None  # step of the episode to begin at; default: 100, or earlier where that is too late
    out: str | None = None  # folder for film, strip, page and numbers; default: imagination/ in the run folder
    width: Annotated[int, Range(64, 1920)] = 320  # pixels of each picture
    fps: Annotated[int, Range(1, 60)] = 10  # frames a second of the film
    device: Device = "auto"  # where the world model computes
    quiet: bool = False  # no progress bar
    json: bool = False  # print everything as one JSON object


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
    if "task" not in choice.names:
        if not {"-h", "--help"} & set(args):
            raise ConfigError("no task was given: write `dima train TASK`, with a task that `dima tasks` lists")
        choice.names["task"] = _EXAMPLE
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

    summary = run(options.run, steps=options.steps, progress=choose_progress(options.quiet))
    print(summary.table())
    return 0 if summary.finished else 130


def evaluate(args: Sequence[str]) -> int:
    options = parse(EvaluateOptions, args, "dima evaluate")

    from dima.agent import load

    agent = load(options.run, options.device)
    film = _film(agent, options) if options.video else None
    result = agent.evaluate(options.episodes, options.seed)
    config = agent.config
    if options.json:
        told = {"run": options.run, "task": config.task, "env": config.env.to_dict(), "episodes": options.episodes}
        numbers = {"mean": result.mean, "std": result.std, "returns": result.returns, "lengths": result.lengths}
        print(json.dumps(told | numbers | ({} if film is None else {"video": str(film)})))
    else:
        print(f"{config.algorithm} on {config.task} ({settings_line(config.env.to_dict())})")
        print(f"team return {result.mean:,.1f} ± {result.std:,.1f} over {options.episodes} episodes, ", end="")
        print(f"lowest {min(result.returns):,.1f}, highest {max(result.returns):,.1f}")
        if film is not None:
            print(f"film: {film}")
    return 0


def imagine(args: Sequence[str]) -> int:
    options = parse(ImagineOptions, args, "dima imagine")

    from dima.agent import load
    from dima.progress import choose_progress

    agent = load(options.run, options.device)
    told = agent.imagine(
        options.horizon or None, options.act, seed=options.seed, start=options.start, width=options.width
    )
    if told.unseen:
        print(f"dima: no film and no strip: {told.unseen}", file=sys.stderr)
    page = told.save(options.out or agent.folder / "imagination", options.fps, choose_progress(options.quiet))
    print(json.dumps(told.to_dict()) if options.json else "\n".join([*told.findings(), f"page: {page}"]))
    return 0


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


def _film(agent: Agent, options: EvaluateOptions) -> Path:
    """The first episode as a film in the run folder."""
    from dima.progress import choose_progress

    name = "evaluate.mp4" if options.seed is None else f"evaluate-seed{options.seed}.mp4"
    return agent.film(agent.folder / "videos" / name, options.seed, progress=choose_progress(options.json))


def _task_line(task: TaskInfo) -> str:
    agents = "any number" if task.n_agents is None else task.n_agents
    return f"{task.name:<40}  {agents} agents  {task.note}".rstrip()


def _choose(args: Sequence[str]) -> _Choice:
    """Take the task, ``--algorithm`` and ``--preset`` out of the arguments of `dima train`."""
    choice, waiting = _Choice(), list(args)
    before = ""
    while waiting:
        arg = waiting.pop(0)
        name, has_value, value = arg.partition("=")
        if name in ("--task", "--algorithm", "--preset"):
            if not has_value and (not waiting or waiting[0].startswith("-")):
                raise ConfigError(f"{name} needs a value")
            choice.names[name[2:]] = value if has_value else waiting.pop(0)
        elif arg.startswith("-") or "task" in choice.names or _takes_value(before):
            choice.rest.append(arg)
        else:
            choice.names["task"] = arg
        before = arg
    return choice


def _takes_value(flag: str) -> bool:
    valueless = flag in _VALUELESS or "=" in flag or flag.split(".")[-1].lstrip("-").startswith("no-")
    return flag.startswith("--") and not valueless and flag not in ("--algorithm", "--preset")
