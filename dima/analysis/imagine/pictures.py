"""Film frames and filmstrips, of a comparison and of a real episode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dima.analysis.html.figures import IMAGINED, REAL
from dima.analysis.imagine.canvas import Panel, frame, mp4, shrink, strip
from dima.analysis.imagine.compare import Comparison, Trajectory
from dima.analysis.imagine.time_steps import Choose, play_steps
from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.errors import EnvError
from dima.runtime.progress import Progress

COLUMNS = 6  # of a filmstrip
_MAX_FPS = 25  # faster environments are shown slowed down
_TERMINATION_THRESHOLD = 0.5  # continuation probability below which a caption says that the episode ends


class Pictures:
    """Pictures of a comparison whose trajectories have poses.

    Args:
        comparison: real and imagined trajectory.
        scene: that the poses belong to.
        title: above every frame.
    """

    def __init__(self, comparison: Comparison, scene: Scene[Any], title: str) -> None:
        self._comparison, self._scene, self._title = comparison, scene, title
        self._error = comparison.error("state").mean(-1)
        self._persistence = comparison.persistence_error("state").mean(-1)

    def __len__(self) -> int:
        return len(self._comparison.imagined) + 1

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Real and imagined picture after a step, (height, width, 3) uint8 each; step 0 is the start."""
        real, imagined = self._comparison.real.poses, self._comparison.imagined.poses
        return self._scene.draw(real[min(step, len(real) - 1)]), self._scene.draw(imagined[step])

    def frame(self, step: int) -> np.ndarray:
        """Film frame with both pictures side by side and their captions."""
        comparison = self._comparison
        real, imagined = self[step]
        return frame(
            f"{self._title}, step {step} of {len(comparison.imagined)}",
            [
                Panel(real, "real", [*self._caption(comparison.real, step), ""], REAL),
                Panel(
                    imagined,
                    "imagined",
                    [*self._caption(comparison.imagined, step), self._error_caption(step)],
                    IMAGINED,
                ),
            ],
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame of the film."""
        return map(self.frame, range(len(self)))

    def strip(self, horizon: int, width: int = 200) -> np.ndarray:
        """Filmstrip of evenly spaced steps up to ``horizon``, real above imagined; pictures ``width`` pixels wide."""
        rows: tuple[list[Panel], list[Panel]] = ([], [])
        for step in np.unique(np.linspace(0, horizon, COLUMNS).round().astype(int)).tolist():
            pictures = [shrink(picture, width) for picture in self[step]]
            error = f", error {self._error[step]:.3g}" if step < len(self._error) else ""
            for row, trajectory, picture, name, color, more in zip(
                rows,
                (self._comparison.real, self._comparison.imagined),
                pictures,
                ("real", "imagined"),
                (REAL, IMAGINED),
                ("", error),
                strict=True,
            ):
                caption = [f"step {step}{more}", self._caption(trajectory, step, brief=True)[0]]
                row.append(Panel(picture, name, caption, color))
        return strip(f"{self._title}: {horizon} steps", rows)

    def measures(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Real and imagined values after each step that pictures cannot show."""
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


def frames_per_second(scene: Scene[Any] | None) -> float:
    """Real time where the environment has a clock, at most 25."""
    return min(_MAX_FPS, 1 / scene.seconds) if scene is not None and scene.seconds else _MAX_FPS


def episode_frames(
    env: JointEnv, seed: int, choose: Choose, scene: Scene[Any] | None, title: str
) -> Iterator[np.ndarray]:
    """Play one episode, and draw every step as a film frame.

    Args:
        env: of the task; without a scene it must render ``rgb_array`` itself.
        seed: of the episode.
        choose: the policy.
        scene: of ``env``, or None.
        title: above every frame.

    Raises:
        EnvError: the environment renders no picture, or one of another size.
    """
    total, shape = 0.0, None
    for step, time_step in enumerate(play_steps(env, seed, choose)):
        total += time_step.reward
        if scene is None:
            picture, notes = _rendered(env, shape), []
            shape = picture.shape
        else:
            pose = scene.now()
            picture, notes = scene.draw(pose), _measure_notes(scene, pose)
        reward = f"reward {time_step.reward:.3g}, sum {total:.4g}" if step else "start"
        yield frame(title, [Panel(picture, f"step {step}", [reward, ", ".join(notes)])])


def encode_film(frames: Iterable[np.ndarray], fps: float, progress: Progress, total: int | None) -> bytes:
    """Encode frames as MP4 while they are drawn, with progress."""
    with progress.phase("draw", total=total) as advance:

        def drawn() -> Iterator[np.ndarray]:
            for frame in frames:
                yield frame
                advance()

        return mp4(drawn(), fps)


def _rendered(env: JointEnv, shape: tuple[int, ...] | None) -> np.ndarray:
    """A picture of the environment, of the shape of those before it."""
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise EnvError(
            f"{env.name}: render() with render_mode = 'rgb_array' gave {type(picture).__name__}: "
            "expected a picture, (height, width, 3) uint8"
        )
    if shape not in (None, picture.shape):
        raise EnvError(f"{env.name}: render() gave a picture of shape {picture.shape} after {shape}: keep its size")
    return picture
