"""Film frames and filmstrips of an imagination: real and imagined pictures, step, error and reward with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dima.analysis.imagine.canvas import Panel, frame, shrink, strip
from dima.analysis.imagine.compare import Beside, Course
from dima.envs.render.scene import Scene

REAL, IMAGINED = "#2f72d5", "#e8601c"
COLUMNS = 6  # of a filmstrip
_LEAST = 0.5  # probability of going on below which an end is expected


class Pictures:
    """Draws an imagination that has poses.

    Args:
        beside: real and imagined.
        scene: that the poses belong to.
        title: above every frame.
    """

    def __init__(self, beside: Beside, scene: Scene[Any], title: str) -> None:
        self._beside, self._scene, self._title = beside, scene, title
        self._error = beside.gap("state").mean(-1)
        self._unchanged = beside.gap_unchanged("state").mean(-1)

    def __len__(self) -> int:
        return len(self._beside.imagined) + 1

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What is real and what is imagined after a step, (height, width, 3) uint8 each; step 0 is the start."""
        real, imagined = self._beside.real.poses, self._beside.imagined.poses
        return self._scene.draw(real[min(step, len(real) - 1)]), self._scene.draw(imagined[step])

    def frame(self, step: int) -> np.ndarray:
        """Both side by side, with what there is to say about them."""
        beside = self._beside
        real, imagined = self[step]
        return frame(
            f"{self._title}, step {step} of {len(beside.imagined)}",
            [
                Panel(real, "real", [*self._told(beside.real, step), ""], REAL),
                Panel(imagined, "imagined", [*self._told(beside.imagined, step), self._off(step)], IMAGINED),
            ],
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame of the film."""
        return map(self.frame, range(len(self)))

    def strip(self, horizon: int, width: int = 200) -> np.ndarray:
        """A few steps up to ``horizon``, evenly spread; real above imagined, pictures ``width`` pixels wide."""
        rows: tuple[list[Panel], list[Panel]] = ([], [])
        for step in np.unique(np.linspace(0, horizon, COLUMNS).round().astype(int)).tolist():
            pictures = [shrink(picture, width) for picture in self[step]]
            off = f", error {self._error[step]:.3g}" if step < len(self._error) else ""
            courses = (self._beside.real, self._beside.imagined)
            for row, course, picture, more in zip(rows, courses, pictures, ("", off), strict=True):
                name, color = ("real", REAL) if course is self._beside.real else ("imagined", IMAGINED)
                row.append(Panel(picture, name, [f"step {step}{more}", self._told(course, step, brief=True)[0]], color))
        return strip(f"{self._title}: {horizon} steps", rows)

    def measures(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What pictures cannot show, after each step: real and imagined."""
        real, imagined = (
            [self._scene.measures(pose) for pose in course.poses]
            for course in (self._beside.real, self._beside.imagined)
        )
        return {
            name: (np.array([told[name] for told in real]), np.array([told[name] for told in imagined]))
            for name in real[0]
        }

    def _told(self, course: Course, step: int, brief: bool = False) -> list[str]:
        """Reward of a step; its sum, and what the picture cannot show."""
        if step > len(course):
            return [f"ended after step {len(course)}", ""]
        if step == 0:
            earned = "start"
        elif brief:
            earned = f"reward {course.reward[step - 1]:.3g}"
        else:
            earned = f"reward {course.reward[step - 1]:.3g}, sum {course.reward[:step].sum():.4g}"
        notes = measured(self._scene, course.poses[step])
        if step and course.continuation[step - 1] < _LEAST:
            notes.append("the task ends here")
        return [earned, ", ".join(notes)]

    def _off(self, step: int) -> str:
        if step >= len(self._error):
            return ""
        return f"error {self._error[step]:.3g}; had nothing changed {self._unchanged[step]:.3g}"


def measured(scene: Scene[Any], pose: Any) -> list[str]:
    """What the picture of a pose cannot show, for its caption."""
    return [f"{name} = {value:.2f}" for name, value in scene.measures(pose).items()]
