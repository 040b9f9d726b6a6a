"""What a loaded run offers: its imagination beside the truth, and a film of its policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dima.analysis.imagine.compare import Acting, beside
from dima.analysis.imagine.encode import mp4
from dima.analysis.imagine.episode import episode_frames, speed
from dima.analysis.imagine.imagination import Imagination, examined
from dima.analysis.imagine.pictures import Pictures
from dima.analysis.imagine.time_steps import by_policy
from dima.envs import make_env, make_scene
from dima.envs.render.scene import Scene
from dima.errors import EnvError
from dima.experience.collector import episode_seed
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.runtime.summary import settings_line
from dima.storage.atomic import disk_errors, write_bytes

if TYPE_CHECKING:
    from dima.agent import Agent

_ASPECT = 3 / 4  # height of a picture by its width


def imagine_run(
    agent: Agent, horizons: Sequence[int] | None, acting: Acting, seed: int, start: int | None, width: int
) -> Imagination:
    """See :meth:`dima.agent.Agent.imagine`."""
    world_model, env = agent.world_model, agent.env
    scene: Scene[Any] | None = None
    unseen = ""
    try:
        scene = make_scene(agent.config.task, env, width, round(_ASPECT * width))
    except EnvError as error:  # numbers and curves are worth having without pictures
        unseen = str(error)
    found = beside(
        env,
        world_model,
        partial(agent.algorithm.act, mode=True),
        seed=seed,
        horizons=horizons,
        acting=acting,
        start=start,
        scene=scene,
        device=agent.device,
    )
    return examined(
        found,
        spec=env.spec,
        kinds=env.state_kinds(),
        run=_origin(agent),
        acting=acting,
        pictures=None if scene is None else Pictures(found, scene, agent.config.task),
        unseen=unseen,
    )


def film_episode(agent: Agent, path: Path, seed: int, width: int, progress: Progress) -> Path:
    """See :meth:`dima.agent.Agent.film`."""
    config, scene = agent.config, None
    env = make_env(config.task, config.env, render_mode="rgb_array")
    try:
        scene = make_scene(config.task, env, width, round(_ASPECT * width))
    except EnvError as error:
        if env.render_mode != "rgb_array":
            raise EnvError(f"{error}; nor does it render rgb_array: no film can be made of it") from error
    choose = by_policy(partial(agent.algorithm.act, mode=True), agent.device)
    frames = episode_frames(env, episode_seed(seed, 0, "evaluation"), choose, scene, config.task)
    with progress.phase("draw", total=env.spec.episode_limit) as advance:

        def shown() -> Iterator[np.ndarray]:
            for frame in frames:
                yield frame
                advance()

        film = mp4(shown(), speed(scene))
    with disk_errors(path, "choose another place"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, film)
    return path


def _origin(agent: Agent) -> dict[str, Any]:
    """Which world model it is, and what its numbers depend on."""
    config, versions = agent.config, protocol(str(agent.device))
    packages = {name: version for name, version in versions["packages"].items() if version is not None}
    return {
        "run": str(agent.folder),
        "task": config.task,
        "environment": settings_line(config.env.to_dict()),
        "algorithm": config.algorithm,
        "preset": config.preset,
        "seed": config.seed,
        "steps": agent.steps,
        **({"simulator": agent.simulator} if agent.simulator else {}),
        "dima": versions["dima"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "device": versions["machine"]["device"],
    }
