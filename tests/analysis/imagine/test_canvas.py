"""Film frames and filmstrips: layout and captions; and their encoding as PNG and MP4."""

from __future__ import annotations

import io
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dima.analysis.imagine.canvas import Panel, encode, frame, png, shrink, stack, strip

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


def test_a_legend_has_its_colours_and_gives_way_to_names() -> None:
    wide = panel(np.zeros((40, 200, 3), np.uint8), color="#000001")
    plain, told = frame("title", [wide]), frame("title", [wide], {"a": "#00ff00", "b": "#ff00ff"})
    assert plain.shape == told.shape
    green, purple = found(told, [0, 255, 0]), found(told, [255, 0, 255])
    assert green[3] < purple[2] and purple[3] > 190 and purple[1] < found(told, [0, 0, 0])[1] - 40
    crowded = frame("title", [wide], {f"agent_{i}": "#00ff00" for i in range(9)})
    assert np.array_equal(crowded, plain)


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


# -- encoding ---------------------------------------------------------------------------------------------------------


def read(film: bytes, folder: Path) -> tuple[dict, np.ndarray]:
    """ffmpeg's description of a film, and its frames."""
    path = folder / "film.mp4"
    path.write_bytes(film)
    reading = imageio_ffmpeg.read_frames(str(path))
    facts = next(reading)
    wide, high = facts["size"]
    return facts, np.stack([np.frombuffer(frame, np.uint8).reshape(high, wide, 3) for frame in reading])


def test_a_film_holds_its_frames_in_order(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), 50 * i, np.uint8) for i in range(5)]
    facts, seen = read(encode(iter(frames), 5)["mp4"], tmp_path)
    assert facts["codec"] == "h264" and "yuv420p" in facts["pix_fmt"]
    assert facts["fps"] == 5 and facts["size"] == (30, 20)
    assert seen.shape == (5, 20, 30, 3)
    assert np.abs(seen.mean((1, 2, 3)) - 50 * np.arange(5)).max() < 4


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    facts, seen = read(encode([np.full((21, 31, 3), 200, np.uint8)], 10)["mp4"], tmp_path)
    assert facts["size"] == (32, 22)
    assert seen.min() > 190


def test_a_frame_that_cannot_be_drawn_ends_the_film() -> None:
    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode(frames(), 10, ["mp4", "webp"])


def test_an_animated_picture_holds_its_frames_and_plays_for_ever() -> None:
    shades = [50, 100, 150, 200]
    films = encode((np.full((20, 30, 3), shade, np.uint8) for shade in shades), 5, ["webp", "mp4"])
    assert set(films) == {"mp4", "webp"}
    picture = Image.open(io.BytesIO(films["webp"]))
    assert (picture.format, picture.size, picture.n_frames, picture.info["loop"]) == ("WEBP", (30, 20), 4, 0)
    for number, shade in enumerate(shades):
        picture.seek(number)
        assert np.abs(np.asarray(picture.convert("RGB")).mean() - shade) < 4
        assert picture.info["duration"] == 200


def test_a_picture_is_exact() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
