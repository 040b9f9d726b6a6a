"""Command line: one function per command, one line per error.

Read this file first (dispatch, errors), then ``commands`` (what there is), ``fields`` and ``options`` (flags from
dataclasses), ``positional`` (task, algorithm and preset before the other flags), ``overview`` and ``help``, and the
commands: ``train`` (train, resume, evaluate), ``sweep``, ``inspect`` (demo, imagine, diagnose, report), ``datasets``
(dataset, fit), ``share`` (export, push, pull), ``info`` (tasks, algorithms, check, doctor, completion) with ``doctor``
and ``completion``.

Exit status: 0 done, 2 bad input, 130 interrupted and saved, 1 anything else.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dima.cli.commands import COMMANDS
from dima.errors import UserError, nearest
from dima.version import __version__

_MAX_MESSAGE = 2_000  # characters of an error message


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    args = sys.argv[1:] if args is None else list(args)
    # waiting threads sleep instead of spinning, which is several times slower when other programs use the cores; OpenMP
    # reads this when PyTorch is first imported, below
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks never ends a command
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print("dima: " + _one_line(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dima: stopped immediately; the last saved state is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _one_line(message: str) -> str:
    """Message that may quote an untrusted file, shortened and without control characters."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(message.split()))
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}..."


def _run(args: Sequence[str]) -> int:
    if len(args) > 1 and args[0] == "help":
        args = [*args[1:], "--help"]
    if not args or args[0] in ("-h", "--help", "--help-all", "help"):
        from dima.cli.overview import overview

        print(overview())
        return 0
    name, *rest = args
    if name in ("-V", "--version", "version"):
        print(f"dima {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}: {nearest(name, COMMANDS)}")
    status = getattr(import_module(f"dima.cli.{COMMANDS[name].module}"), name)(rest)
    assert isinstance(status, int)
    return status
