"""Names of a sweep's run folders: short, portable, the same in every call."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_PORTABLE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST = 120  # characters of a folder's name without the seed; longer settings are named by a hash


def folder_name(
    algorithm: str, preset: str, settings: Mapping[str, Any], tails: Mapping[str, str], trial: int | None = None
) -> str:
    """``<algorithm>-<preset>[-trial<number>][-setting=value...]``, to which the seed is appended.

    Args:
        algorithm: its name.
        preset: its name.
        settings: values of the settings that vary, by dotted field.
        tails: what each of them is called, see :func:`short_names`.
        trial: number of a search's trial.
    """
    head = "-".join([portable(algorithm), portable(preset), *([f"trial{trial:03d}"] if trial is not None else [])])
    parts = [f"{tails[name]}={_value(value)}" for name, value in settings.items()]
    name = "-".join([head, *parts])
    if len(name) <= _LONGEST:
        return name
    return f"{head}-{_digest(dict(settings))}"


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted fields that tell them apart: ``learner.ppo.clip`` -> ``clip``."""
    names = {}
    for field in fields:
        parts = field.split(".")
        for length in range(1, len(parts) + 1):
            tail = ".".join(parts[-length:])
            if not any(other != field and f".{other}".endswith(f".{tail}") for other in fields):
                break
        names[field] = tail
    return names


def portable(text: str) -> str:
    """Text without characters that file systems or shells treat in their own way."""
    return _PORTABLE.sub(".", text)


def _value(value: Any) -> str:
    """A value as a part of a name; one that loses characters gets a hash to stay unique."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple) and all(isinstance(one, int | float) for one in value):
        return "x".join(map(_value, value)) or "empty"
    text = portable(str(value))
    return text if text == value else f"{text[:24]}.{_digest(value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:8]
