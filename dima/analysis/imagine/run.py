"""Imagine a part of a real episode with a run's world model; film a run's policy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dima.agent import Agent, load
from dima.analysis.imagine import page
from dima.analysis.imagine.canvas import Kind
from dima.analysis.imagine.compare import ActionSource, compare
from dima.analysis.imagine.pictures import Pictures, encode_film, episode_frames, frames_per_second
from dima.analysis.imagine.results import Imagination, evaluate_comparison, standardise
from dima.analysis.imagine.time_steps import policy_actions
from dima.config import user_path
from dima.envs import make_env, make_scene
from dima.envs.base import JointEnv
from dima.envs.render.headless import NoRenderer
from dima.envs.render.rendered import RenderedScene
from dima.envs.render.scene import Scene
from dima.errors import EnvError
from dima.experience.episodes import episode_seed
from dima.registry import Named
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.runtime.summary import settings_line
from dima.storage.atomic import require_writable, results_folder, write_bytes, write_errors

FOLDERS: dict[ActionSource, str] = {"recorded": "imagination", "policy": "imagination-policy"}  # inside a run folder
WIDTH, FPS = 480, 10.0  # of a picture in pixels, and of films beside imagination, slow enough to compare
_ASPECT = 3 / 4  # height of a picture by its width


def imagine(
    run: str | os.PathLike[str] | Agent,
    horizons: Sequence[int] | None = None,
    actions: ActionSource = "recorded",
    *,
    seed: int | None = None,
    start: int | None = None,
    width: int = WIDTH,
    fps: float = FPS,
    webp: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    task: Named | None = None,
    algorithm: Named | None = None,
    progress: Progress | None = None,
) -> Imagination:
    """Compare an imagined trajectory with the real one, and write numbers, page, film and filmstrip.

    Args:
        run: the run folder, or the agent loaded from it.
        horizons: numbers of steps to report; by default those of 15, 50 and 200 that fit into the episode.
        actions: ``recorded``: the world model is given the actions of the real episode. ``policy``: the policy acts on
            imagined observations, and the real environment is given these actions.
        seed: of the episode; by default the first that :func:`dima.evaluate` plays.
        start: step of the episode to begin at; by default 100, or earlier if the longest horizon needs it.
        width: of a picture in pixels.
        fps: frames, that is steps, a second of the film.
        webp: also write the film as an animated WebP, which a README can show.
        out: folder for the files; ``imagination/`` or ``imagination-policy/`` in the run folder by default.
        device: ``auto``, ``cpu`` or ``cuda``; for a folder that is loaded here.
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.
        progress: shows the frames drawn; silent by default.

    Raises:
        ConfigError: the run has no world model, or the episode is too short.
        DivergenceError: the imagined trajectory has NaN or infinite numbers.
        RunFolderError: the run folder cannot be read, or ``out`` not be written.
    """
    agent = run if isinstance(run, Agent) else load(run, device, task=task, algorithm=algorithm)
    out = results_folder(agent.folder, FOLDERS[actions]) if out is None else user_path(out)
    require_writable(out, "choose another --out")
    imagination = imagine_agent(agent, horizons, actions, seed=seed, start=start, width=width, fps=fps)
    page.save(imagination, out, progress or Progress(), webp)
    return imagination


def imagine_agent(
    agent: Agent,
    horizons: Sequence[int] | None = None,
    actions: ActionSource = "recorded",
    *,
    seed: int | None = None,
    start: int | None = None,
    width: int = WIDTH,
    fps: float = FPS,
) -> Imagination:
    """Imagine without writing anything; arguments as for :func:`imagine`."""
    world_model, config = agent.world_model, agent.config
    env = make_env(config.task, config.env, render_mode="rgb_array")
    scene: Scene[Any] | None = None
    try:
        scene = _find_scene(config.task, env, width)
        no_pictures = scene.cannot_imagine
    except EnvError as error:  # numbers and curves are worth having without pictures
        no_pictures = str(error)
    comparison = compare(
        env,
        world_model,
        partial(agent.algorithm.act, mode=True),
        act_imagined=agent.act_imagined,
        seed=agent.evaluation_seed if seed is None else seed,
        horizons=horizons,
        actions=actions,
        start=start,
        scene=scene,
        device=agent.device,
    )
    if comparison.imagined.state is None:
        no_pictures = no_pictures or f"{config.algorithm} predicts observations only: there is no state to draw"
    comparison, unit = standardise(comparison, agent)
    return evaluate_comparison(
        comparison,
        unit=unit,
        spec=env.spec,
        kinds=env.state_kinds(),
        run=_origin(agent),
        actions=actions,
        pictures=None if scene is None else Pictures(comparison, scene, config.task, fps),
        no_pictures=no_pictures,
    )


def film(
    run: str | os.PathLike[str] | Agent,
    path: str | Path,
    *,
    seed: int | None = None,
    width: int = WIDTH,
    webp: bool = False,
    device: str = "auto",
    task: Named | None = None,
    algorithm: Named | None = None,
    progress: Progress | None = None,
) -> Path:
    """Film the first episode that :func:`dima.evaluate` plays under this seed, as an MP4 file.

    Args:
        run: the run folder, or the agent loaded from it.
        path: the file; its folder is created when missing.
        seed: of the episode; by default the one of :func:`dima.evaluate`.
        width: of the picture in pixels.
        webp: also write the film as an animated WebP, beside the file under the same name.
        device: ``auto``, ``cpu`` or ``cuda``; for a folder that is loaded here.
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.
        progress: shows the frames drawn; silent by default.

    Returns:
        The file's path.

    Raises:
        EnvError: the environment cannot be drawn, or this machine has no renderer.
        RunFolderError: the run folder cannot be read, or the file not be written.
    """
    agent = run if isinstance(run, Agent) else load(run, device, task=task, algorithm=algorithm)
    path, config = user_path(path), agent.config
    env = make_env(config.task, config.env, render_mode="rgb_array")
    scene = _find_scene(config.task, env, width)
    choose = policy_actions(partial(agent.algorithm.act, mode=True), agent.device)
    first_seed = episode_seed(agent.evaluation_seed if seed is None else seed, 0, "evaluation")
    fps = frames_per_second(scene)
    frames = episode_frames(env, first_seed, choose, scene, config.task, fps)
    kinds: list[Kind] = ["mp4", "webp"] if webp else ["mp4"]
    files = encode_film(frames, fps, progress or Progress(), env.spec.episode_limit, kinds)
    with write_errors(path, "choose another place"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, files["mp4"])
        if webp:
            write_bytes(path.with_suffix(".webp"), files["webp"])
    return path


def _find_scene(task: str, env: JointEnv, width: int) -> Scene[Any]:
    """A scene of an environment, or else what it renders by itself.

    Args:
        task: its name.
        env: made with ``render_mode = "rgb_array"``.
        width: of a picture in pixels.

    Raises:
        EnvError: it cannot be drawn, or this machine has no renderer.
    """
    try:
        return make_scene(task, env, width, round(_ASPECT * width))
    except NoRenderer:  # nor would the environment's own pictures come out
        raise
    except EnvError as error:
        if env.render_mode != "rgb_array":
            raise EnvError(f"{error}; nor does it render rgb_array: no film can be made of it") from error
        return RenderedScene(env, width, str(error))


def _origin(agent: Agent) -> dict[str, Any]:
    """Origin of the world model, and everything its numbers depend on."""
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
