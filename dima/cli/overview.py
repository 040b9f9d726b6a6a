"""The list of commands, and how help texts are laid out; imports nothing heavy."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence

from dima.cli.commands import COMMANDS, DATASET, Command

_WIDTH = 100  # characters of a line, at most
_NARROWEST = 60
_LEFT = 30  # of the column of names, at most


def overview() -> str:
    """The help of ``dima``."""
    listed = _list("dima", "multi-agent reinforcement learning with world models", COMMANDS)
    return listed + "\n`dima --version` prints the version."


def dataset_overview() -> str:
    """The help of ``dima dataset``."""
    return _list("dima dataset", COMMANDS["dataset"].about, DATASET)


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of two columns, the right one wrapped."""
    width = min(_WIDTH, max(_NARROWEST, shutil.get_terminal_size((_WIDTH, 24)).columns))
    column = min(_LEFT, max(len(left) for left, _ in rows) + 2)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, width - 2 - column, break_long_words=False, break_on_hyphens=False) or [""]
        if len(left) + 2 > column:
            lines.append(f"  {left}")
            left = ""
        first, *others = wrapped
        lines += [f"  {left:<{column}}{first}".rstrip(), *(f"  {'':<{column}}{line}" for line in others)]
    return lines


def sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def _list(prog: str, about: str, commands: Mapping[str, Command]) -> str:
    rows = table([(name, command.about) for name, command in commands.items()])
    more = f"`{prog} COMMAND --help` shows the options that most people use, `--help-all` all of them."
    return "\n".join([f"usage: {prog} COMMAND ...", "", sentence(about), "", *rows, "", more])
