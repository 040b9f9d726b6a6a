"""Metrics as a table: columns, rows, curves, data frames."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dima.errors import ConfigError
from dima.storage.table import MetricsTable

RECORDS = [
    {"step": 10, "iteration": 1, "loss": 0.5},
    {"event": "interrupted"},
    {"step": 20, "iteration": 2, "loss": None, "evaluate/return": -3.0},
    {"step": 30, "iteration": 3, "loss": 0.25, "<b>": 1},
]


@pytest.fixture
def table() -> MetricsTable:
    return MetricsTable(RECORDS)


def test_columns_are_arrays_with_gaps(table: MetricsTable) -> None:
    assert list(table) == ["step", "iteration", "loss", "evaluate/return", "<b>"]
    assert table["step"].tolist() == [10, 20, 30] and table["step"].dtype == np.int64
    np.testing.assert_equal(table["loss"], [0.5, np.nan, 0.25])
    np.testing.assert_equal(table["evaluate/return"], [np.nan, -3.0, np.nan])
    steps, values = table.curve("loss")
    assert steps.tolist() == [10, 30] and values.tolist() == [0.5, 0.25]


def test_rows_have_what_was_logged(table: MetricsTable) -> None:
    assert table.rows() == [record for record in RECORDS if "step" in record]


@pytest.mark.parametrize("error", [ConfigError, KeyError])
def test_a_misspelt_metric_is_named(table: MetricsTable, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        table.curve("evaluate/retrun")
    assert str(raised.value) == "there is no metric 'evaluate/retrun': did you mean 'evaluate/return'?"
    assert table.get("evaluate/retrun") is None and "evaluate/retrun" not in table


def test_a_data_frame_where_pandas_is_installed(table: MetricsTable, monkeypatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert frame.index.name == "step" and frame.loc[20, "evaluate/return"] == -3.0
    assert pandas.DataFrame(table).shape == (3, 5)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        table.to_pandas()


def test_it_describes_itself(table: MetricsTable) -> None:
    assert repr(table) == "<3 rows of 5 metrics: step, iteration, loss, evaluate/return, <b>>"
    page = table._repr_html_()
    assert "<td>0.25</td>" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "0 of 0 rows" in MetricsTable([])._repr_html_()
