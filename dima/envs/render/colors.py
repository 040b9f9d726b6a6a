"""Colours of agents, the same in pictures and on pages."""

from __future__ import annotations

PALETTE = ("#1a9a78", "#a8479f", "#b23c2c", "#1592b8", "#6f8f1f", "#8f6247")
"""Colours of agents, in their order, and of whatever else is compared; none looks like real or imagined, and all stand
out on a light and a dark background. With dashes, they are safe for colour blindness."""
SHARED = "#c3c7cd"  # parts of a robot that no agent drives


def agent_color(place: int) -> str:
    """Colour of an agent by its place in the team; after six they repeat."""
    return PALETTE[place % len(PALETTE)]


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#rrggbb``, 0 to 255."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
