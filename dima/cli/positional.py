"""What has to be known before a command's other flags can be: its task, algorithm and preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dima.errors import ConfigError

EXAMPLE = "mamujoco/halfcheetah-2x3"  # the task that `dima train --help` shows the options of
Device = Literal["auto", "cpu", "cuda"]
_VALUELESS = ("--overwrite", "--no-overwrite", "--quiet", "--no-quiet")


@dataclass
class Choice:
    """What has to be known before the other flags can be: they depend on it."""

    names: dict[str, Any] = field(default_factory=dict)  # of the task, the algorithm and the preset
    rest: list[str] = field(default_factory=list)


def choose(args: Sequence[str], subject: str = "task", learns: bool = True) -> Choice:
    """Take the subject, a word without a flag, out of the arguments; ``--algorithm``, ``--preset`` if it learns."""
    flags = [f"--{name}" for name in (subject, *(("algorithm", "preset") if learns else ()))]
    choice, waiting = Choice(), list(args)
    before = ""
    while waiting:
        arg = waiting.pop(0)
        name, has_value, value = arg.partition("=")
        if name in flags:
            if not has_value and (not waiting or waiting[0].startswith("-")):
                raise ConfigError(f"{name} needs a value")
            choice.names[name[2:]] = value if has_value else waiting.pop(0)
        elif arg.startswith("-") or arg.isdigit() or subject in choice.names or _takes_value(before):
            choice.rest.append(arg)
        else:
            choice.names[subject] = arg
        before = arg
    return choice


def the_task(choice: Choice, args: Sequence[str], command: str) -> str:
    """The task that was given; an example where only help is wanted."""
    if "task" not in choice.names and not {"-h", "--help"} & set(args):
        raise ConfigError(f"no task was given: write `{command} TASK`, with a task that `dima tasks` lists")
    task: str = choice.names.get("task", EXAMPLE)
    return task


def _takes_value(flag: str) -> bool:
    valueless = flag in _VALUELESS or "=" in flag or flag.split(".")[-1].lstrip("-").startswith("no-")
    return flag.startswith("--") and not valueless and flag not in ("--algorithm", "--preset")
