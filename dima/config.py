"""Frozen configuration dataclasses: validated when built, stored as YAML.

Every settings class of the library derives from :class:`Config`. A field's annotation is its validation:
``Annotated[int, Range(1)]`` limits the values, ``Annotated[tuple[...], NonEmpty()]`` requires at least one. A wrong
value raises :class:`~dima.errors.ConfigError` with the field, the value and what was expected. A config that is
written to YAML and read again is equal.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import stat
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dima.errors import ConfigError, nearest

C = TypeVar("C", bound="Config")
K = TypeVar("K")
_MAX_YAML_BYTES = 1 << 17  # typically at most 4 kB
_MAX_YAML_NODES = 1 << 16  # with aliases expanded
_MAX_NAME, _MAX_PATH = 255, 4095  # bytes that file systems allow
_INT_LIMIT = 2**63  # of the absolute value of integers, as in tensors


@dataclass(frozen=True)
class Range:
    """Interval of numbers: ``low <= value <= high`` (``low < value`` if ``above``)."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "any number"


@dataclass(frozen=True)
class NonEmpty:
    """Constraint on a list: at least one value."""

    hint: str = ""  # example of a value


Count = Annotated[int, Range(1)]
MAX_EPISODE_STEPS = 10**5  # bounded, because the rows of an episode are in memory until it ends
EpisodeSteps = Annotated[int, Range(1, MAX_EPISODE_STEPS)]
SmallCount = Annotated[int, Range(1, 1000)]  # of modules that are built one by one, such as layers
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
DropoutRate = Annotated[float, Range(0, 0.9)]  # a tenth at least is kept


@dataclass(frozen=True)
class Config:
    """Base of every settings class; validates each field against its annotation."""

    def __post_init__(self) -> None:
        for name, annotation in _annotations(type(self)).items():
            object.__setattr__(self, name, _checked(f"{name}", getattr(self, name), annotation))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dictionaries, lists and scalars, for YAML or JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def override(self: C, changes: Mapping[str, Any]) -> C:
        """Copy with ``changes`` applied; nested configs take nested mappings.

        Raises:
            ConfigError: a field does not exist (the closest name is suggested) or a value is invalid. The message
                begins with the field's path, such as ``learner.ppo.clip``.
        """
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {}
        for name, value in changes.items():
            if name not in known:
                unknown = shown(name).strip("'")
                raise ConfigError(f"{unknown} is not a field of {type(self).__name__}: {nearest(unknown, known)}")
            if isinstance(known[name], Config) and isinstance(value, Mapping):
                try:
                    value = known[name].override(value)
                except ConfigError as error:
                    raise ConfigError(f"{name}.{error}") from None
            values[name] = value
        return dataclasses.replace(self, **values)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names, ``{"learner.ppo.clip": 0.1}``, or nested ones, or both, as one nested mapping.

    Raises:
        ConfigError: a setting is given twice, or is given as a value and as a section.
    """
    result: dict[str, Any] = {}
    for path, value in _leaves(settings):
        *sections, last = path.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path} = {shown(value)} and {section} = {shown(inner)} are given: give one of them")
        if last in inner:
            raise ConfigError(f"{path} = {shown(value)} and {last} = {shown(inner[last])} are given: give one of them")
        inner[last] = value
    return result


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names."""
    return dict(_leaves(settings))


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def shown(value: object, length: int = 60) -> str:
    """Untrusted value for a message: one short line of printable characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nesting without end
        return f"<a {type(value).__name__} too large to show>"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def count(value: object) -> int:
    """Check an untrusted count.

    Raises:
        ValueError: it is not a non-negative integer, or exceeds 63 bits.
    """
    if type(value) is not int or not 0 <= value < _INT_LIMIT:
        raise ValueError(f"{shown(value)} is not a count")
    return value


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, ``~`` being the home folder.

    Raises:
        ConfigError: there is no such home, or a name is not of UTF-8 or longer than file systems allow.
    """
    path = os.fspath(path)
    try:
        found = Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{shown(str(path))} names the home of a user who does not exist") from None
    try:
        sizes = [len(part.encode()) for part in found.parts]
    except UnicodeEncodeError:
        raise ConfigError(
            f"{shown(str(path))} is not UTF-8, as files of a run must be: rename it, or choose a locale of UTF-8"
        ) from None
    if max(sizes, default=0) > _MAX_NAME or sum(sizes) + len(sizes) > _MAX_PATH:
        raise ConfigError(f"{shown(str(path))} is too long: a name may have {_MAX_NAME} bytes, a path {_MAX_PATH}")
    return found


