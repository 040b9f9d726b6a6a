"""Colours of agents, the same in pictures and on pages."""

from __future__ import annotations

AGENT_COLORS = ("#1a9a78", "#a8479f", "#b8860b", "#b23c2c", "#6f8f1f", "#5f6fb8")
"""In the agents' order; none looks like real or imagined, and all stand out on a light and a dark background."""
SHARED = "#c3c7cd"  # parts of a robot that no agent drives


def agent_color(place: int) -> str:
    """Colour of an agent by its place in the team; after six they repeat."""
    return AGENT_COLORS[place % len(AGENT_COLORS)]


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#rrggbb``, 0 to 255."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
