"""Run a policy in real environments: whole episodes for world models, stretches of steps for on-policy learners.

The seed of episode *i* is a function of the run's seed and *i* alone. Environments are deterministic given seed and
actions, so a collector is restored in the middle of an episode by playing its actions again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.data import Act, EnvSpec, Episode, Record, Rollout, TransitionBatch, View
from dima.envs.vector import VectorEnv
from dima.policies.base import Policy
from dima.runtime.fork import in_background
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from

Purpose = Literal["training", "evaluation"]


def episode_seed(run_seed: int, episode: int, purpose: Purpose = "training") -> int:
    """The seed of an episode, below 2**31; training's are even and evaluation's odd, so they never meet."""
    drawn = int(np.random.SeedSequence((run_seed, episode)).generate_state(1)[0])
    return (drawn >> 2 << 1) | (purpose == "evaluation")


@dataclass
class _Slot:
    """What one environment has lived through since its episode began."""

    number: int = -1  # of the episode, in the order of the seeds
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)  # T + 1 observations
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def episode(self, terminated: bool) -> Episode:
        ends = torch.zeros(len(self.actions), dtype=torch.bool)
        ends[-1] = True
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in self.rows])) for name in self.rows[0]}
        return Episode(
            obs=stacked["obs"],
            state=stacked["state"],
            action_mask=stacked["action_mask"].bool(),
            action=torch.from_numpy(np.stack(self.actions)),
            reward=torch.tensor(self.rewards, dtype=torch.float32),
            terminated=ends & terminated,
            truncated=ends & (not terminated),
        )


def play(
    envs: VectorEnv, act: Act, seeds: Sequence[int], device: torch.device | str = "cpu", limit: int = 0
) -> list[Episode]:
    """Play one whole episode per seed, as many at a time as there are environments.

    Args:
        envs: vectorised environments.
        act: chooses every action.
        seeds: one for each episode.
        device: where ``act`` wants its input.
        limit: truncate episodes after so many steps; 0 leaves that to the environment.

    Returns:
        The episodes in the order of their seeds, on the CPU.
    """
    episodes: dict[int, Episode] = {}
    waiting = deque(enumerate(seeds))
    slots = [_Slot() for _ in range(envs.n)]
    active = np.zeros(envs.n, dtype=bool)
    previous = np.zeros((envs.n, envs.spec.n_agents, envs.spec.action_dim), dtype=np.float32)
    while waiting or active.any():
        fresh = np.zeros(envs.n, dtype=bool)
        starting: list[int | None] = [None] * envs.n
        for n in range(envs.n):
            if not active[n] and waiting:
                slots[n] = _Slot(waiting[0][0])
                starting[n] = waiting.popleft()[1]
                fresh[n] = active[n] = True
        if fresh.any():
            now = envs.reset(starting, fresh)
            previous[fresh] = 0
            for n in map(int, np.flatnonzero(fresh)):
                slots[n].rows.append(_row(now, n))
        chosen, _ = act(view_of(now, previous, device))
        action = chosen.cpu().numpy()
        now, reward, terminated, truncated = envs.step(action, active)
        previous = action.copy()
        for n in map(int, np.flatnonzero(active)):
            slots[n].actions.append(action[n])
            slots[n].rewards.append(float(reward[n]))
            slots[n].rows.append(_row(now, n))
            if terminated[n] or truncated[n] or len(slots[n].actions) == limit:
                episodes[slots[n].number] = slots[n].episode(bool(terminated[n]))
                active[n] = False
    return [episodes[number] for number in range(len(seeds))]


def random_policy(spec: EnvSpec) -> Act:
    """Uniform over each agent's action space, or over its allowed choices; log-probabilities are left at 0."""

    def act(view: View) -> tuple[Tensor, Tensor]:
        draw = torch.rand(view.action_mask.shape, device=view.obs.device)
        nothing = torch.zeros(draw.shape[:-1], device=draw.device)
        if not spec.discrete:
            return (2 * draw - 1) * view.action_mask, nothing
        choice = torch.where(view.action_mask, draw, -1.0).argmax(-1)
        return F.one_hot(choice, spec.action_dim).float(), nothing

    return act


def view_of(now: dict[str, np.ndarray], previous: np.ndarray, device: torch.device | str) -> View:
    """Arrays of a vectorised environment as what the team sees, on ``device``."""
    return View(
        obs=torch.from_numpy(now["obs"]).to(device),
        state=torch.from_numpy(now["state"]).to(device),
        action_mask=torch.from_numpy(now["action_mask"]).to(device, torch.bool),
        previous_action=torch.from_numpy(previous).to(device),
    )


