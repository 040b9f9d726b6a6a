"""Real beside imagined: the same start, the same actions, what happened and what the world model made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dima.analysis.imagine.time_steps import Moment, by_policy, in_turn, moments
from dima.data import Episode
from dima.envs.base import JointEnv
from dima.envs.render.scene import Scene
from dima.errors import ConfigError, DivergenceError, EnvError
from dima.experience.collector import Act, episode_seed
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.runtime.rng import drawn_from
from dima.world_models.base import WorldModel
from dima.world_models.rollout import forecast, imagine

HORIZONS = (15, 50, 200)  # steps: the training's, the diagnosis', and far beyond both
LATEST = 100  # step of an episode to begin at, where there is room: by then a robot is on its way
Acting = Literal["recorded", "policy"]


@dataclass(frozen=True)
class Course:
    """What happened, or was imagined, over H steps; row 0 of ``state`` and ``obs`` is the start."""

    state: np.ndarray  # (H + 1, S) environment units
    obs: np.ndarray  # (H + 1, N, O)
    reward: np.ndarray  # (H,)
    continuation: np.ndarray  # (H,) probability that the task goes on after the step; 1 or 0 when real
    poses: list[Any]  # H + 1 of the scene's; none if there are no pictures

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Beside:
    """An imagination and what really happened.

    Attributes:
        start: step of the episode that both begin at.
        horizons: numbers of steps to look at, increasing; the last is the length H of the imagination.
        action: (H, N, A) what the team does in both.
        real: ends early where the real episode does, or where it forbids an action.
        imagined: H steps.
    """

    seed: int
    start: int
    horizons: tuple[int, ...]
    action: np.ndarray
    real: Course
    imagined: Course

    @property
    def steps(self) -> int:
        """Steps that both have."""
        return min(len(self.real), len(self.imagined))

    def gap(self, what: Literal["state", "obs"]) -> np.ndarray:
        """Absolute difference, imagined against real, of every feature after each step: (steps + 1, ...)."""
        rows = self.steps + 1
        return np.abs(getattr(self.imagined, what)[:rows] - getattr(self.real, what)[:rows])

    def gap_unchanged(self, what: Literal["state", "obs"]) -> np.ndarray:
        """The same of a world where nothing changes after the start: a yardstick."""
        rows: np.ndarray = getattr(self.real, what)[: self.steps + 1]
        return np.abs(rows - rows[0])


def beside(
    env: JointEnv,
    world_model: WorldModel[Any],
    act: Act,
    *,
    seed: int,
    horizons: Sequence[int] | None = None,
    acting: Acting = "recorded",
    start: int | None = None,
    scene: Scene[Any] | None = None,
    device: torch.device | str = "cpu",
) -> Beside:
    """Play a fresh episode, and imagine a stretch of it.

    Args:
        env: of the task.
        world_model: in evaluation mode, on ``device``.
        act: the policy.
        seed: of the episode, the first that an evaluation under this seed plays, and of the world model's noise.
        horizons: numbers of steps to look at; by default those of ``HORIZONS`` that the episode has room for.
        acting: ``recorded``: imagination is given the actions of the real episode. ``policy``: the policy acts in
            imagination on what it sees there, and the real environment is given these actions.
        start: step of the episode to begin at; by default ``LATEST``, or as late as the longest horizon leaves room.
        scene: of ``env``, to get poses for pictures.
        device: where ``act`` and the world model compute.

    Raises:
        ConfigError: the episode is too short for a horizon or the start.
        DivergenceError: the world model imagines NaN or infinite numbers.
        EnvError: the environment does not repeat itself, so that ``policy`` has nothing to be compared with.
    """
    most = max(horizons or HORIZONS)
    wanted = (LATEST if start is None else start) + most
    episode = episode_seed(seed, 0, "evaluation")
    seen = _watch(moments(env, episode, by_policy(act, device)), scene, wanted)
    start, horizons = _fitting(horizons, start, len(seen) - 1, seed)
    horizon = horizons[-1]
    taken = [one.moment.action for one in seen[1:]]
    rows = _rows([one.moment for one in seen[: start + 2]], world_model, device)
    with drawn_from(device, episode):
        if acting == "recorded":
            action = np.stack(taken[start : start + horizon])
            imagined = _follow(world_model, rows, action)
        else:
            imagined, action = _let_act(world_model, rows, act, horizon)
    _refuse_nonsense(imagined)
    if acting == "policy":
        given = in_turn([*taken[:start], *action], env.spec)
        again = _watch(moments(env, episode, given), scene, start + horizon)
        before, after = (np.stack([one.moment.joint["state"] for one in some[: start + 1]]) for some in (seen, again))
        if not np.array_equal(before, after):
            raise EnvError(f"{env.name} does not repeat itself under the same seed and actions: give --act recorded")
        seen = again
    real = _course(seen[start : start + horizon + 1])
    if scene is not None:
        imagined = replace(imagined, poses=scene.follow(imagined.state, real.poses[0]))
    return Beside(seed, start, horizons, action, real, imagined)


@dataclass(frozen=True)
class _Seen:
    moment: Moment
    pose: Any  # of the scene, or None


def _watch(playing: Iterator[Moment], scene: Scene[Any] | None, steps: int) -> list[_Seen]:
    """At most so many steps of an episode, and the pose after each."""
    return [_Seen(moment, None if scene is None else scene.now()) for moment in islice(playing, steps + 1)]


def _fitting(horizons: Sequence[int] | None, start: int | None, length: int, seed: int) -> tuple[int, tuple[int, ...]]:
    """Where to begin in an episode of ``length`` steps, and the horizons, increasing."""
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
    return min(LATEST, length - longest) if start is None else start, tuple(sorted(set(horizons)))


def _rows(past: list[Moment], world_model: WorldModel[Any], device: torch.device | str) -> Rows:
    """What the imagination begins with, (1, context, ...), from an episode up to the moment after its start."""
    stacked = {name: torch.from_numpy(np.stack([m.joint[name] for m in past])) for name in past[0].joint}
    steps = past[1:]
    episode = Episode(
        **stacked,
        action=torch.from_numpy(np.stack([m.action for m in steps])),
        reward=torch.tensor([m.reward for m in steps], dtype=torch.float32),
        terminated=torch.tensor([m.terminated for m in steps]),
        truncated=torch.tensor([m.truncated for m in steps]),
    )
    store = Replay(ReplayConfig(capacity=len(episode)), world_model.spec, device)
    store.add(episode)
    return store.gather(torch.tensor([len(episode) - 1], device=device), world_model.context - 1, 0)


def _follow(world_model: WorldModel[Any], rows: Rows, action: np.ndarray) -> Course:
    told = forecast(world_model, rows, torch.from_numpy(action)[None].to(rows.state.device))
    return _told(told.state, told.obs, told.reward, told.continuation)


def _let_act(world_model: WorldModel[Any], rows: Rows, act: Act, horizon: int) -> tuple[Course, np.ndarray]:
    told = imagine(world_model, act, rows, horizon + 1)  # one step more, to see where the last one led
    state = torch.cat([rows.state[:, -1:], told.state[:, 1:]], dim=1)
    obs = torch.cat([rows.obs[:, -1:], told.obs[:, 1:]], dim=1)
    return _told(state, obs, told.reward[:, :-1], told.continuation[:, :-1]), told.action[0, :-1].cpu().numpy()


def _told(*parts: Tensor) -> Course:
    state, obs, reward, continuation = (part[0].cpu().numpy() for part in parts)
    return Course(state, obs, reward, continuation, poses=[])


def _course(seen: list[_Seen]) -> Course:
    kept = [one.moment for one in seen]
    return Course(
        state=np.stack([moment.joint["state"] for moment in kept]),
        obs=np.stack([moment.joint["obs"] for moment in kept]),
        reward=np.array([moment.reward for moment in kept[1:]]),
        continuation=np.array([1.0 - moment.terminated for moment in kept[1:]]),
        poses=[one.pose for one in seen if one.pose is not None],
    )


def _refuse_nonsense(imagined: Course) -> None:
    after = (imagined.state[1:], imagined.obs[1:], imagined.reward, imagined.continuation)
    wrong = ~np.all([np.isfinite(part).reshape(len(imagined), -1).all(-1) for part in after], axis=0)
    if wrong.any():
        step = int(wrong.argmax()) + 1
        raise DivergenceError(f"the world model imagines NaN or infinite numbers from step {step} on: it has diverged")
