"""Draw the particle tasks: agents as numbered discs, landmarks as squares, messages as bars above their sender.

A disc has its agent's colour, and inside that of its target landmark where the task paints agents like their targets.

The state is all agents' observations, in which positions are relative to the observer. Only ``simple_spread`` observes
absolute positions; elsewhere the landmarks, which never move, keep their true mean. Where an imagined state gives a
landmark two positions, it is drawn at their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dima.envs.render.colors import agent_color, rgb
from dima.envs.render.scene import Scene

_HALF_HEIGHT = 1.5  # half the height of the picture in the plane's units; particles start within 1 of the origin
_MIN_RADIUS = 0.09  # of visible particles
_TARGET_SHARE = 0.7  # radius of the target's colour by that of its disc
_SUPERSAMPLING = 3  # factor, for smooth edges
_BACKGROUND, _GRID, _INK = (255, 255, 255), (225, 225, 225), (40, 40, 40)


@dataclass(frozen=True)
class Plane:
    """Positions, targets and messages of the particles."""

    agents: np.ndarray  # (N, 2)
    landmarks: np.ndarray  # (L, 2)
    target_colors: np.ndarray  # (N, 3) within [0, 1], of each agent's target; (0, 3) where agents have none
    landmark_colors: np.ndarray  # (L, 3)
    messages: np.ndarray  # (N, C) of each agent


Read = Callable[[np.ndarray, Plane], Plane]  # a state (S,) and the first pose -> the pose


class PlaneScene(Scene[Plane]):
    """A particle task.

    Args:
        world: of the environment.
        read: converts its states to positions.
        targets: whether the task paints agents like their targets.
        width: of a picture in pixels.
        height: of a picture in pixels.
    """

    def __init__(self, world: Any, read: Read, targets: bool, width: int, height: int) -> None:
        self._world, self._read, self._targets, self._size = world, read, targets, (width, height)
        self.seconds = float(world.dt)
        self.agents = tuple(agent.name for agent in world.agents)

    def now(self) -> Plane:
        agents, landmarks = self._world.agents, self._world.landmarks
        return Plane(
            agents=np.stack([agent.state.p_pos for agent in agents]),
            landmarks=np.stack([landmark.state.p_pos for landmark in landmarks]),
            target_colors=np.array([agent.color for agent in agents if self._targets]).reshape(-1, 3).clip(0, 1),
            landmark_colors=np.stack([landmark.color for landmark in landmarks]).clip(0, 1),
            messages=np.stack([agent.state.c for agent in agents]),
        )

    def poses(self, states: np.ndarray, first: Plane) -> list[Plane]:
        return [self._read(state, first) for state in np.asarray(states, dtype=np.float64)]

    def draw(self, pose: Plane) -> np.ndarray:
        width, height = self._size
        picture = Image.new("RGB", (_SUPERSAMPLING * width, _SUPERSAMPLING * height), _BACKGROUND)
        pen = _Pen(ImageDraw.Draw(picture), picture.size)
        pen.grid()
        for place, color in zip(pose.landmarks, pose.landmark_colors, strict=True):
            pen.square(place, _MIN_RADIUS, color)
        for i, agent in enumerate(self._world.agents):
            radius = max(agent.size, _MIN_RADIUS)
            pen.disc(pose.agents[i], radius, np.array(rgb(agent_color(i))) / 255)
            if self._targets:
                pen.disc(pose.agents[i], _TARGET_SHARE * radius, pose.target_colors[i])
            pen.number(pose.agents[i], radius, i)
            if not agent.silent:
                pen.bars(pose.agents[i] + [0, radius], pose.messages[i])
        return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


class _Pen:
    """Draws in the plane's units; particles outside the picture are drawn hollow at its edge."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
        self._draw, self._size = draw, size
        self._scale = size[1] / (2 * _HALF_HEIGHT)
        self._half = np.array(size) / (2 * self._scale)

    def grid(self) -> None:
        """A line for every unit."""
        for axis, half in enumerate(self._half):
            for tick in np.arange(-np.floor(half), np.floor(half) + 1):
                ends = [[tick, -self._half[1]], [tick, self._half[1]]]
                if axis == 1:
                    ends = [[-self._half[0], tick], [self._half[0], tick]]
                self._draw.line([self._pixel(end) for end in ends], _GRID, _SUPERSAMPLING)

    def square(self, place: np.ndarray, radius: float, color: np.ndarray) -> None:
        box, fill = self._box(place, radius, color)
        self._draw.rectangle(box, fill, _INK if fill else _rgb(color), _SUPERSAMPLING)

    def disc(self, place: np.ndarray, radius: float, color: np.ndarray) -> None:
        box, fill = self._box(place, radius, color)
        self._draw.ellipse(box, fill, _INK if fill else _rgb(color), _SUPERSAMPLING)

    def number(self, place: np.ndarray, radius: float, number: int) -> None:
        """White with a dark rim, legible on any colour."""
        box, _ = self._box(place, radius, np.zeros(3))
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        font = ImageFont.load_default(size=1.1 * radius * self._scale)
        self._draw.text(middle, str(number), _BACKGROUND, font, "mm", stroke_width=_SUPERSAMPLING, stroke_fill=_INK)

    def bars(self, place: np.ndarray, values: np.ndarray) -> None:
        """A bar for each value in [0, 1], in a row above ``place``."""
        x, y = self._pixel(place)
        wide, high = 0.05 * self._scale, 0.2 * self._scale
        x -= wide * len(values) / 2
        self._draw.line([(x, y - _SUPERSAMPLING), (x + wide * len(values), y - _SUPERSAMPLING)], _INK, _SUPERSAMPLING)
        for i, value in enumerate(np.clip(values, 0, 1)):
            left, top = x + i * wide, y - _SUPERSAMPLING - high * value
            self._draw.rectangle([left, top, left + 0.8 * wide, y - _SUPERSAMPLING], _INK)

    def _box(
        self, place: np.ndarray, radius: float, color: np.ndarray
    ) -> tuple[tuple[float, float, float, float], tuple[int, ...] | None]:
        """Bounding box, and fill: None outside the picture."""
        inside = np.clip(place, radius - self._half, self._half - radius)
        x, y = self._pixel(inside)
        reach = radius * self._scale
        fill = _rgb(color) if np.allclose(inside, place) else None
        return (x - reach, y - reach, x + reach, y + reach), fill

    def _pixel(self, place: Any) -> tuple[float, float]:
        x, y = np.asarray(place) * [self._scale, -self._scale] + np.array(self._size) / 2
        return float(x), float(y)


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    return tuple(round(255 * float(part)) for part in np.clip(color, 0, 1))


