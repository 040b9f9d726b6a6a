"""Frames and strips: pictures where they belong, words that are seen, sizes that do not change."""

from __future__ import annotations

import numpy as np
import pytest

from dima.analysis.imagine.canvas import Panel, frame, shrink, stack, strip

RED, BLUE = (np.full((40, 60, 3), color, np.uint8) for color in ([255, 0, 0], [0, 0, 255]))


def panel(picture=RED, name="real", caption=("one", "two"), color="#000000") -> Panel:
    return Panel(picture, name, caption, color)


def found(sheet: np.ndarray, color: list[int]) -> np.ndarray:
    """Rows and columns of a colour's corners: top, bottom, left, right."""
    rows, columns = np.nonzero((sheet == color).all(-1))
    return np.array([rows.min(), rows.max(), columns.min(), columns.max()])


def test_a_frame_shows_both_pictures_whole_and_side_by_side() -> None:
    sheet = frame("title", [panel(RED), panel(BLUE)])
    red, blue = found(sheet, [255, 0, 0]), found(sheet, [0, 0, 255])
    assert (red[1] - red[0], red[3] - red[2]) == (blue[1] - blue[0], blue[3] - blue[2]) == (39, 59)
    assert red[:2].tolist() == blue[:2].tolist()
    assert blue[2] > red[3]
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3


@pytest.mark.parametrize(
    "changed",
    [
        ("other", [panel()]),
        ("title", [panel(name="imagined")]),
        ("title", [panel(caption=("one", "three"))]),
        ("title", [panel(caption=("", ""))]),
        ("title", [panel(color="#ff0000")]),
    ],
)
def test_every_word_of_a_frame_is_seen_and_none_changes_its_size(changed) -> None:
    plain, other = frame("title", [panel()]), frame(*changed)
    assert plain.shape == other.shape
    assert not np.array_equal(plain, other)


def test_a_strip_has_rows_and_columns() -> None:
    rows = [[panel(RED, "real")] * 3, [panel(BLUE, "imagined")] * 3]
    sheet = strip("title", rows)
    red, blue = found(sheet, [255, 0, 0]), found(sheet, [0, 0, 255])
    assert red[2:].tolist() == blue[2:].tolist()
    assert blue[0] > red[1] and red[1] - red[0] == 39
    assert red[3] - red[2] > 3 * 60
    assert not np.array_equal(sheet, strip("other", rows))
    named = strip("title", [[panel(RED, "here")] * 3, rows[1]])
    assert not np.array_equal(sheet, named)


def test_pictures_are_stacked_on_white_and_shrunk_in_proportion() -> None:
    both = stack([RED, BLUE[:, :20]])
    assert both.shape == (80, 60, 3)
    assert both[0, 59].tolist() == [255, 0, 0] and both[79, 19].tolist() == [0, 0, 255]
    assert both[79, 20].tolist() == [255, 255, 255]
    assert shrink(RED, 30).shape == (20, 30, 3)
