"""Film frames and filmstrips, of a comparison and of a real episode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dima.analysis.html.figures import IMAGINED, REAL
from dima.analysis.imagine.canvas import Kind, Panel, encode, frame, shrink, strip
from dima.analysis.imagine.compare import Comparison, Trajectory
from dima.analysis.imagine.time_steps import Choose, play_steps
from dima.envs.base import JointEnv
from dima.envs.render.colors import agent_color
from dima.envs.render.scene import Scene
from dima.runtime.progress import Progress

COLUMNS = 6  # of a filmstrip
_MAX_FPS = 25  # faster environments are shown slowed down
_TERMINATION_THRESHOLD = 0.5  # continuation probability below which a caption says that the episode ends


class Pictures:
    """Pictures of a comparison: real beside imagined, or real ones alone where there are no imagined poses.

    Args:
        comparison: real trajectory with poses, and imagined one with or without.
        scene: that the poses belong to.
        title: above every frame.
        fps: frames a second of the film.
    """

    def __init__(self, comparison: Comparison, scene: Scene[Any], title: str, fps: float) -> None:
        self._comparison, self._scene, self._title, self.fps = comparison, scene, title, fps
        self._shown = [("real", REAL, comparison.real)]
        self._error = self._persistence = np.zeros(0)  # of what is shown
        if comparison.imagined.poses:
            self._shown.append(("imagined", IMAGINED, comparison.imagined))
            self._error = comparison.error("state").mean(-1)
            self._persistence = comparison.persistence_error("state").mean(-1)

    def __len__(self) -> int:
        return len(self._comparison.imagined) + 1

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        """Real and imagined picture after a step, (height, width, 3) uint8 each; step 0 is the start."""
        return tuple(self._scene.draw(shown.poses[min(step, len(shown))]) for _, _, shown in self._shown)

    @property
    def caption(self) -> str:
        """What the film shows, and how fast."""
        what = "Left real, right imagined" if len(self._shown) > 1 else "The real episode alone"
        return f"{what}; {speed(self.fps, self._scene)}."

    def frame(self, step: int) -> np.ndarray:
        """Film frame with the pictures side by side and their captions."""
        captions = [self._caption(trajectory, step) for _, _, trajectory in self._shown]
        notes = [speed(self.fps, self._scene), self._error_caption(step)]
        panels = [
            Panel(picture, name, [reward, note, measures], color)
            for picture, (name, color, _), (reward, measures), note in zip(
                self[step], self._shown, captions, notes, strict=False
            )
        ]
        title = f"{self._title}, step {step} of {len(self._comparison.imagined)}"
        return frame(title, panels, agent_colors(self._scene))

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame of the film."""
        return map(self.frame, range(len(self)))

    def strip(self, horizon: int, width: int = 200) -> np.ndarray:
        """Filmstrip of evenly spaced steps up to ``horizon``, real above imagined; pictures ``width`` pixels wide."""
        rows: list[list[Panel]] = [[] for _ in self._shown]
        for step in np.unique(np.linspace(0, horizon, COLUMNS).round().astype(int)).tolist():
            error = f", error {self._error[step]:.3g}" if step < len(self._error) else ""
            for row, picture, (name, color, trajectory) in zip(rows, self[step], self._shown, strict=True):
                more = error if trajectory is self._comparison.imagined else ""
                caption = [f"step {step}{more}", self._caption(trajectory, step, brief=True)[0]]
                row.append(Panel(shrink(picture, width), name, caption, color))
        return strip(f"{self._title}: {horizon} steps", rows)

    def measures(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Real and imagined values after each step that pictures cannot show."""
        if len(self._shown) == 1:
            return {}
        real, imagined = (
            [self._scene.measures(pose) for pose in trajectory.poses]
            for trajectory in (self._comparison.real, self._comparison.imagined)
        )
        return {
            name: (np.array([values[name] for values in real]), np.array([values[name] for values in imagined]))
            for name in real[0]
        }

    def _caption(self, trajectory: Trajectory, step: int, brief: bool = False) -> list[str]:
        """Two lines: reward, and measures."""
        if step > len(trajectory):
            return [f"ended after step {len(trajectory)}", ""]
        if step == 0:
            reward = "start"
        elif brief:
            reward = f"reward {trajectory.reward[step - 1]:.3g}"
        else:
            reward = f"reward {trajectory.reward[step - 1]:.3g}, sum {trajectory.reward[:step].sum():.4g}"
        notes = _measure_notes(self._scene, trajectory.poses[step])
        if step and trajectory.continuation[step - 1] < _TERMINATION_THRESHOLD:
            notes.append("terminated")
        return [reward, ", ".join(notes)]

    def _error_caption(self, step: int) -> str:
        if step >= len(self._error):
            return ""
        return f"error {self._error[step]:.3g}, persistence {self._persistence[step]:.3g}"


def _measure_notes(scene: Scene[Any], pose: Any) -> list[str]:
    return [f"{name} = {value:.2f}" for name, value in scene.measures(pose).items()]


def frames_per_second(scene: Scene[Any]) -> float:
    """Real time where the environment has a clock, at most 25."""
    return min(_MAX_FPS, 1 / scene.seconds) if scene.seconds else _MAX_FPS


def speed(fps: float, scene: Scene[Any]) -> str:
    """Speed of a film with a frame for every step, such as ``0.5x real time, 10 steps/s``."""
    steps, factor = f"{fps:.3g} steps/s", fps * scene.seconds
    if not factor:
        return steps
    return f"real time, {steps}" if abs(factor - 1) < 0.005 else f"{factor:.2g}x real time, {steps}"


def agent_colors(scene: Scene[Any]) -> dict[str, str]:
    """Colours of the agents that a scene tells apart, by name."""
    return {agent: agent_color(place) for place, agent in enumerate(scene.agents)}


def episode_frames(
    env: JointEnv, seed: int, choose: Choose, scene: Scene[Any], title: str, fps: float
) -> Iterator[np.ndarray]:
    """Play one episode, and draw every step as a film frame.

    Args:
        env: of the task.
        seed: of the episode.
        choose: the policy.
        scene: of ``env``.
        title: above every frame.
        fps: frames a second of the film.

    Raises:
        EnvError: the environment renders no picture, or one of another size.
    """
    total, rate, colors = 0.0, speed(fps, scene), agent_colors(scene)
    for step, time_step in enumerate(play_steps(env, seed, choose)):
        total += time_step.reward
        pose = scene.now()
        reward = f"reward {time_step.reward:.3g}, sum {total:.4g}" if step else "start"
        caption = [reward, rate, ", ".join(_measure_notes(scene, pose))]
        yield frame(title, [Panel(scene.draw(pose), f"step {step}", caption)], colors)


def encode_film(
    frames: Iterable[np.ndarray], fps: float, progress: Progress, total: int | None, kinds: Sequence[Kind] = ("mp4",)
) -> dict[Kind, bytes]:
    """Encode frames while they are drawn, with progress; see :func:`dima.analysis.imagine.canvas.encode`."""
    with progress.phase("draw", total=total) as advance:

        def drawn() -> Iterator[np.ndarray]:
            for frame in frames:
                yield frame
                advance()

        return encode(drawn(), fps, kinds)
