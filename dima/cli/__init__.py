"""The command line: finds the command, and turns what goes wrong into one line and an exit status.

Exit status: 0 done, 2 bad input, 130 interrupted and saved, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dima.errors import UserError, nearest
from dima.version import __version__

HOMES = {  # module of this package -> its commands, and what each does
    "train": {
        "train": "learn a task: dima train TASK --algorithm dima --preset small",
        "resume": "go on with a run that was interrupted",
        "evaluate": "play episodes with a run's policy",
    },
    "inspect": {
        "imagine": "show what a run's world model imagines beside what happens: film, strip, page",
        "diagnose": "say what a run's world model gets right and wrong: a page and its numbers",
        "report": "compare runs on one page: curves, tables, intervals over seeds",
    },
    "datasets": {
        "dataset": "record episodes, look at them, exchange them with Minari",
        "fit": "fit a world model to a dataset: dima fit DATASET --algorithm dima --preset small",
    },
    "info": {
        "tasks": "list the environments",
        "algorithms": "list the algorithms and their presets",
        "check": "say whether an environment can be learnt, and what is wrong with it",
        "doctor": "say what this installation and this machine offer",
    },
}
_LONGEST = 2_000  # characters of an error's line
COMMANDS = {name: about for commands in HOMES.values() for name, about in commands.items()}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status."""
    args = sys.argv[1:] if args is None else list(args)
    # threads that wait for each other sleep instead of spinning: beside any other busy program spinning costs several
    # times the work itself; read by OpenMP when PyTorch is first imported, below
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print("dima: " + _one_line(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dima: stopped at once; what was saved last is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _one_line(message: str) -> str:
    """A message that may quote a stranger's file, without what would steer the terminal or flood it."""
    told = "".join(character if character.isprintable() else "?" for character in " ".join(message.split()))
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


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
    home = next(home for home, commands in HOMES.items() if name in commands)
    status = getattr(import_module(f"dima.cli.{home}"), name)(rest)
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
            "`dima COMMAND --help` explains a command's options; `dima --version` prints the version.",
        ]
    )
