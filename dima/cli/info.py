"""Commands on the library and the machine: tasks, algorithms, check, doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from dima.cli.options import parse
from dima.config import Config
from dima.envs.base import TaskInfo
from dima.errors import ConfigError


@dataclass(frozen=True)
class TasksOptions(Config):
    text: tyro.conf.Positional[str] = ""  # show only names that contain this text


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Config):
    task: str  # task, or package.module:factory of your environment
    env: Config  # settings of the environment


@dataclass(frozen=True)
class NoOptions(Config):
    pass


def tasks(args: Sequence[str]) -> int:
    options = parse(TasksOptions, args, "dima tasks")

    from dima.envs import all_tasks

    found = [task for task in all_tasks() if options.text in task.name]
    if not found:
        raise ConfigError(f"no task's name contains {options.text!r}: `dima tasks` lists all tasks")
    print("\n".join(map(_task_line, found)))
    return 0


def algorithms(args: Sequence[str]) -> int:
    parse(NoOptions, args, "dima algorithms")

    from dima.algorithms import algorithm_names, algorithm_summary
    from dima.presets import preset_names

    names = algorithm_names()
    width = max(map(len, names))
    for name in names:
        try:
            summary, presets = algorithm_summary(name), ", ".join(preset_names(name))
        except ConfigError as error:  # of a package whose modules fail
            print(f"dima: {error}", file=sys.stderr)
        else:
            print(f"{name:<{width}}  {summary}\n{'':<{width}}  presets: {presets}")
    return 0


def check(args: Sequence[str]) -> int:
    from dima.cli.positional import choose, the_task
    from dima.envs import suite_config

    choice = choose(args, CheckOptions, learns=False)
    task = the_task(choice, args, "dima check")
    options = parse(CheckOptions, choice.rest, "dima check TASK", CheckOptions(task=task, env=suite_config(task)()))

    from dima.envs.check import check_environment
    from dima.training.proposal import first_run

    report = check_environment(options.task, options.env)
    print("\n".join(report.lines))
    if command := first_run(report, choice.rest):
        print(f"to train in it:\n    {command}")
    return 0 if report.ok else 2


def doctor(args: Sequence[str]) -> int:
    parse(NoOptions, args, "dima doctor")

    from dima.cli.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return 1 if any(finding.fatal for finding in findings) else 0


def _task_line(task: TaskInfo) -> str:
    agents = "any number" if task.n_agents is None else task.n_agents
    return f"{task.name:<40}  {agents} agents  {task.note}".rstrip()
