"""The errors a user can cause. The command line prints them as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot work: the message names the culprit and what to do, in one line."""


class ConfigError(UserError):
    """A configuration field, preset, task or algorithm that does not exist or is out of range."""


class EnvError(UserError):
    """An environment that cannot be handled, or that broke its promises while it ran."""


class RunFolderError(UserError):
    """A folder of ours, a run's or a dataset's, that is missing, damaged, not ours, or cannot be written."""


class DatasetError(UserError):
    """A dataset that does not fit what is asked of it: of another task, empty, unfinished, unlike its simulator."""


class DivergenceError(UserError):
    """A loss, a gradient or a weight became NaN or infinite."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that ends an error message: the nearest right name, or else every right name.

    Args:
        name: what the user wrote.
        known: what would have been right.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of: " + ", ".join(known) if known else "none is available"


def one_line(error: Exception) -> str:
    """An exception as one line: its kind and message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
