"""Command line: one function per command, one line per error.

Read this file first (dispatch, errors), then ``options`` (flags from dataclasses), ``positional`` (task, algorithm and
preset before the other flags), and the commands: ``train`` (train, resume, evaluate), ``sweep``, ``inspect`` (demo,
imagine, diagnose, report), ``datasets`` (dataset, fit), ``share`` (export, push, pull), ``info`` (tasks, algorithms,
check, doctor) with ``doctor``.

Exit status: 0 done, 2 bad input, 130 interrupted and saved, 1 anything else.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dima.errors import UserError, nearest
from dima.version import __version__

MODULES = {  # module of this package -> its commands and their help
    "train": {
        "train": "train a team on a task: dima train TASK --algorithm dima",
        "resume": "continue an interrupted run, or extend a finished one",
        "evaluate": "evaluate a run's policy over episodes",
    },
    "sweep": {
        "sweep": "carry out tasks x algorithms x seeds x settings from a file, or search settings",
    },
    "inspect": {
        "demo": "show a trained team and its imagination, in the browser, from a run that comes along",
        "imagine": "compare imagined with real episodes: film, strip and page",
        "diagnose": "evaluate a run's world model: prediction error, calibration, influence; a page and JSON",
        "report": "compare runs on one page: learning curves, tables, confidence intervals",
    },
    "datasets": {
        "dataset": "record and describe datasets, import from and export to Minari",
        "fit": "fit a world model to a dataset: dima fit DATASET --algorithm dima",
    },
    "share": {
        "export": "write a run's policy as files that act without simulator: safetensors, torch.export, ONNX",
        "push": "copy a run folder to the Hugging Face hub",
        "pull": "copy a run folder from the Hugging Face hub",
    },
    "info": {
        "tasks": "list the tasks",
        "algorithms": "list the algorithms and their presets",
        "check": "check that an environment follows the PettingZoo API",
        "doctor": "check this installation and machine",
    },
}
_MAX_MESSAGE = 2_000  # characters of an error message
COMMANDS = {name: about for commands in MODULES.values() for name, about in commands.items()}


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
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, *rest = args
    if name in ("-V", "--version", "version"):
        print(f"dima {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}: {nearest(name, COMMANDS)}")
    module = next(module for module, commands in MODULES.items() if name in commands)
    status = getattr(import_module(f"dima.cli.{module}"), name)(rest)
    assert isinstance(status, int)
    return status


def _help() -> str:
    lines = [f"  {name:<12}{about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dima COMMAND ...",
            "",
            "Multi-agent reinforcement learning with world models.",
            "",
            *lines,
            "",
            "`dima COMMAND --help` lists the options of a command; `dima --version` prints the version.",
        ]
    )
