"""Settings to compare, written ``field=value,other.field=value``."""

from __future__ import annotations

from typing import Any

import yaml

from dima.errors import ConfigError


def changes_of(text: str) -> dict[str, Any]:
    """The changes of a config that a setting stands for, nested as the config is.

    Raises:
        ConfigError: it is not of that form.
    """
    changes: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        path, given, value = part.partition("=")
        if not given:
            raise ConfigError(f"setting {part!r}: write it as field=value, or field.field=value")
        *sections, field = path.split(".")
        place = changes
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = yaml.safe_load(value)
    return changes


def said(text: str) -> str:
    """The name of a setting in a table."""
    return text or "default"
