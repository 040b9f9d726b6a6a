"""Lay out captioned pictures as film frames and filmstrips, and encode them as PNG and MP4."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT = "#ffffff", "#1b1e23", "#5b636e"
_MARGIN = 8  # pixels between pictures, and around everything
_LINE_HEIGHT = 1.35  # in font sizes


@dataclass(frozen=True)
class Panel:
    """A picture with its name and lines of caption."""

    picture: np.ndarray  # (height, width, 3) uint8
    name: str
    caption: Sequence[str]
    color: str = TEXT  # of the name


def frame(title: str, panels: Sequence[Panel]) -> np.ndarray:
    """Film frame: panels side by side under a title.

    Captions stand above the pictures, because a player's buttons hide the bottom.

    Args:
        title: one line.
        panels: with pictures of one size and captions of as many lines.

    Returns:
        (height, width, 3) uint8; its size depends on the pictures' size and the number of lines alone.
    """
    high, wide, _ = panels[0].picture.shape
    size = max(11, round(wide / 25))
    line = round(_LINE_HEIGHT * size)
    top = _MARGIN + (2 + len(panels[0].caption)) * line
    sheet = Image.new("RGB", (_MARGIN + len(panels) * (wide + _MARGIN), top + high + _MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, FAINT, _font(size))
    for i, panel in enumerate(panels):
        left = _MARGIN + i * (wide + _MARGIN)
        pen.text((left, _MARGIN + line), panel.name, panel.color, _font(size, bold=True))
        _paste(sheet, panel.picture, left, top)
        for n, text in enumerate(panel.caption):
            pen.text((left, _MARGIN + (2 + n) * line), text, TEXT, _font(size))
    return np.asarray(sheet)


def strip(title: str, rows: Sequence[Sequence[Panel]]) -> np.ndarray:
    """Filmstrip: rows of pictures, with a name for each row and captions for each picture.

    Args:
        title: one line.
        rows: of as many panels, with pictures of one size and captions of as many lines. A row's name and colour are
            its first panel's.

    Returns:
        (height, width, 3) uint8.
    """
    high, wide, _ = rows[0][0].picture.shape
    size = max(10, round(wide / 16))
    line = round(_LINE_HEIGHT * size)
    lines = len(rows[0][0].caption)
    row_high = line + high + lines * line + _MARGIN
    width = _MARGIN + len(rows[0]) * (wide + _MARGIN)
    sheet = Image.new("RGB", (width, 2 * _MARGIN + line + len(rows) * row_high), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, TEXT, _font(size, bold=True))
    for r, row in enumerate(rows):
        top = 2 * _MARGIN + line + r * row_high
        pen.text((_MARGIN, top), row[0].name, row[0].color, _font(size, bold=True))
        for c, panel in enumerate(row):
            left = _MARGIN + c * (wide + _MARGIN)
            _paste(sheet, panel.picture, left, top + line)
            for n, text in enumerate(panel.caption):
                pen.text((left, top + line + high + 2 + n * line), text, TEXT, _font(size))
    return np.asarray(sheet)


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Stack pictures vertically, (height, width, 3); narrower ones are padded with white on the right."""
    wide = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 0), (0, wide - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def shrink(picture: np.ndarray, width: int) -> np.ndarray:
    """Scale a picture to ``width`` pixels, keeping its proportions."""
    high, wide, _ = picture.shape
    small = Image.fromarray(picture).resize((width, round(high * width / wide)), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _paste(sheet: Image.Image, picture: np.ndarray, left: int, top: int) -> None:
    """With a hairline around it, since some pictures are as white as the background."""
    sheet.paste(Image.fromarray(picture), (left, top))
    high, wide, _ = picture.shape
    ImageDraw.Draw(sheet).rectangle((left - 1, top - 1, left + wide, top + high), outline="#d8dce1")


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib's package data."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def png(picture: np.ndarray) -> bytes:
    """Encode a picture (height, width, 3) uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def mp4(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """Encode frames as MP4 (H.264) that browsers play, one at a time, so that they need not fit into memory.

    Args:
        frames: (height, width, 3) uint8 each, all of one size; at least one.
        fps: frames a second.
    """
    remaining = iter(frames)
    first = _even(next(remaining))
    height, width, _ = first.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=1,  # sizes are even already
            output_params=["-crf", "20", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        try:
            for frame in chain([first], map(_even, remaining)):
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()
        return path.read_bytes()


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat an odd last row or column, since yuv420p stores colours for blocks of 2 by 2 pixels."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
