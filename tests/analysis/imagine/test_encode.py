"""Films and pictures survive being written."""

from __future__ import annotations

import io
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dima.analysis.imagine.encode import mp4, png


def read(film: bytes, folder: Path) -> tuple[dict, np.ndarray]:
    """What ffmpeg says about a film, and its frames."""
    path = folder / "film.mp4"
    path.write_bytes(film)
    reading = imageio_ffmpeg.read_frames(str(path))
    facts = next(reading)
    wide, high = facts["size"]
    return facts, np.stack([np.frombuffer(frame, np.uint8).reshape(high, wide, 3) for frame in reading])


def test_a_film_holds_its_frames_in_order(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), 50 * i, np.uint8) for i in range(5)]
    facts, seen = read(mp4(iter(frames), fps=5), tmp_path)
    assert facts["codec"] == "h264" and "yuv420p" in facts["pix_fmt"]
    assert facts["fps"] == 5 and facts["size"] == (30, 20)
    assert seen.shape == (5, 20, 30, 3)
    assert np.abs(seen.mean((1, 2, 3)) - 50 * np.arange(5)).max() < 4


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    facts, seen = read(mp4([np.full((21, 31, 3), 200, np.uint8)], fps=10), tmp_path)
    assert facts["size"] == (32, 22)
    assert seen.min() > 190


def test_a_frame_that_cannot_be_drawn_ends_the_film() -> None:
    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mp4(frames(), fps=10)


def test_a_picture_is_exact() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
