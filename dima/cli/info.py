"""Commands on the library and the machine: tasks, algorithms, check, doctor, completion."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from dima.cli.answer import answer
from dima.cli.options import name_of, parse
from dima.config import Config
from dima.envs.base import TaskInfo
from dima.errors import ConfigError


@dataclass(frozen=True)
class TasksOptions(Config):
    text: tyro.conf.Positional[str] = ""  # show only names that contain this text
    json: bool = False  # print one JSON object


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Config):
    task: str  # task, or package.module:factory of your environment
    env: Config  # settings of the environment
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class AnswerOptions(Config):
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class CompletionOptions(Config):
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]  # shell that the script is for


def tasks(args: Sequence[str]) -> int:
    options = parse(TasksOptions, args, "dima tasks")

    from dima.envs import all_tasks

    found = [task for task in all_tasks() if options.text in task.name]
    if not found:
        raise ConfigError(f"no task's name contains {options.text!r}: `dima tasks` lists all tasks")
    if options.json:
        answer({"tasks": [vars(task) for task in found]})
    else:
        print("\n".join(map(_task_line, found)))
    return 0


def algorithms(args: Sequence[str]) -> int:
    options = parse(AnswerOptions, args, "dima algorithms")

    from dima.algorithms import algorithm_names, algorithm_summary
    from dima.presets import preset_names

    found: list[dict[str, Any]] = []
    names = algorithm_names()
    for name in names:
        try:
            found.append({"name": name, "summary": algorithm_summary(name), "presets": preset_names(name)})
        except ConfigError as error:  # of a package whose modules fail
            print(f"dima: {error}", file=sys.stderr)
    if options.json:
        answer({"algorithms": found})
        return 0
    width = max(map(len, names))
    for one in found:
        print(f"{one['name']:<{width}}  {one['summary']}\n{'':<{width}}  presets: {', '.join(one['presets'])}")
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
    command = first_run(report, [arg for arg in choice.rest if name_of(arg) != "json"])
    if options.json:
        answer(report.to_dict() | {"train": command})
    else:
        print("\n".join([*report.lines, *([f"to train in it:\n    {command}"] if command else [])]))
    return 0 if report.ok else 2


def doctor(args: Sequence[str]) -> int:
    options = parse(AnswerOptions, args, "dima doctor")

    from dima.cli.doctor import examine

    findings = examine()
    broken = any(finding.fatal for finding in findings)
    if options.json:
        answer({"ok": not broken, "findings": [finding.to_dict() for finding in findings]})
    else:
        print("\n".join(map(str, findings)))
    return 1 if broken else 0


def completion(args: Sequence[str]) -> int:
    options = parse(CompletionOptions, args, "dima completion")

    from dima.cli.completion import script

    print(script(options.shell), end="")
    return 0


def _task_line(task: TaskInfo) -> str:
    agents = "any number" if task.n_agents is None else task.n_agents
    return f"{task.name:<40}  {agents} agents  {task.note}".rstrip()
