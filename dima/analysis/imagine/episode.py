"""A film of a policy at work in the real environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dima.analysis.imagine.canvas import Panel, frame
from dima.analysis.imagine.pictures import measured
from dima.analysis.imagine.time_steps import Choose, moments
from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.errors import EnvError

FASTEST = 25  # frames a second; quicker worlds are shown slowed down


def speed(scene: Scene[Any] | None) -> float:
    """Frames a second: as fast as the world itself where it has a clock and eyes can follow."""
    return min(FASTEST, 1 / scene.seconds) if scene is not None and scene.seconds else FASTEST


def episode_frames(
    env: JointEnv, seed: int, choose: Choose, scene: Scene[Any] | None, title: str
) -> Iterator[np.ndarray]:
    """Every step of one episode as a frame of a film.

    Args:
        env: of the task; without a scene it must render ``rgb_array`` itself.
        seed: of the episode.
        choose: the policy.
        scene: of ``env``, or None.
        title: above every frame.

    Raises:
        EnvError: the environment renders no picture.
    """
    earned = 0.0
    for step, moment in enumerate(moments(env, seed, choose)):
        earned += moment.reward
        if scene is None:
            picture, notes = _rendered(env), []
        else:
            pose = scene.now()
            picture, notes = scene.draw(pose), measured(scene, pose)
        told = f"reward {moment.reward:.3g}, sum {earned:.4g}" if step else "start"
        yield frame(title, [Panel(picture, f"step {step}", [told, ", ".join(notes)])])


def _rendered(env: JointEnv) -> np.ndarray:
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise EnvError(
            f"{env.name}: render() with render_mode = 'rgb_array' gave {type(picture).__name__}: "
            "expected a picture, (height, width, 3) uint8"
        )
    return picture
