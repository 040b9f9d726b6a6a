"""Help texts: ``--help`` is one screen, ``--help-all`` has every option."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from dima.cli.commands import command_of
from dima.cli.fields import Option, negated, options_of
from dima.cli.overview import sentence, table

SHORT, ALL = ("-h", "--help"), "--help-all"


def asks_help(args: Collection[str]) -> bool:
    """Whether help is asked for, of either kind."""
    return ALL in args or asks_short_help(args)


def asks_short_help(args: Collection[str]) -> bool:
    """Whether the options that most people use are asked for."""
    return any(flag in args for flag in SHORT) and ALL not in args


def help_text(prog: str, options: Any, args: Sequence[str] = SHORT, values: Mapping[str, Any] | None = None) -> str:
    """The help of a command.

    Args:
        prog: the command, ``dima train``; what follows is ignored.
        options: its dataclass, or an instance of it, which has the defaults.
        args: with ``--help-all`` every option is shown, else those that most people use.
        values: other defaults of some options.
    """
    name, command = command_of(prog)
    every = list(options_of(options))
    full = ALL in args or not command.common
    chosen = every if full else _named(every, command.common)
    words = command.usage.split()
    lines = [f"usage: {name} {command.usage}", "", sentence(command.about), ""]
    lines += _conditions(options) if ALL in args else []
    by_group = sorted(chosen, key=lambda option: option.group)
    for (group, about), members in groupby(by_group, key=lambda option: (option.group, option.about)):
        lines += [f"{f'--{group}.*' if group else 'options'}{f': {about}' if about else ''}"]
        lines += [*table([_row(o, words, values or {}, limits=ALL in args) for o in members]), ""]
    lines += ["examples:" if len(command.examples) > 1 else "example:", *(f"  {one}" for one in command.examples), ""]
    lines += command.notes if ALL not in args else ()
    hidden = len(every) - len(chosen)
    hidden_too = f"{hidden} more options" if hidden and not _open(every) else "all options"
    lines += [] if full else [f"`{name} {ALL}` shows {hidden_too}, with their defaults."]
    return "\n".join(lines).rstrip()


def _conditions(options: Any) -> list[str]:
    """A line on what the options of a run depend on."""
    config = getattr(options, "config", None)
    names = [getattr(config, name) for name in ("task", "algorithm", "preset") if hasattr(config, name)]
    if not hasattr(config, "learner"):
        return []
    return ["Options and defaults for {}, {}, preset {}; name others to see theirs.".format(*names), ""]


def _named(options: Sequence[Option], names: Sequence[str]) -> list[Option]:
    found = {option.name: option for option in options}
    return [found[name] for name in names]


def _open(options: Sequence[Option]) -> bool:
    """Whether there are settings which depend on the task or the algorithm."""
    return any(option.name in ("task", "algorithm") for option in options)


def _row(option: Option, usage: Sequence[str], values: Mapping[str, Any], limits: bool) -> tuple[str, str]:
    """Name and help of an option; one that the usage names stands there as an argument."""
    if option.positional or option.name.upper() in usage:
        return option.name.upper() + (" ..." if option.metavar.endswith("...") else ""), option.help
    flag = negated(option.name, "[no-]") if option.default is True else f"--{option.name}"
    return f"{flag} {option.metavar}".rstrip(), _right(option, values, limits)


def _right(option: Option, values: Mapping[str, Any], limits: bool) -> str:
    value = values.get(option.name.replace("-", "_"), option.default)
    facts = [option.limits] if limits and option.limits else []
    if value is not None and value is not False and value not in ((), ""):
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else "on" if value is True else value
        facts.append(f"default: {shown}")
    return f"{option.help} ({'; '.join(facts)})" if facts else option.help
