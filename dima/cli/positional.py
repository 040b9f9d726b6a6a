"""Find the task, algorithm and preset, on which the other flags depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from dima.algorithms import algorithm_config
from dima.cli.fields import flags
from dima.cli.help import asks_help
from dima.cli.options import BOOLEANS, name_of
from dima.envs import TASKS, suite_config
from dima.errors import ConfigError, UserError
from dima.presets import default_preset, preset_changes
from dima.training.run_config import RunConfig

EXAMPLE = "mamujoco/halfcheetah-2x3"  # task whose options `dima train --help` shows
Device = Literal["auto", "cpu", "cuda"]


@dataclass
class Choice:
    """Arguments split into names and the remaining flags."""

    names: dict[str, Any] = field(default_factory=dict)  # task, algorithm and preset, as far as given
    rest: list[str] = field(default_factory=list)


def choose(
    args: Sequence[str], options: type, subject: str = "task", learns: bool = True, also: Sequence[str] = ()
) -> Choice:
    """Extract the positional argument, and ``--algorithm`` and ``--preset`` if the command has them.

    Args:
        args: the arguments after the command.
        options: the command's options; their types decide which words are values of a flag.
        subject: name of the positional argument.
        learns: whether the command has ``--algorithm`` and ``--preset``.
        also: further flags to extract.

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
            words.append(None)  # the next word is not a value of the flag before
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
    """The task; an example if only help is requested."""
    if "task" not in choice.names and not asks_help(args):
        raise ConfigError(f"no task was given: write `{command} TASK`, with a task that `dima tasks` lists")
    task: str = choice.names.get("task", EXAMPLE)
    return task


def preset_values(choice: Choice, run: bool = True) -> dict[str, Any]:
    """Defaults of a run's options under the chosen algorithm and preset, for help texts.

    Args:
        choice: the names that were given.
        run: with the preset's settings of runs; else those of the algorithm alone would apply.
    """
    algorithm = choice.names.get("algorithm", RunConfig.algorithm)
    preset = choice.names.get("preset") or default_preset(algorithm)
    values: dict[str, Any] = {"algorithm": algorithm, "preset": preset}
    for changes in preset_changes(algorithm, preset, choice.names.get("task", EXAMPLE)) if run else ():
        values |= {name: value for name, value in changes.items() if not isinstance(value, Mapping)}
    return values


def _known(options: type, args: Sequence[str], algorithm: str | None) -> dict[str, Any]:
    """Types of a command's flags by name, with those of every suite."""
    known = dict(flags(options))
    if algorithm is not None and any(arg.startswith("--learner") for arg in args):  # so is PyTorch
        known |= flags(algorithm_config(algorithm), "learner.")
    if any(arg.startswith("--env.") for arg in args):  # simulators are slow to import
        for name in TASKS.names():
            with suppress(UserError):  # not installed; an error later, if the task needs it
                known |= flags(suite_config(name if "/" in name else f"{name}/"), "env.")
    return known


def _is_value(word: str, flag: str, known: Mapping[str, Any]) -> bool:
    """Whether a word is the value of the flag before it, by type."""
    name = name_of(flag)
    if not flag.startswith("--") or "=" in flag or name.split(".")[-1].startswith("no-"):
        return False
    kind = known.get(name)
    if kind is bool:
        return word.lower() in BOOLEANS
    if get_origin(kind) is tuple and get_args(kind)[0] in (int, float):  # may be empty
        return _is_number(word)
    return True


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
