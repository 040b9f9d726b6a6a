"""Shell completion: a script that holds a table of everything, so that completing starts no Python.

The table is read by one awk program in every shell; what differs is how a shell hands over words and takes candidates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from typing import Any

from dima.cli.commands import COMMANDS, DATASET, Command, every_command
from dima.cli.fields import Option, negated, options_of
from dima.cli.help import ALL
from dima.errors import UserError

Row = tuple[str, str, str, str]  # scope, word, its values, description
_SWITCH, _FOLDER, _FILE = "-", "@folder", "@file"
_VALUES = {  # of options by name
    "algorithm": "@algorithms",
    "preset": "@presets",
    "task": "@tasks",
    **dict.fromkeys(("run", "out", "also", "dataset", "runs"), _FOLDER),
    "reference": _FILE,
}
_ARGUMENTS = {"TASK": "@tasks", "[TEXT]": "@tasks", "FILE": _FILE}
_ARGUMENTS |= dict.fromkeys(("RUN", "RUN...", "DATASET"), _FOLDER)
_DESCRIPTION = 70  # characters


def script(shell: str) -> str:
    """The completion script of a shell.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    here = files("dima.cli.completions")
    program = here.joinpath("candidates.awk").read_text(encoding="utf-8").rstrip()
    table = "\n".join("\t".join(row) for row in rows())
    quoted = _quoted_for_fish if shell == "fish" else _quoted
    text = here.joinpath(f"dima.{shell}").read_text(encoding="utf-8")
    return text.replace("@PROGRAM@", quoted(program)).replace("@TABLE@", quoted(table))


def rows() -> Iterator[Row]:
    """The table: scopes of commands first, then what they lead to."""
    for name, command in COMMANDS.items():
        yield "", name, _SWITCH, command.about
    for name, command in DATASET.items():
        yield "dataset", name, _SWITCH, command.about
    for name, command in every_command().items():
        yield from _command(name, command)
    yield from _tasks()
    yield from _algorithms()


def _command(name: str, command: Command) -> Iterator[Row]:
    kind = getattr(import_module(f"dima.cli.{command.module}"), command.options)
    options = list(options_of(kind))
    usage = command.usage.split()
    values = [_ARGUMENTS[word] for word in usage if word in _ARGUMENTS]
    values += [" ".join(option.choices) for option in options if option.positional and option.choices]
    for value in values[:1]:
        yield name, "", value, ""
    for option in options:
        if not (option.positional or option.name.upper() in usage):
            yield from _option(name, option)
    yield name, "--help", _SWITCH, "the options that most people use"
    yield name, ALL, _SWITCH, "every option"


def _option(scope: str, option: Option) -> Iterator[Row]:
    about = option.help if len(option.help) <= _DESCRIPTION else option.help[: _DESCRIPTION - 1] + "…"
    if not option.metavar:
        yield scope, f"--{option.name}", _SWITCH, about
        if option.default:
            yield scope, negated(option.name), _SWITCH, f"not: {about}"
    else:
        yield scope, f"--{option.name}", " ".join(option.choices) or _VALUES.get(option.name, ""), about


def _tasks() -> Iterator[Row]:
    from dima.envs import TASKS, all_tasks, suite_config

    for task in all_tasks():
        yield "@tasks", task.name, _SWITCH, task.note
    for name in TASKS.names():
        yield from _settings(
            f"env%{name}", "env.", lambda name=name: suite_config(name if "/" in name else f"{name}/")()
        )


def _algorithms() -> Iterator[Row]:
    from dima.algorithms import algorithm_config, algorithm_names, algorithm_summary
    from dima.presets import preset_names

    for name in algorithm_names():
        try:
            found = [("@algorithms", name, _SWITCH, algorithm_summary(name))]
            found += [(f"@presets@{name}", preset, _SWITCH, "") for preset in preset_names(name)]
        except UserError as error:  # of a package whose modules fail
            print(f"dima: {error}", file=sys.stderr)
            continue
        yield from found
        yield from _settings(f"learner@{name}", "learner.", lambda name=name: algorithm_config(name))


def _settings(scope: str, prefix: str, build: Any) -> Iterator[Row]:
    """Options of the algorithm or the environment; none where a package fails."""
    try:
        options = list(options_of(build(), prefix))
    except UserError as error:
        print(f"dima: {error}", file=sys.stderr)
        return
    for option in options:
        yield from _option(scope, option)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _quoted_for_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
