"""Ranges of a search: how a field is drawn, as Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dima.config import shown
from dima.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KINDS = {
    "float": "{float: [0.1, 0.3]}",
    "log": "{log: [1.0e-5, 1.0e-2]}",
    "int": "{int: [1, 8]}",
    "choice": "{choice: [tanh, relu]}",
}


@dataclass(frozen=True)
class Range:
    """How one field is drawn.

    Attributes:
        kind: ``float``, ``log`` (a float, uniform in its logarithm), ``int``, both ends included, or ``choice``.
        values: the two ends, or all choices.
    """

    kind: str
    values: tuple[Any, ...]

    def to_dict(self) -> dict[str, Any]:
        """The range as it stands in a file."""
        return {self.kind: [list(v) if isinstance(v, tuple) else v for v in self.values]}

    @property
    def samples(self) -> list[Any]:
        """Values that must all fit the field: the ends with one between them, or every choice."""
        if self.kind == "choice":
            return list(self.values)
        low, high = self.values
        golden = (math.sqrt(5) - 1) / 2
        return [low, high] if self.kind == "int" else [low, high, low + golden * (high - low)]

    def distribution(self) -> BaseDistribution:
        """Optuna's form; a choice is drawn by its number, since it may be a list."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(tuple(range(len(self.values))))
        low, high = self.values
        if self.kind == "int":
            return IntDistribution(low, high)
        return FloatDistribution(low, high, log=self.kind == "log")

    def value(self, drawn: Any) -> Any:
        """The field's value of what Optuna drew."""
        return self.values[drawn] if self.kind == "choice" else drawn

    def holds(self, drawn: Any) -> bool:
        """Whether Optuna could have drawn this."""
        if self.kind == "choice":
            return type(drawn) is int and 0 <= drawn < len(self.values)
        kinds = (int,) if self.kind == "int" else (int, float)
        return type(drawn) in kinds and self.values[0] <= drawn <= self.values[1]


Space = Mapping[str, Range]  # by dotted field


def read_space(fields: Mapping[str, Any]) -> dict[str, Range]:
    """Check the ranges of a search.

    Raises:
        ConfigError: one is not of a known kind, or its ends are not two numbers, the lower one first.
    """
    return {name: _range(name, value) for name, value in fields.items()}


def _range(name: str, value: object) -> Range:
    field = f"search.fields.{name}"
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"{field} = {shown(value)} does not fit: expected one of {', '.join(KINDS.values())}")
    kind, values = next(iter(value.items()))
    if kind not in KINDS:
        raise ConfigError(f"{field}: there is no range {shown(kind)}: {nearest(str(kind), KINDS)}")
    if kind == "choice":
        if not isinstance(values, list | tuple) or len(values) < 2:
            raise ConfigError(f"{field}.choice = {shown(values)} does not fit: expected at least two values")
        if any(values[i] in values[:i] for i in range(len(values))):
            raise ConfigError(f"{field}.choice = {shown(values)}: a value stands twice")
        return Range(kind, tuple(values))
    number = int if kind == "int" else int | float
    pair = isinstance(values, list | tuple) and len(values) == 2
    if not pair or not all(isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        what = "whole numbers" if kind == "int" else "numbers"
        raise ConfigError(f"{field}.{kind} = {shown(values)} does not fit: expected two {what}, as in {KINDS[kind]}")
    low, high = values
    if not low < high or (kind == "log" and low <= 0):
        positive = " and positive" if kind == "log" else ""
        raise ConfigError(f"{field}.{kind} = {shown(values)} does not fit: expected the lower end first{positive}")
    return Range(kind, (low, high))
