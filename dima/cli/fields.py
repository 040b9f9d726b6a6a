"""Options as the fields of dataclasses say: name, type, default, help."""

from __future__ import annotations

import dataclasses
import inspect
import io
import math
import textwrap
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from dima.config import Range

_POSITIONAL = get_args(tyro.conf.Positional[str])[1]


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    name: str  # learner.ppo.clip, without dashes before it
    kind: Any  # its type
    limited: Any  # the same with its limits
    default: Any  # None if there is none, or it is None
    help: str
    group: str = ""  # learner.ppo; empty at the top
    about: str = ""  # help of the group
    positional: bool = False

    @property
    def plain(self) -> Any:
        """Its type without None."""
        return _plain(self.kind)

    @property
    def choices(self) -> tuple[str, ...]:
        """Values it may have, where it names them."""
        kind = self.plain
        inner = _plain(get_args(kind)[0]) if get_origin(kind) is tuple else kind
        return tuple(map(str, get_args(inner))) if get_origin(inner) is Literal else ()

    @property
    def metavar(self) -> str:
        """What stands for its value in help texts; empty for a switch."""
        return "" if self.plain is bool else _metavar(self.plain)

    @property
    def limits(self) -> str:
        """Range of its values in words; empty if any will do."""
        ranges = [limit for limit in _extras(self.limited) if isinstance(limit, Range)]
        return ", ".join(f"{r.low:g} to {r.high:g}" if _both(r) else str(replace(r, high=_high(r))) for r in ranges)


def options_of(options: Any, prefix: str = "", about: str = "") -> Iterator[Option]:
    """The options of a dataclass: each field is one, each comment its help.

    Args:
        options: a class, or an instance; an instance also has those of nested configs that its class leaves open.
        prefix: of their names, such as ``learner.``.
        about: help of what stands at that prefix.
    """
    kind = options if isinstance(options, type) else type(options)
    hints, limited, helps = get_type_hints(kind), get_type_hints(kind, include_extras=True), comments(kind)
    for field in dataclasses.fields(kind):
        name, about_field = prefix + field.name.replace("_", "-"), helps.get(field.name, "")
        value = getattr(options, field.name, None)
        nested = value if dataclasses.is_dataclass(value) else _plain(hints[field.name])
        if not dataclasses.is_dataclass(nested):
            types_ = hints[field.name], limited[field.name]
            positional = _POSITIONAL in _extras(types_[1])
            yield Option(name, *types_, value, about_field, prefix.rstrip("."), about, positional)
        elif field.name == "config":  # its flags have no prefix, see the options of `dima train`
            yield from options_of(nested, prefix, about)
        else:
            yield from options_of(nested, f"{name}.", about_field)


def flags(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and type, without limits, of each option; arguments as for :func:`options_of`."""
    for option in options_of(options, prefix):
        yield option.name, option.kind


def negated(switch: str, mark: str = "no-") -> str:
    """The flag that turns a switch off: ``learner.compile`` -> ``--learner.no-compile``."""
    head, dot, tail = switch.rpartition(".")
    return f"--{head}{dot}{mark}{tail}"


@cache
def comments(kind: type) -> dict[str, str]:
    """The comment of each field: behind it in its line, or in the lines above it."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(base) or "_fields" in vars(base):  # or a NamedTuple
            found |= _comments_of(base)
    return found


def _comments_of(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # no source: made by a program
        return {}
    names = set(vars(kind).get("__annotations__", {}))
    found: dict[str, str] = {}
    above: list[str] = []  # comment lines since the last statement
    field, fresh, level = "", True, 0  # the field of the statement; whether a statement begins here; its indentation
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if fresh:
                above.append(text)
            elif field:
                found[field] = text
        elif token.type == tokenize.NEWLINE:
            field, fresh, above = "", True, []
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            level += 1 if token.type == tokenize.INDENT else -1
        elif fresh and token.type != tokenize.NL:
            fresh = False
            if level == 1 and token.type == tokenize.NAME and token.string in names:
                field = token.string
                found[field] = " ".join(above)
    return found


def _both(limits: Range) -> bool:
    return math.isfinite(limits.low) and math.isfinite(_high(limits)) and not limits.above


def _high(limits: Range) -> float:
    """The upper limit, if it is not that of 63 bits."""
    return limits.high if limits.high < 2**62 else math.inf


def _plain(kind: Any) -> Any:
    """A type without None."""
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return parts[0] if len(parts) == 1 else kind
    return kind


def _extras(kind: Any) -> list[Any]:
    """Limits and markers of a type, also of the values of a tuple."""
    extras = list(get_args(kind)[1:]) if get_origin(kind) is Annotated else []
    for part in get_args(kind):
        extras += [] if isinstance(part, str) else _extras(part)
    return extras


def _metavar(kind: Any) -> str:
    kind = _plain(kind)
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return f"{_metavar(parts[0])} ..." if parts[-1] is Ellipsis else " ".join(map(_metavar, parts))
    names = {int: "INT", float: "FLOAT", str: "TEXT"}
    return names.get(kind, "VALUE")