def _row(now: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    return {name: values[n].copy() for name, values in now.items()}


@dataclass
class CollectedEpisodes:
    """Episodes that were played ahead of time, and the collector's counters after them."""

    episodes: list[Episode]
    steps: int
    begun: int  # episodes

    def tree(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"episodes": [vars(episode) for episode in self.episodes], "steps": self.steps, "begun": self.begun}

    @classmethod
    def of(cls, tree: dict[str, Any]) -> CollectedEpisodes:
        """The inverse of :meth:`tree`."""
        return cls([Episode(**episode) for episode in tree["episodes"]], tree["steps"], tree["begun"])


class PolicySnapshot:
    """A copy of a policy on the CPU, where single steps take less time than on a GPU."""

    def __init__(self) -> None:
        self._copy: Policy | None = None

    def of(self, policy: Policy) -> Policy:
        """The policy as it is now, on the CPU: itself if it is there, else the same copy at every call."""
        weight = next(policy.parameters(), None)
        if weight is None or weight.device.type == "cpu":
            return policy
        if self._copy is None:
            self._copy = deepcopy(policy).to("cpu")
        self._copy.load_state_dict(policy.state_dict())
        return self._copy


class Collector:
    """Training's source of real experience.

    Args:
        envs: vectorised environments of the task.
        seed: the run's seed.
        device: where the policies live that learn from rollouts.
    """

    def __init__(self, envs: VectorEnv, seed: int, device: torch.device | str = "cpu") -> None:
        self.envs, self.seed, self.device = envs, seed, device
        self.snapshot = PolicySnapshot()
        self.steps, self.episodes = 0, 0  # environment steps and episodes so far
        self._ahead: CollectedEpisodes | None = None  # played in the background, to be returned next
        self._open: list[_Slot] | None = None  # episodes that rollouts left unfinished
        self._now: dict[str, np.ndarray] = {}
        self._previous = np.zeros((envs.n, envs.spec.n_agents, envs.spec.action_dim), dtype=np.float32)

    def play(self, policy: Policy, min_steps: int, limit: int = 0) -> list[Episode]:
        """Whole episodes, one in each environment at a time, until they hold ``min_steps`` steps.

        What was played in the background meanwhile is returned instead.

        Args:
            policy: chooses every action.
            min_steps: at least so many.
            limit: truncate episodes after so many steps; 0 leaves that to the environment.
        """
        ahead, self._ahead = self._ahead or self._play(self.snapshot.of(policy), min_steps, limit), None
        self.steps, self.episodes = ahead.steps, ahead.begun
        return ahead.episodes

    @contextmanager
    def in_background(self, policy: Policy, min_steps: int, limit: int, progress: Progress) -> Iterator[None]:
        """Play the next episodes with the present policy while the block runs; arguments as for :meth:`play`."""
        acting, seed = self.snapshot.of(policy), int(torch.randint(2**62, ()))

        def job() -> CollectedEpisodes:
            with drawn_from("cpu", seed):
                return self._play(acting, min_steps, limit)

        with self.envs.used_by_fork(), in_background(job) as result:
            yield
            with progress.phase("collect"):
                self._ahead = result()

    def _play(self, policy: Policy, min_steps: int, limit: int) -> CollectedEpisodes:
        """The episodes, and the counters after them; the collector's own stay as they are."""
        played: list[Episode] = []
        begun = self.episodes
        while sum(map(len, played)) < min_steps:
            seeds = [episode_seed(self.seed, begun + n) for n in range(self.envs.n)]
            begun += self.envs.n
            played += play(self.envs, policy.act, seeds, limit=limit)
        return CollectedEpisodes(played, self.steps + sum(map(len, played)), begun)

    def roll(self, act: Act, steps: int) -> tuple[Rollout, list[float]]:
        """``steps`` steps of every environment, going on where the last call stopped, for an on-policy learner.

        Returns:
            The rollout, (B environments, T steps), on the device; and the returns of the episodes that ended.
        """
        columns, returns = self._step(act, steps)
        return Rollout(**_stack_columns(columns, Rollout)), returns

    def transitions(self, act: Act, steps: int) -> tuple[TransitionBatch, list[float]]:
        """The same for an off-policy learner, as transitions to be kept."""
        columns, returns = self._step(act, steps)
        return TransitionBatch(**_stack_columns(columns, TransitionBatch)), returns

    def _step(self, act: Act, steps: int) -> tuple[list[dict[str, Tensor]], list[float]]:
        """Everything there is to know of each step, (B, ...) each; and the returns of the episodes that ended."""
        if self._open is None:
            self._open = [_Slot() for _ in range(self.envs.n)]
            self._restart(np.ones(self.envs.n, dtype=bool))
        columns: list[dict[str, Tensor]] = []
        returns = []
        for _ in range(steps):
            view = view_of(self._now, self._previous, self.device)
            chosen, log_prob = act(view)
            action = chosen.cpu().numpy()
            self._now, reward, terminated, truncated = self.envs.step(action, np.ones(self.envs.n, dtype=bool))
            self._previous = action.copy()
            columns.append(
                {
                    "obs": view.obs.clone(),
                    "state": view.state.clone(),
                    "action_mask": view.action_mask,
                    "previous_action": view.previous_action.clone(),
                    "action": chosen,
                    "log_prob": log_prob,
                    "reward": torch.from_numpy(reward.astype(np.float32)).to(self.device),
                    "continuation": torch.from_numpy(1 - terminated.astype(np.float32)).to(self.device),
                    "terminated": torch.from_numpy(terminated.copy()).to(self.device),
                    "boundary": torch.from_numpy(terminated | truncated).to(self.device),
                    "next_state": torch.from_numpy(self._now["state"].copy()).to(self.device),
                    "next_obs": torch.from_numpy(self._now["obs"].copy()).to(self.device),
                    "next_mask": torch.from_numpy(self._now["action_mask"].copy()).to(self.device, torch.bool),
                }
            )
            for n, slot in enumerate(self._open):
                slot.actions.append(action[n])
                slot.rewards.append(float(reward[n]))
            ended = np.asarray(terminated | truncated)
            returns += [sum(self._open[n].rewards) for n in np.flatnonzero(ended)]
            if ended.any():
                self._restart(ended)
        self.steps += steps * self.envs.n
        return columns, returns

    def checkpoint(self) -> dict[str, Any]:
        """Counters, episodes played in the background, and number and actions of each unfinished episode."""
        unfinished = [
            {"number": slot.number, "actions": torch.from_numpy(_stack(slot.actions, self._previous))}
            for slot in self._open or ()
        ]
        ahead = None if self._ahead is None else self._ahead.tree()
        return {"steps": self.steps, "episodes": self.episodes, "unfinished": unfinished, "ahead": ahead}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on exactly where :meth:`checkpoint` was taken, replaying unfinished episodes from their seeds.

        An environment that does not repeat itself may end earlier than it did: then a new episode begins there.
        """
        self.steps, self.episodes = saved["steps"], saved["episodes"]
        self._ahead = None if saved["ahead"] is None else CollectedEpisodes.of(saved["ahead"])
        if not saved["unfinished"]:
            return
        self._open = [_Slot(number=slot["number"]) for slot in saved["unfinished"]]
        everyone, lost = np.ones(self.envs.n, dtype=bool), np.zeros(self.envs.n, dtype=bool)
        self._now = self.envs.reset([episode_seed(self.seed, slot.number) for slot in self._open], everyone)
        histories = [slot["actions"].numpy() for slot in saved["unfinished"]]
        for t in range(max(map(len, histories))):
            active = np.array([t < len(history) for history in histories]) & ~lost
            action = np.stack([h[t] if t < len(h) else p for h, p in zip(histories, self._previous, strict=True)])
            self._now, reward, terminated, truncated = self.envs.step(action, active)
            self._previous[active] = action[active]
            lost |= terminated | truncated
            for n in np.flatnonzero(active):
                self._open[n].actions.append(action[n])
                self._open[n].rewards.append(float(reward[n]))
        if lost.any():
            self._restart(lost)

    def _next_seed(self) -> int:
        self.episodes += 1
        return episode_seed(self.seed, self.episodes - 1)

    def _restart(self, which: np.ndarray) -> None:
        """Begin new episodes in the chosen environments."""
        assert self._open is not None
        seeds: list[int | None] = [None] * self.envs.n
        for n in np.flatnonzero(which):
            self._open[n] = _Slot(number=self.episodes)
            seeds[n] = self._next_seed()
        self._now = self.envs.reset(seeds, which)
        self._previous[which] = 0


def _stack_columns(columns: list[dict[str, Tensor]], kind: type[Record]) -> dict[str, Tensor]:
    """What a kind of record holds of all steps, (B, T, ...)."""
    return {f.name: torch.stack([column[f.name] for column in columns], dim=1) for f in fields(kind)}


def _stack(actions: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.stack(actions) if actions else np.zeros((0, *like.shape[1:]), dtype=like.dtype)
