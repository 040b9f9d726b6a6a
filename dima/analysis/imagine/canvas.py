"""Lay out captioned pictures as film frames and filmstrips; encode them as PNG, MP4 and animated WebP."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
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


def frame(title: str, panels: Sequence[Panel], legend: Mapping[str, str] | None = None) -> np.ndarray:
    """Film frame: panels side by side under a title.

    Captions stand above the pictures, because a player's buttons hide the bottom.

    Args:
        title: one line.
        panels: with pictures of one size and captions of as many lines.
        legend: colours by name, shown right of the panels' names where there is room.

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
    room = wide - pen.textlength(panels[-1].name, _font(size, bold=True))
    _draw_legend(pen, legend or {}, sheet.width - _MARGIN, _MARGIN + line, room, size)
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


def _draw_legend(
    pen: ImageDraw.ImageDraw, legend: Mapping[str, str], right: float, top: float, room: float, size: int
) -> None:
    """Names in their colours, ending at ``right``; nothing where they take more than ``room``."""
    font = _font(size, bold=True)
    left, widths = right, [size + pen.textlength(name, font) for name in legend]
    if sum(widths) > room:
        return
    for (name, color), width in reversed(list(zip(legend.items(), widths, strict=True))):
        pen.text((left, top), name, color, font, "ra")
        left -= width


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


_ENCODERS = {  # of ffmpeg, by a film's kind, with options
    "mp4": ("libx264", "yuv420p", ["-crf", "20", "-movflags", "+faststart"]),
    "webp": ("libwebp_anim", "yuv420p", ["-quality", "60", "-compression_level", "2", "-loop", "0"]),
}
Kind = Literal["mp4", "webp"]


def encode(frames: Iterable[np.ndarray], fps: float, kinds: Sequence[Kind] = ("mp4",)) -> dict[Kind, bytes]:
    """Encode a film, one frame at a time, so that they need not fit into memory.

    Args:
        frames: (height, width, 3) uint8 each, all of one size; at least one.
        fps: frames a second.
        kinds: ``mp4`` (H.264) plays in every browser; ``webp`` is an animated picture, for a README.

    Returns:
        The files by kind.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_writers:
        paths = {kind: Path(folder, f"film.{kind}") for kind in kinds}
        writers: list[Generator[None, np.ndarray | None, None]] = []
        for frame in map(_even, frames):
            if not writers:
                height, width, _ = frame.shape
                for kind, path in paths.items():
                    writer = _writer(kind, path, (width, height), fps)
                    open_writers.callback(writer.close)
                    writer.send(None)
                    writers.append(writer)
            for writer in writers:
                writer.send(frame)
        open_writers.close()
        return {kind: path.read_bytes() for kind, path in paths.items()}


def _writer(kind: Kind, path: Path, size: tuple[int, int], fps: float) -> Generator[None, np.ndarray | None, None]:
    codec, pixels, options = _ENCODERS[kind]
    writer: Generator[None, np.ndarray | None, None] = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=fps,
        codec=codec,
        quality=None,  # the options say it
        pix_fmt_out=pixels,
        macro_block_size=1,  # sizes are even already
        output_params=options,
        ffmpeg_log_level="error",
    )
    return writer


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat an odd last row or column, since yuv420p stores colours for blocks of 2 by 2 pixels."""
    height, width, _ = frame.shape
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
