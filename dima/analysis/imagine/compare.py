"""Imagined against real trajectories from the same start and under the same actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from dima.analysis.imagine.time_steps import TimeStep, given_actions, play_steps, policy_actions
from dima.data import Act, Episode
from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, DivergenceError, EnvError
from dima.experience.episodes import episode_seed
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.runtime.rng import drawn_from
from dima.world_models.base import WorldModel
from dima.world_models.rollout import Forecast, forecast, forecast_policy

HORIZONS = (15, 50, 200)  # steps: training's, the diagnosis', and far beyond both
LATEST_START = 100  # step of an episode, where there is room: by then a robot is moving
ActionSource = Literal["recorded", "policy"]


@dataclass(frozen=True)
class Trajectory:
    """A real or imagined trajectory of H steps; row 0 of ``state`` and ``obs`` is the start."""

    state: np.ndarray | None  # (H + 1, S) environment units; None where a model imagines observations alone
    obs: np.ndarray  # (H + 1, N, O)
    reward: np.ndarray  # (H,)
    continuation: np.ndarray  # (H,) probability that the episode continues after the step; 1 or 0 when real
    poses: list[Any]  # H + 1 of the scene's; empty where nothing is drawn

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Comparison:
    """An imagined trajectory and the real one.

    Attributes:
        seed: of the episode, as given.
        start: step of the episode at which both begin.
        horizons: numbers of steps to report, increasing; the last is the imagined length H.
        action: (H, N, A) joint actions of both.
        real: shorter than H where the real episode ends, or forbids an action.
        imagined: H steps.
        state_scale, obs_scale: (S,) and (N, O) units of errors.
    """

    seed: int
    start: int
    horizons: tuple[int, ...]
    action: np.ndarray
    real: Trajectory
    imagined: Trajectory
    state_scale: np.ndarray = field(default_factory=lambda: np.ones(1))
    obs_scale: np.ndarray = field(default_factory=lambda: np.ones(1))

    @property
    def steps(self) -> int:
        """Number of steps that both have."""
        return min(len(self.real), len(self.imagined))

    def error(self, what: Literal["state", "obs"]) -> np.ndarray:
        """Absolute error of every imagined feature after each step: (steps + 1, ...); of the state, where imagined."""
        rows = self.steps + 1
        return np.abs(getattr(self.imagined, what)[:rows] - getattr(self.real, what)[:rows]) / self._scale(what)

    def persistence_error(self, what: Literal["state", "obs"]) -> np.ndarray:
        """The same for persistence, a baseline that predicts that nothing changes after the start."""
        rows: np.ndarray = getattr(self.real, what)[: self.steps + 1]
        return np.abs(rows - rows[0]) / self._scale(what)

    def _scale(self, what: Literal["state", "obs"]) -> np.ndarray:
        return self.state_scale if what == "state" else self.obs_scale


def compare(
    env: JointEnv,
    world_model: WorldModel[Any],
    act: Act,
    *,
    act_imagined: Act | None = None,
    seed: int,
    horizons: Sequence[int] | None = None,
    actions: ActionSource = "recorded",
    start: int | None = None,
    scene: Scene[Any] | None = None,
    device: torch.device | str = "cpu",
) -> Comparison:
    """Play a fresh episode, and imagine a part of it.

    Args:
        env: of the task.
        world_model: in evaluation mode, on ``device``.
        act: the policy.
        act_imagined: the same, on the world model's ``policy_view``; by default ``act``.
        seed: of the episode, the first that an evaluation under this seed plays, and of the world model's noise.
        horizons: numbers of steps to report; by default those of ``HORIZONS`` that fit into the episode.
        actions: ``recorded``: the world model is given the actions of the real episode. ``policy``: the policy acts on
            imagined observations, and the real environment is given these actions.
        start: step of the episode to begin at; by default ``LATEST_START``, or earlier if the longest horizon needs it.
        scene: of ``env``, to record poses for pictures.
        device: where ``act`` and the world model compute.

    Raises:
        ConfigError: the episode is too short for a horizon or the start.
        DivergenceError: the imagined trajectory has NaN or infinite numbers.
        EnvError: the environment is not reproducible from its seed, which ``policy`` needs.
    """
    longest = max(horizons or HORIZONS)
    limit = (LATEST_START if start is None else start) + longest
    first_seed = episode_seed(seed, 0, "evaluation")
    frames = _record(play_steps(env, first_seed, policy_actions(act, device)), scene, limit)
    start, horizons = _choose_start(horizons, start, len(frames) - 1, seed)
    horizon = horizons[-1]
    recorded = [frame.time_step.action for frame in frames[1:]]
    rows = _start_rows([frame.time_step for frame in frames[: start + 2]], world_model, device)
    with drawn_from(device, first_seed):
        if actions == "recorded":
            action = np.stack(recorded[start : start + horizon])
            imagined = _imagine_actions(world_model, rows, action)
        else:
            imagined, action = _imagine_policy(world_model, rows, act_imagined or act, horizon)
    _check_finite(imagined)
    if actions == "policy":
        choose = given_actions([*recorded[:start], *action], env.spec)
        replayed = _record(play_steps(env, first_seed, choose), scene, start + horizon)
        before, after = (
            np.stack([frame.time_step.joint["state"] for frame in some[: start + 1]]) for some in (frames, replayed)
        )
        if not np.array_equal(before, after):
            raise EnvError(f"{env.name} does not repeat itself under the same seed and actions: give --act recorded")
        frames = replayed
    real = _real_trajectory(frames[start : start + horizon + 1])
    if scene is not None and not scene.cannot_imagine and imagined.state is not None:
        imagined = replace(imagined, poses=scene.poses(env.spec.own_state(imagined.state), real.poses[0]))
    return Comparison(seed, start, horizons, action, real, imagined)


@dataclass(frozen=True)
class _Frame:
    time_step: TimeStep
    pose: Any  # of the scene, or None


def _record(playing: Iterator[TimeStep], scene: Scene[Any] | None, steps: int) -> list[_Frame]:
    """Play at most ``steps`` steps, with the pose after each."""
    return [_Frame(one, None if scene is None else scene.now()) for one in islice(playing, steps + 1)]


def _choose_start(
    horizons: Sequence[int] | None, start: int | None, length: int, seed: int
) -> tuple[int, tuple[int, ...]]:
    """Choose the start in an episode of ``length`` steps, and the horizons, increasing."""
    lasts = f"the policy's episode from seed {seed} lasts {length} steps"
    if start is not None and start >= length:
        raise ConfigError(f"start = {start} is too late: {lasts}")
    room = length - (start or 0)
    if horizons is None:
        horizons = [h for h in HORIZONS if h <= room] or [room]
    longest = max(horizons)
    if longest > room:
        since = f" and begins at step {start}" if start else ""
        raise ConfigError(f"horizon = {longest} is too long: {lasts}{since}; give at most {room}, or another seed")
    return min(LATEST_START, length - longest) if start is None else start, tuple(sorted(set(horizons)))


def _start_rows(past: list[TimeStep], world_model: WorldModel[Any], device: torch.device | str) -> Rows:
    """Context rows (1, context, ...) of the start, from an episode up to one step after it."""
    stacked = {name: torch.from_numpy(np.stack([one.joint[name] for one in past])) for name in past[0].joint}
    steps = past[1:]
    episode = Episode(
        **stacked,
        action=torch.from_numpy(np.stack([one.action for one in steps])),
        reward=torch.tensor([one.reward for one in steps], dtype=torch.float32),
        terminated=torch.tensor([one.terminated for one in steps]),
        truncated=torch.tensor([one.truncated for one in steps]),
    )
    replay = Replay(ReplayConfig(capacity=len(episode)), world_model.spec, device)
    replay.add(episode)
    return replay.gather(torch.tensor([len(episode) - 1], device=device), world_model.context - 1, 0)


def _imagine_actions(world_model: WorldModel[Any], rows: Rows, action: np.ndarray) -> Trajectory:
    found = forecast(world_model, rows, torch.from_numpy(action)[None].to(rows.state.device))
    return _imagined_trajectory(found)


def _imagine_policy(world_model: WorldModel[Any], rows: Rows, act: Act, horizon: int) -> tuple[Trajectory, np.ndarray]:
    found, action = forecast_policy(world_model, rows, act, horizon)
    return _imagined_trajectory(found), action[0].cpu().numpy()


def _imagined_trajectory(found: Forecast) -> Trajectory:
    one = found.to("cpu")[0]
    state = None if one.state is None else one.state.numpy()
    return Trajectory(state, one.obs.numpy(), one.reward.numpy(), one.continuation.numpy(), poses=[])


def _real_trajectory(frames: list[_Frame]) -> Trajectory:
    time_steps = [frame.time_step for frame in frames]
    return Trajectory(
        state=np.stack([one.joint["state"] for one in time_steps]),
        obs=np.stack([one.joint["obs"] for one in time_steps]),
        reward=np.array([one.reward for one in time_steps[1:]]),
        continuation=np.array([1.0 - one.terminated for one in time_steps[1:]]),
        poses=[frame.pose for frame in frames if frame.pose is not None],
    )


def _check_finite(imagined: Trajectory) -> None:
    parts = [imagined.obs[1:], imagined.reward, imagined.continuation]
    if imagined.state is not None:
        parts.append(imagined.state[1:])
    wrong = ~np.all([np.isfinite(part).reshape(len(imagined), -1).all(-1) for part in parts], axis=0)
    if wrong.any():
        step = int(wrong.argmax()) + 1
        raise DivergenceError(f"the world model imagines NaN or infinite numbers from step {step} on: it has diverged")