def _spread(state: np.ndarray, first: Plane) -> Plane:
    """Each observes its velocity and position, then landmarks and others relative to itself."""
    n, count = len(first.agents), len(first.landmarks)
    rows = state.reshape(n, -1)
    agents, offsets = rows[:, 2:4], rows[:, 4 : 4 + 2 * count].reshape(n, count, 2)
    return replace(first, agents=agents, landmarks=(agents[:, None] + offsets).mean(0))


def _reference(state: np.ndarray, first: Plane) -> Plane:
    """Each observes its velocity, the landmarks relative to itself, the colour of the other's goal, its message."""
    rows = state.reshape(2, -1)
    agents, landmarks = _around(rows[:, 2:8].reshape(2, 3, 2), first)
    return replace(
        first,
        agents=agents,
        landmarks=landmarks,
        target_colors=rows[::-1, 8:11].clip(0, 1),
        messages=rows[::-1, 11:],
    )


def _speaker_listener(state: np.ndarray, first: Plane) -> Plane:
    """The speaker observes the goal's colour; the listener its velocity, the landmarks, the message."""
    agents, landmarks = _around(state[5:11].reshape(1, 3, 2), first)
    colors = np.stack([first.target_colors[0], (state[:3] + _LISTENER_TINT).clip(0, 1)])
    messages = np.stack([state[11:], np.zeros_like(state[11:])])
    return replace(
        first,
        agents=np.stack([first.agents[0], agents[0]]),  # not observed, but the speaker cannot move
        landmarks=landmarks,
        target_colors=colors,
        messages=messages,
    )


def _around(offsets: np.ndarray, first: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Agents (N, 2) and landmarks (L, 2) from the offsets between them (N, L, 2), the landmarks' mean being fixed."""
    agents = first.landmarks.mean(0) - offsets.mean(1)
    return agents, (agents[:, None] + offsets).mean(0)


_LISTENER_TINT = 0.45  # added to the goal's colour for the listener's
WITH_TARGETS = ("simple_reference", "simple_speaker_listener")
READERS: dict[str, Read] = {
    "simple_reference": _reference,
    "simple_speaker_listener": _speaker_listener,
    "simple_spread": _spread,
}
