"""What has to be known before a command's other flags can be: its task, algorithm and preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from dima.algorithms import algorithm_config
from dima.cli.options import SAID, flags, name_of
from dima.envs import SUITES, suite_config
from dima.errors import ConfigError, EnvError
from dima.training.run_config import RunConfig

EXAMPLE = "mamujoco/halfcheetah-2x3"  # the task that `dima train --help` shows the options of
Device = Literal["auto", "cpu", "cuda"]


@dataclass
class Choice:
    """What has to be known before the other flags can be: they depend on it."""

    names: dict[str, Any] = field(default_factory=dict)  # of the task, the algorithm and the preset
    rest: list[str] = field(default_factory=list)


def choose(
    args: Sequence[str], options: type, subject: str = "task", learns: bool = True, also: Sequence[str] = ()
) -> Choice:
    """Take the subject, a word without a flag, out of the arguments; ``--algorithm``, ``--preset`` if it learns.

    Args:
        args: what follows the command.
        options: the command's options; their types tell which words are values of a flag.
        subject: what the word names.
        learns: whether the command knows an algorithm and a preset.
        also: names of further flags to take out.

    Raises:
        ConfigError: a name's value is missing, or there is no such algorithm.
    """
    named = {f"--{name}": name for name in (subject, *(("algorithm", "preset") if learns else ()), *also)}
    choice, words = Choice(), list[str | None]()
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        flag, has_value, value = arg.partition("=")
        if flag in named:
            if not has_value and (not waiting or waiting[0].startswith("-")):
                raise ConfigError(f"{flag} needs a value")
            choice.names[named[flag]] = value if has_value else waiting.pop(0)
            words.append(None)  # what follows is no value of the flag before
        else:
            words.append(arg)
    known = _known(options, args, choice.names.get("algorithm", RunConfig.algorithm) if learns else None)
    for before, word in zip([None, *words], words, strict=False):
        if word is None:
            continue
        if word.startswith("-") or word.isdigit() or subject in choice.names or _is_value(word, before or "", known):
            choice.rest.append(word)
        else:
            choice.names[subject] = word
    return choice


def the_task(choice: Choice, args: Sequence[str], command: str) -> str:
    """The task that was given; an example where only help is wanted."""
    if "task" not in choice.names and not {"-h", "--help"} & set(args):
        raise ConfigError(f"no task was given: write `{command} TASK`, with a task that `dima tasks` lists")
    task: str = choice.names.get("task", EXAMPLE)
    return task


def _known(options: type, args: Sequence[str], algorithm: str | None) -> dict[str, Any]:
    """The types of all flags that a command may have, by name; the environment's are those of every suite."""
    known = dict(flags(options))
    if algorithm is not None:
        known |= flags(algorithm_config(algorithm), "learner.")
    if any(arg.startswith("--env.") for arg in args):  # simulators are heavy
        for suite in SUITES:
            with suppress(EnvError):  # not to be used here: if it is the task's, that is told later
                known |= flags(suite_config(f"{suite}/"), "env.")
    return known


def _is_value(word: str, flag: str, known: Mapping[str, Any]) -> bool:
    """Whether a word behind a flag belongs to it, as far as types tell; an unknown flag takes one."""
    name = name_of(flag)
    if not flag.startswith("--") or "=" in flag or name.split(".")[-1].startswith("no-"):
        return False
    kind = known.get(name)
    if kind is bool:
        return word.lower() in SAID
    if get_origin(kind) is tuple and get_args(kind)[0] in (int, float):  # possibly none
        return _is_number(word)
    return True


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
