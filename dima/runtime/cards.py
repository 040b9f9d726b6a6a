"""HTML of results for notebooks: a title, lines, a curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _EDGE = 420, 120, 6
_REAL = "#3b78d8"  # what is real is blue on every page


def card(title: str, lines: Sequence[str], curve: Sequence[tuple[float, float]] = (), unit: str = "") -> str:
    """A small HTML fragment without scripts, readable on light and dark paper.

    Args:
        title: in bold.
        lines: below it.
        curve: (x, y) points of a picture below them; fewer than two draw none.
        unit: of the x axis.
    """
    text = "".join(f"<div>{escape(line)}</div>" for line in lines)
    picture = _picture(curve, unit) if len(curve) > 1 else ""
    return f"<div style='line-height:1.5'><b>{escape(title)}</b>{text}{picture}</div>"


def _picture(curve: Sequence[tuple[float, float]], unit: str) -> str:
    xs, ys = zip(*curve, strict=True)
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    points = " ".join(
        f"{_EDGE + (x - left) / wide * (_WIDTH - 2 * _EDGE):.1f},"
        f"{_HEIGHT - _EDGE - (y - low) / tall * (_HEIGHT - 2 * _EDGE):.1f}"
        for x, y in curve
    )
    label = f"from {low:,.4g} to {high:,.4g}, over {left:,.0f} to {right:,.0f} {unit}".strip()
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='{escape(label, quote=True)}' "
        f"style='display:block;margin-top:.4em;border-left:1px solid;border-bottom:1px solid'>"
        f"<polyline points='{points}' fill='none' stroke='{_REAL}' stroke-width='2'/></svg>"
        f"<small>{escape(label)}</small>"
    )
