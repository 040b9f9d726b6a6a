"""Errors that a user can cause: the command line prints one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Invalid input: the message names its source and a remedy, in one line."""


class ConfigError(UserError):
    """A configuration field, preset, task or algorithm that does not exist or is out of range."""


class EnvError(UserError):
    """An environment that is not supported, or that violated the PettingZoo API."""


class RunFolderError(UserError):
    """A run folder or dataset folder that is missing, damaged, of another kind, or not writable."""


class DatasetError(UserError):
    """A dataset that does not fit: of another task, empty, unfinished, or inconsistent with its simulator."""


class DivergenceError(UserError):
    """A loss, a gradient or a weight became NaN or infinite."""


class CallbackError(UserError):
    """A callback of the user's own that raised, or cannot be used."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Hint for an error message: the closest known name, or else all of them.

    Args:
        name: the unknown name.
        known: valid names.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of: " + ", ".join(known) if known else "none is available"


def one_line(error: BaseException) -> str:
    """An exception as one line: its kind and message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
