"""Plots in a common style, as inline SVG for a page and as SVG and PNG files.

Pure black follows the page's text colour, which is light in dark mode. Every other colour stays as it is, and those
named here are legible on both backgrounds. Nothing here touches pyplot or its settings.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dima.envs.render.colors import PALETTE as PALETTE

REAL, IMAGINED, BASELINE = "#2f72d5", "#e8601c", "#70757d"
"""What happened; what a world model says; what it must beat. Nothing else has these colours, on any page or film."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (7, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
"""Dashes that go with each colour of the palette, for prints without colour."""
REAL_LINE: dict[str, Any] = {"color": REAL, "linestyle": DASHES[3]}
IMAGINED_LINE: dict[str, Any] = {"color": IMAGINED, "linestyle": DASHES[0]}
BASELINE_LINE: dict[str, Any] = {"color": BASELINE, "linestyle": DASHES[1]}
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=DASHES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": "black",
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}
_PNG_DPI = 160


def plots(rows: int, columns: int, width: float = 6.4, height: float = 3.6, **subplots: Any) -> tuple[Figure, Any]:
    """A figure with a grid of empty axes in the common style.

    Args:
        rows, columns: the grid.
        width, height: of the whole figure in inches; on the page an inch is 96 pixels, and narrow windows shrink it.
            Figures of at most 4.8 inches stand two in a row where the window allows.
        subplots: passed on to ``Figure.subplots``, such as ``sharey=True``.

    Returns:
        The figure, and an array of axes of shape (rows, columns).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def plot(
    width: float = 6.4, height: float = 3.6, *, xlabel: str = "", ylabel: str = "", title: str = ""
) -> tuple[Figure, Axes]:
    """A figure with one pair of empty axes in the common style; see :func:`plots`."""
    figure, grid = plots(1, 1, width, height)
    axes: Axes = grid[0, 0]
    with matplotlib.rc_context(_STYLE):
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure, axes


def as_png(figure: Figure) -> bytes:
    """Render as a PNG file, dark on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white")
    return buffer.getvalue()


def as_svg(figure: Figure, name: str, facecolor: str = "white") -> bytes:
    """Render as an SVG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", facecolor=facecolor, metadata={"Date": None})
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, caption: str) -> str:
    """Render as an element of a page: without style rules, with ids that are unique on the page."""
    text = as_svg(figure, name, facecolor="none").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)
    text = text.replace("#000000", "currentColor")
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    root = f'<svg {box[0]} style="width: {96 * figure.get_figwidth():.0f}px" role="img" aria-label="{escape(caption)}">'
    return re.sub(r"<svg[^>]*>", lambda _: root, text, count=1).strip()
