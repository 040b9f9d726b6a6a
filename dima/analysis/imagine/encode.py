"""Pictures as files: PNG, and MP4 that browsers play (H.264, by the ffmpeg that imageio brings along)."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
from PIL import Image


def png(picture: np.ndarray) -> bytes:
    """A picture (height, width, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def mp4(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """A film as an MP4 file; it is encoded while frames are made, so they need not fit into memory.

    Args:
        frames: (height, width, 3) uint8 each, all of one size; at least one.
        fps: frames a second.
    """
    waiting = iter(frames)
    first = _even(next(waiting))
    height, width, _ = first.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=1,  # sizes are even already: nothing is to be resized
            output_params=["-crf", "20", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        try:
            for frame in chain([first], map(_even, waiting)):
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()
        return path.read_bytes()


def _even(frame: np.ndarray) -> np.ndarray:
    """Colours are kept for two pixels by two: an odd row or column is doubled."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