def read_text(path: Path, limit: int) -> str:
    """Read an untrusted text file.

    Args:
        path: a regular file, or a link to one.
        limit: maximal size in bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file (but, say, an endless device), is too large, or is not UTF-8.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("it is not a regular file")
    if facts.st_size > limit:
        raise ValueError(f"it has {facts.st_size} bytes, more than the limit of {limit}")
    return path.read_text(encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML loader that reads ``1e-4`` as a number, refuses repeated fields and limits the expansion of aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # id of a node -> size of its tree, aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and id(node) not in self._sizes:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            # a node that contains itself has no size yet
            size = 1 + sum(self._sizes.get(id(part), _MAX_YAML_NODES) for part in inner)
            if size > _MAX_YAML_NODES:
                raise yaml.composer.ComposerError(problem="its aliases expand to too many values")
            self._sizes[id(node)] = size
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):  # PyYAML would keep the last
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.composer.ComposerError(problem=f"{shown(twice)} stands twice")
        return node


class _Dumper(yaml.SafeDumper):
    """YAML dumper without aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _side in (_Loader, _Dumper):  # which puts text that looks like a number between quotes
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is too large, is not valid YAML or does not hold a mapping from
            names.
    """
    try:
        content = yaml.load(read_text(path, _MAX_YAML_BYTES), _Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid YAML: it is nested too deeply") from None
    except Exception as error:  # a wrong tag, as in `!!bool maybe`, can raise anything
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{path} must hold a mapping of fields to values")
    return content


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as YAML in the order of its fields."""
    path.write_text(yaml_text(content), encoding="utf-8")


def yaml_text(content: Mapping[str, Any]) -> str:
    """Format plain data as YAML in the order of its fields."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def checked_fields(kind: type[K], values: object) -> K:
    """Build a dataclass from an untrusted mapping, validated like a config.

    Raises:
        ConfigError: it is not a mapping, a field does not exist or is missing, or a value is invalid.
    """
    if not isinstance(values, Mapping):
        raise _mismatch(kind.__name__, values, "a mapping")
    known = _annotations(kind)
    if unknown := [name for name in values if name not in known]:
        raise ConfigError(f"{shown(unknown[0])} is not a field of {kind.__name__}")
    try:
        return kind(**{name: _checked(name, value, known[name]) for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from None


_HINTS: dict[type, dict[str, Any]] = {}


def _annotations(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        hints = get_type_hints(kind, include_extras=True)
        _HINTS[kind] = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
    return _HINTS[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)  # a name that remembers where it is from becomes plain text
    return value


def _checked(name: str, value: Any, annotation: Any) -> Any:
    """Validate, with lossless conversions (int to float, list to tuple); raises ConfigError."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        value = _checked(name, value, args[0])
        for limit in args[1:]:
            if isinstance(limit, Range) and value is not None and value not in limit:
                raise ConfigError(f"{name} = {shown(value)} is out of range: expected {limit}")
            if isinstance(limit, NonEmpty) and not value:
                example = f", such as {limit.hint}" if limit.hint else ""
                raise ConfigError(f"{name} = [] is empty: name at least one value{example}")
        return value
    if origin in (Union, types.UnionType):
        return _checked_union(name, value, args)
    if origin is Literal:
        if value not in args:
            hint = nearest(shown(value), map(str, args))
            raise ConfigError(f"{name} = {shown(value)} is not one of {', '.join(map(str, args))}: {hint}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mismatch(name, value, "a list")
        kinds = args[:1] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(kinds) != len(value):
            raise _mismatch(name, value, f"a list of {len(args)} values")
        return tuple(_checked(f"{name}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    return _checked_scalar(name, value, annotation)


def _checked_union(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    failures = []
    for kind in kinds:
        try:
            return _checked(name, value, kind)
        except ConfigError as error:
            failures.append((kind, error))
    raise next(error for kind, error in failures if kind is not type(None))


def _checked_scalar(name: str, value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    if kind is int and isinstance(value, float) and value.is_integer():  # 1e6
        value = int(value)
    if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
        raise ConfigError(f"{name} = {shown(value)} is out of range: expected at most 63 bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
        raise _mismatch(name, value, "nothing" if kind is type(None) else f"a value of type {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise _mismatch(name, value, "a finite number")
    return value


def _mismatch(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{name} = {shown(value)} does not fit: expected {expected}")
