"""Lays pictures out beside each other, with words above and below: film frames and filmstrips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = "#ffffff", "#1b1e23", "#5b636e"
_GAP = 8  # pixels between pictures, and around everything
_LINE = 1.35  # height of a line, in font sizes


@dataclass(frozen=True)
class Panel:
    """A picture, what it is, and lines of caption."""

    picture: np.ndarray  # (height, width, 3) uint8
    name: str
    caption: Sequence[str]
    color: str = INK  # of the name


def frame(title: str, panels: Sequence[Panel]) -> np.ndarray:
    """One frame of a film: panels side by side under a title, captions above pictures: a player's buttons hide what
    stands at the bottom.

    Args:
        title: one line.
        panels: with pictures of one size and captions of as many lines.

    Returns:
        (height, width, 3) uint8, of a size that depends on the pictures' size and the number of lines alone.
    """
    high, wide, _ = panels[0].picture.shape
    size = max(11, round(wide / 25))
    line = round(_LINE * size)
    top = _GAP + (2 + len(panels[0].caption)) * line
    sheet = Image.new("RGB", (_GAP + len(panels) * (wide + _GAP), top + high + _GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, FAINT, _font(size))
    for i, panel in enumerate(panels):
        left = _GAP + i * (wide + _GAP)
        pen.text((left, _GAP + line), panel.name, panel.color, _font(size, bold=True))
        _paste(sheet, panel.picture, left, top)
        for n, text in enumerate(panel.caption):
            pen.text((left, _GAP + (2 + n) * line), text, INK, _font(size))
    return np.asarray(sheet)


def strip(title: str, rows: Sequence[Sequence[Panel]]) -> np.ndarray:
    """A filmstrip: rows of pictures; every row is named once, every picture has its own captions.

    Args:
        title: one line.
        rows: of as many panels, with pictures of one size and captions of as many lines. A row's name and colour are
            its first panel's.

    Returns:
        (height, width, 3) uint8.
    """
    high, wide, _ = rows[0][0].picture.shape
    size = max(10, round(wide / 16))
    line = round(_LINE * size)
    lines = len(rows[0][0].caption)
    row_high = line + high + lines * line + _GAP
    width = _GAP + len(rows[0]) * (wide + _GAP)
    sheet = Image.new("RGB", (width, 2 * _GAP + line + len(rows) * row_high), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, INK, _font(size, bold=True))
    for r, row in enumerate(rows):
        top = 2 * _GAP + line + r * row_high
        pen.text((_GAP, top), row[0].name, row[0].color, _font(size, bold=True))
        for c, panel in enumerate(row):
            left = _GAP + c * (wide + _GAP)
            _paste(sheet, panel.picture, left, top + line)
            for n, text in enumerate(panel.caption):
                pen.text((left, top + line + high + 2 + n * line), text, INK, _font(size))
    return np.asarray(sheet)


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, (height, width, 3); narrower ones leave the page white on their right."""
    wide = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 0), (0, wide - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def shrink(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture ``width`` pixels wide, in its own proportions."""
    high, wide, _ = picture.shape
    small = Image.fromarray(picture).resize((width, round(high * width / wide)), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _paste(sheet: Image.Image, picture: np.ndarray, left: int, top: int) -> None:
    """With a hairline around it: some pictures are as white as the paper."""
    sheet.paste(Image.fromarray(picture), (left, top))
    high, wide, _ = picture.shape
    ImageDraw.Draw(sheet).rectangle((left - 1, top - 1, left + wide, top + high), outline="#d8dce1")


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface that matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
