"""Pictures of scripted hands at work, a row of moments for each task.

python -m benchmarks.studies.hands_picture --out docs/dexhands.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from dima.envs.dexhands.env import AGENTS, DexHandsEnv, scene
from dima.envs.dexhands.scripted import act_both
from dima.envs.dexhands.tasks import TASKS

MOMENTS = {  # steps of the episode
    "bottle-cap": (0, 40, 80, 124),
    "door-open-inward": (0, 60, 140, 249),
    "door-open-outward": (0, 42, 60, 120),
    "pen": (0, 35, 60, 90),
}


def row(task: str, width: int, height: int) -> np.ndarray:
    """(height, 4 width, 3) uint8: an episode of the scripts, from left to right."""
    env = DexHandsEnv(task)
    drawing = scene(env, width, height)
    observations, _ = env.reset(seed=0)
    pictures = []
    for step in range(max(MOMENTS[task]) + 1):
        if step in MOMENTS[task]:
            pictures.append(drawing.draw(drawing.now()))
        actions = act_both(task, step, observations.values())
        observations, *_ = env.step(dict(zip(AGENTS, actions, strict=True)))
    drawing.close()
    return np.concatenate(pictures, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=300, help="of each picture in pixels")
    parser.add_argument("--height", type=int, default=225)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(args.out, np.concatenate([row(task, args.width, args.height) for task in TASKS]), optimize=True)


if __name__ == "__main__":
    main()
