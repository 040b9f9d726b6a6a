"""Classes of fields on API pages: signatures without limits, and their comments, which are help texts elsewhere."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_type_hints

from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.typing import stringify_annotation

from dima.cli.fields import comments
from dima.config import Config

_parse = GoogleDocstring._parse


def _parse_property(self: GoogleDocstring) -> None:
    """Read a property's docstring as a method's; what stands before a colon in its first line is not its type."""
    if self._what == "property":
        self._what = "method"
    _parse(self)


GoogleDocstring._parse = _parse_property


def describe(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append a class's fields that its docstring does not describe; called by autodoc."""
    if what != "class" or not _fields(obj):
        return
    said = "\n".join(lines)
    found = {field: comments(obj).get(field, "") for field in _fields(obj)}
    shown = {field: text for field, text in found.items() if text and f"var {field}:" not in said}
    if shown:
        lines += ["", *(f":param {field}: {_escaped(text)}" for field, text in shown.items()), ""]


def sign(app: Any, what: str, name: str, obj: Any, options: Any, args: str, returned: str) -> tuple[str, str] | None:
    """The signature of a settings class with plain types, and none of a protocol; called by autodoc."""
    if what == "class" and getattr(obj, "_is_protocol", False):
        return "", ""
    if not (what == "class" and dataclasses.is_dataclass(obj) and issubclass(obj, Config)):
        return None
    hints, shown = get_type_hints(obj), []
    for parameter in inspect.signature(obj).parameters.values():
        kind = stringify_annotation(hints[parameter.name], "smart")
        default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{parameter.name}: {kind}{default}")
    return f"({', '.join(shown)})", ""


def _fields(obj: Any) -> list[str]:
    if dataclasses.is_dataclass(obj):
        return [field.name for field in dataclasses.fields(obj)]
    return list(getattr(obj, "_fields", ()))


def _escaped(text: str) -> str:
    """A comment as reStructuredText."""
    for mark in ("\\", "*", "|", "_"):
        text = text.replace(mark, "\\" + mark)
    return text.replace("`", "``")
