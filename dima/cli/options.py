"""Command-line flags from dataclasses with tyro, and one-line error messages."""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from typing import Any, TypeVar, get_args

import tyro

from dima.cli.commands import command_of
from dima.cli.fields import flags, negated
from dima.cli.help import asks_help, help_text
from dima.errors import ConfigError

T = TypeVar("T")
BOOLEANS = {"true": True, "false": False}  # values of a switch on the command line
_FRAME = re.compile(r"[\u2500-\u257f]+|-{3,}|^[|+]|[|+]$")
_REWRITTEN = {
    r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 = \2 is not a whole number",
    r"Error parsing (\S+): could not convert string to float: (.*)": r"\1 = \2 is not a number",
    r"Error parsing (\S+): Could not find valid parse for arguments: \['(.*)'\].*": r"\1 = \2 does not fit",
    r"Missing from (.*?): (?:STR|\{\S+\}) (.*) \(required\)": r"`\1` needs a \2",
    r"Missing value for argument '(\S+)'.*": r"\1 needs a value",
    r"Invalid choice '(.*)' for argument '(\S+)'. Expected one of \((.*)\)\.?": r"\2 = '\1' is not one of \3",
}


def parse(kind: type[T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Parse the options of a command.

    Args:
        kind: a dataclass; each field is a flag, each comment its help.
        args: the arguments after the command.
        prog: the command, for help texts.
        default: values of flags that are not given.

    Raises:
        ConfigError: a flag does not exist (the closest one is suggested) or its value is invalid.
        SystemExit: help was requested and printed.
    """
    start: dict[str, Any] = {} if default is None else {"default": default}
    known = dict(flags(default or kind))
    args = _plain_numbers(_plain_switches(args, known), known)
    if asks_help(args):
        print(help_text(prog, default or kind, args))
        raise SystemExit(0)
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            options, unknown = tyro.cli(kind, args=args, prog=prog, return_unknown_args=True, **start)
    except SystemExit:
        raise ConfigError(_one_line(output.getvalue())) from None
    except ConfigError as error:
        raise ConfigError(_with_flag(str(error), args)) from None
    if unknown:
        raise ConfigError(_not_a_switch(unknown[0], args, known) or _unknown(unknown[0], sorted(known), prog))
    return options


def _one_line(text: str) -> str:
    """tyro's message without frame, title and hints at the help."""
    lines = [_FRAME.sub("", line.strip()).strip() for line in text.splitlines()]
    line = " ".join(line for line in lines[1:] if line)
    line = re.split(r"Argument helptext:|For full helptext", line)[0].strip()
    for pattern, rewritten in _REWRITTEN.items():
        line = re.sub(pattern, rewritten, line, flags=re.IGNORECASE)
    return line


def _with_flag(message: str, args: Sequence[str]) -> str:
    """Name the given flag, ``--learner.ppo.clip``, in an error about ``clip``."""
    field = re.split(r"\W", message, maxsplit=1)[0]
    given = [arg.split("=")[0] for arg in args if arg.startswith("--")]
    flags = [flag for flag in given if flag.replace("-", "_").rsplit(".", 1)[-1].lstrip("_") == field]
    return flags[0] + message[len(field) :] if len(flags) == 1 else message


def _not_a_switch(value: str, args: Sequence[str], known: dict[str, Any]) -> str:
    """Message about a value that a switch does not have; empty if no switch stands before it."""
    for flag, word in zip(args, [*args[1:], ""], strict=True):
        switch = _switch(flag, known)
        if switch and value == (flag.partition("=")[2] if "=" in flag else word):
            return (
                f"--{switch} = {value!r} is neither true nor false: --{switch} alone is true, {negated(switch)} false"
            )
    return ""


def _unknown(token: str, flags: Sequence[str], prog: str) -> str:
    help_command = f"see `{command_of(prog)[0]} --help`"
    if not token.startswith("-"):
        return f"unexpected argument {token!r}: {help_command}"
    flag = token.split("=")[0]
    name = name_of(flag)
    tails = [known for known in flags if known.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    close = tails[:3] or difflib.get_close_matches(name, flags, n=1) or _close_tails(name, flags)
    hint = "did you mean " + " or ".join(f"--{known}" for known in close) + "?" if close else help_command
    return f"there is no option {flag}: {hint}"


def _close_tails(name: str, flags: Sequence[str]) -> list[str]:
    tails = {known.rsplit(".", 1)[-1]: known for known in flags}
    return [tails[tail] for tail in difflib.get_close_matches(name.rsplit(".", 1)[-1], tails, n=1)]


def name_of(flag: str) -> str:
    """``--learner.cuda_graphs=3`` -> ``learner.cuda-graphs``."""
    return flag.split("=")[0].lstrip("-").replace("_", "-")


def _plain_numbers(args: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Rewrite whole numbers such as ``1e6``, which are values of integers, as digits."""
    plain: list[str] = []
    kind: Any = None  # of the last flag
    for arg in args:
        name, has_value, value = arg.partition("=")
        if arg.startswith("--"):
            kind = known.get(name_of(name))
        of_flag = has_value and arg.startswith("--")
        if int in (kind, *get_args(kind)) and float not in get_args(kind):
            number = _digits(value if of_flag else arg)
            arg = f"{name}={number}" if of_flag else number
        plain.append(arg)
    return plain


def _digits(text: str) -> str:
    """``1e6`` as ``1000000``; any other text as it is."""
    if not re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE]\+?[0-9]{1,2}", text):
        return text
    number = Decimal(text)
    return str(int(number)) if number == int(number) else text


def _plain_switches(args: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Rewrite ``--flag True``, ``--flag=false`` and ``--no-flag True`` for tyro: ``--flag``, ``--no-flag``."""
    plain, remaining = [], list(args)
    while remaining:
        arg = remaining.pop(0)
        _, has_value, value = arg.partition("=")
        if switch := _switch(arg, known):
            if not has_value and remaining and remaining[0].lower() in BOOLEANS:
                value = remaining.pop(0)
            if value.lower() in BOOLEANS:
                negative = name_of(arg) != switch
                arg = f"--{switch}" if BOOLEANS[value.lower()] != negative else negated(switch)
        plain.append(arg)
    return plain


def _switch(arg: str, known: dict[str, Any]) -> str:
    """Name of the switch that ``--name`` or ``--no-name`` sets; empty if it sets none."""
    name = name_of(arg)
    head, dot, tail = name.rpartition(".")
    positive = f"{head}{dot}{tail.removeprefix('no-')}"
    found = next((known_name for known_name in (name, positive) if known.get(known_name) is bool), "")
    return found if arg.startswith("--") else ""
