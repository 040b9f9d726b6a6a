"""The metrics of a run as a table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dima.errors import ConfigError, nearest


class UnknownMetric(ConfigError, KeyError):
    """A metric that a run has not logged."""

    __str__ = Exception.__str__  # a KeyError would quote its message


class MetricsTable(dict[str, np.ndarray]):
    """The metrics of a run: a dictionary of columns, each an array (R,) with NaN where a row has no value.

    ``pandas.DataFrame(table)`` and :meth:`to_pandas` make a data frame of it.

    Args:
        records: a run's, of which those with a ``step`` are the rows.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._records = [dict(record) for record in records if isinstance(record.get("step"), int)]
        names = dict.fromkeys(name for record in self._records for name in record)
        super().__init__({name: self._column(name) for name in names})

    def _column(self, name: str) -> np.ndarray:
        values = [record.get(name) for record in self._records]
        if all(type(value) is int for value in values):
            return np.array(values, dtype=np.int64)
        return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)

    def __missing__(self, name: str) -> np.ndarray:
        raise UnknownMetric(f"there is no metric {name!r}: {nearest(str(name), self)}")

    def rows(self) -> list[dict[str, Any]]:
        """The rows in order, each with the metrics that it has."""
        return [dict(record) for record in self._records]

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric where it has one: ``plt.plot(*table.curve("evaluate/return"))``.

        Raises:
            ConfigError: the run has no such metric; the nearest right name is suggested.
        """
        there = ~np.isnan(self[name])
        return self["step"][there], self[name][there]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with the step as its index.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(dict(self)).set_index("step")

    def __repr__(self) -> str:
        return f"<{len(self._records)} rows of {len(self)} metrics: {', '.join(self)}>"

    def _repr_html_(self) -> str:
        """The last rows, for notebooks."""
        shown = self._records[-10:]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self)
        body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in self) + "</tr>" for row in shown)
        title = f"the last {len(shown)} of {len(self._records)} rows"
        return f"<div style='overflow-x:auto'><table><caption>{title}</caption><tr>{head}</tr>{body}</table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
