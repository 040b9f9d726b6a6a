"""Collect experience in real environments: whole episodes for world models, rollouts for model-free learners.

The seed of episode *i* is a function of the run's seed and *i* alone. Environments are deterministic given seed and
actions, so a collector is restored in the middle of an episode by replaying the episode's actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.config import count
from dima.data import Act, EnvSpec, Episode, Record, Rollout, TransitionBatch, check_episode, choose
from dima.envs.base import Joint
from dima.envs.vector import VectorEnv
from dima.experience.episodes import UnfinishedEpisode, episode_seed, play, view_of
from dima.policies.base import Policy
from dima.runtime.fork import in_background
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.runtime.signals import Interrupted, Stop


@dataclass
class CollectedEpisodes:
    """Episodes, and the collector's counters after them."""

    episodes: list[Episode]
    steps: int
    started: int  # episodes

    def tree(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"episodes": [vars(episode) for episode in self.episodes], "steps": self.steps, "begun": self.started}

    @classmethod
    def of(cls, tree: dict[str, Any], spec: EnvSpec) -> CollectedEpisodes:
        """The inverse of :meth:`tree`.

        Raises:
            Exception: of any kind, the tree is of no episodes of this task.
        """
        episodes = [Episode(**episode) for episode in tree["episodes"]]
        for episode in episodes:
            check_episode(episode, spec)
        return cls(episodes, count(tree["steps"]), count(tree["begun"]))


class PolicySnapshot:
    """Copy of a policy on the CPU, where acting step by step is faster than on a GPU."""

    def __init__(self) -> None:
        self._copy: Policy | None = None

    def of(self, policy: Policy) -> Policy:
        """Present weights of ``policy`` on the CPU: itself if it lives there, else one copy, updated in place."""
        weight = next(policy.parameters(), None)
        if weight is None or weight.device.type == "cpu":
            return policy
        if self._copy is None:
            self._copy = deepcopy(policy).to("cpu")
        self._copy.load_state_dict(policy.state_dict())
        return self._copy


class Collector:
    """Collects the real experience of a training run.

    Args:
        envs: vectorised environments of the task.
        seed: the run's seed.
        device: of the policies that learn from rollouts.
        stop: heeded between two steps. What was collected until then is kept: the next call, which may be that of a
            collector restored from :meth:`checkpoint`, goes on from there.
    """

    def __init__(
        self, envs: VectorEnv, seed: int, device: torch.device | str = "cpu", stop: Stop | None = None
    ) -> None:
        self.envs, self.seed, self.device, self.stop = envs, seed, device, stop or Stop()
        self.snapshot = PolicySnapshot()
        self.steps, self.episodes = 0, 0  # environment steps and episodes so far
        self.largest_reward = 0.0  # in absolute value, since this process collects
        self._ahead: CollectedEpisodes | None = None  # played in the background or before a stop, returned next
        self._unfinished: list[UnfinishedEpisode] | None = None  # of rollouts, one per environment
        self._columns: list[dict[str, Tensor]] = []  # of a rollout that a stop interrupted, one for each step
        self._returns: list[float] = []  # of the episodes that ended in it
        self._joint: Joint = {}
        self._previous = np.zeros((envs.n, envs.spec.n_agents, envs.spec.action_dim), dtype=np.float32)

    def play(self, policy: Policy, min_steps: int, limit: int = 0) -> list[Episode]:
        """Play whole episodes, one in each environment at a time, until they hold ``min_steps`` steps.

        Episodes that were played ahead are the first of them.

        Args:
            policy: acts in every environment.
            min_steps: least number of steps in all.
            limit: truncate episodes after this many steps; 0 leaves that to the environment.

        Raises:
            Interrupted: a stop was requested; unfinished episodes are played again.
        """
        collected = self._play(self.snapshot.of(policy), min_steps, limit, self.stop)
        self._ahead = None
        self.steps, self.episodes = collected.steps, collected.started
        self.largest_reward = max(self.largest_reward, largest_reward(collected.episodes))
        return collected.episodes

    @contextmanager
    def in_background(self, policy: Policy, min_steps: int, limit: int, progress: Progress) -> Iterator[None]:
        """Play the next episodes with the present policy while the block runs; arguments as for :meth:`play`."""
        acting, seed = self.snapshot.of(policy), int(torch.randint(2**62, ()))

        def job() -> CollectedEpisodes:
            with drawn_from("cpu", seed):
                return self._play(acting, min_steps, limit)

        with self.envs.used_by_fork(), in_background(job, self.envs.forkable) as result:
            yield
            with progress.phase("collect"):
                self._ahead = result()

    def _play(self, policy: Policy, min_steps: int, limit: int, stop: Stop | None = None) -> CollectedEpisodes:
        """Play episodes without changing the collector's own counters."""
        done = self._ahead or CollectedEpisodes([], self.steps, self.episodes)
        while done.steps - self.steps < min_steps:
            seeds = [episode_seed(self.seed, done.started + n) for n in range(self.envs.n)]
            before = torch.get_rng_state()
            try:
                played = play(self.envs, policy.act, seeds, limit=limit, stop=stop)
            except Interrupted:
                torch.set_rng_state(before)
                self._ahead = done
                raise
            steps = done.steps + sum(map(len, played))
            done = CollectedEpisodes(done.episodes + played, steps, done.started + self.envs.n)
        return done

    def roll(self, act: Act, steps: int) -> tuple[Rollout, list[float]]:
        """Step every environment ``steps`` times from where the last call stopped, for an on-policy learner.

        Returns:
            The rollout, (B environments, T steps), on the device; and the returns of the episodes that ended.

        Raises:
            Interrupted: a stop was requested.
        """
        columns, returns = self._step(act, steps)
        return Rollout(**_stack_columns(columns, Rollout)), returns

    def transitions(self, act: Act, steps: int) -> tuple[TransitionBatch, list[float]]:
        """Like :meth:`roll`, as transitions for an off-policy learner."""
        columns, returns = self._step(act, steps)
        return TransitionBatch(**_stack_columns(columns, TransitionBatch)), returns

    def _step(self, act: Act, steps: int) -> tuple[list[dict[str, Tensor]], list[float]]:
        """All fields of a rollout or transition, (B, ...) for each step; and the returns of the episodes that ended."""
        if self._unfinished is None:
            self._unfinished = [UnfinishedEpisode() for _ in range(self.envs.n)]
            self._restart(np.ones(self.envs.n, dtype=bool))
        while len(self._columns) < steps:
            self.stop.heed()
            first = np.array([not episode.actions for episode in self._unfinished])
            view = view_of(self._joint, self._previous, first, self.device)
            chosen, log_prob = choose(act, view, self.envs.spec)
            action = chosen.cpu().numpy()
            self._joint, reward, terminated, truncated = self.envs.step(action, np.ones(self.envs.n, dtype=bool))
            self._previous = action.copy()
            self._columns.append(
                {
                    "obs": view.obs,
                    "state": view.state,
                    "action_mask": view.action_mask,
                    "previous_action": view.previous_action,
                    "action": chosen,
                    "log_prob": log_prob,
                    "reward": torch.from_numpy(reward.astype(np.float32)).to(self.device),
                    "continuation": torch.from_numpy(1 - terminated.astype(np.float32)).to(self.device),
                    "terminated": torch.from_numpy(terminated).to(self.device),
                    "boundary": torch.from_numpy(terminated | truncated).to(self.device),
                    "next_state": torch.from_numpy(self._joint["state"]).to(self.device),
                    "next_obs": torch.from_numpy(self._joint["obs"]).to(self.device),
                    "next_mask": torch.from_numpy(self._joint["action_mask"]).to(self.device, torch.bool),
                }
            )
            self.largest_reward = max(self.largest_reward, float(np.abs(reward).max()))
            for n, episode in enumerate(self._unfinished):
                episode.actions.append(action[n])
                episode.rewards.append(float(reward[n]))
            ended = np.asarray(terminated | truncated)
            self._returns += [sum(self._unfinished[n].rewards) for n in np.flatnonzero(ended)]
            if ended.any():
                self._restart(ended)
        self.steps += steps * self.envs.n
        columns, self._columns = self._columns, []
        returns, self._returns = self._returns, []
        return columns, returns

    def checkpoint(self) -> dict[str, Any]:
        """Counters, what was collected ahead, and number and actions of each unfinished episode."""
        unfinished = [
            {"number": episode.number, "actions": torch.from_numpy(_stack_actions(episode.actions, self._previous))}
            for episode in self._unfinished or ()
        ]
        names = self._columns[0] if self._columns else ()
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "unfinished": unfinished,
            "ahead": None if self._ahead is None else self._ahead.tree(),
            "columns": {name: torch.stack([column[name] for column in self._columns]) for name in names},
            "returns": list(self._returns),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore a :meth:`checkpoint` exactly, replaying unfinished episodes from their seeds.

        Where a non-deterministic environment ends earlier than it did, a new episode starts.
        """
        self.steps, self.episodes = count(saved["steps"]), count(saved["episodes"])
        self._ahead = None if saved["ahead"] is None else CollectedEpisodes.of(saved["ahead"], self.envs.spec)
        self._check_columns(saved["columns"])
        columns = {name: values.to(self.device).unbind() for name, values in saved["columns"].items()}
        rows = zip(*columns.values(), strict=True)
        self._columns = [dict(zip(columns, row, strict=True)) for row in rows]
        self._returns = [float(value) for value in saved["returns"]]
        if not saved["unfinished"]:
            return
        self._unfinished = [UnfinishedEpisode(number=count(episode["number"])) for episode in saved["unfinished"]]
        everyone, lost = np.ones(self.envs.n, dtype=bool), np.zeros(self.envs.n, dtype=bool)
        seeds = [episode_seed(self.seed, episode.number) for episode in self._unfinished]
        self._joint = self.envs.reset(seeds, everyone)
        histories = [episode["actions"].numpy() for episode in saved["unfinished"]]
        for t in range(max(map(len, histories))):
            active = np.array([t < len(history) for history in histories]) & ~lost
            action = np.stack([h[t] if t < len(h) else p for h, p in zip(histories, self._previous, strict=True)])
            self._joint, reward, terminated, truncated = self.envs.step(action, active)
            self._previous[active] = action[active]
            lost |= terminated | truncated
            for n in np.flatnonzero(active):
                self._unfinished[n].actions.append(action[n])
                self._unfinished[n].rewards.append(float(reward[n]))
        if lost.any():
            self._restart(lost)

    def _check_columns(self, columns: dict[str, Tensor]) -> None:
        """Raise ValueError if saved columns, (T, B, ...) each, are not those of a rollout in this task."""
        spec = self.envs.spec
        obs, action = (spec.n_agents, spec.obs_dim), (spec.n_agents, spec.action_dim)
        sizes: dict[str, tuple[int, ...]] = {"state": (spec.state_dim,), "log_prob": action[:1], "obs": obs}
        sizes |= {"action_mask": action, "previous_action": action, "action": action}
        sizes |= dict.fromkeys(("reward", "continuation", "terminated", "boundary"), ())
        sizes |= {"next_state": (spec.state_dim,), "next_obs": obs, "next_mask": action}
        if columns and columns.keys() != sizes.keys():
            raise ValueError("a rollout that was interrupted has other columns")
        for name, values in columns.items():
            truth = name in ("action_mask", "terminated", "boundary", "next_mask")
            whole = values.shape[1:] == (self.envs.n, *sizes[name]) and values.dtype == (
                torch.bool if truth else torch.float32
            )
            if not whole:
                raise ValueError(f"{name} of a rollout that was interrupted is not of the task's sizes")

    def _restart(self, which: np.ndarray) -> None:
        """Start new episodes in the chosen environments."""
        assert self._unfinished is not None
        seeds: list[int | None] = [None] * self.envs.n
        for n in np.flatnonzero(which):
            self._unfinished[n] = UnfinishedEpisode(number=self.episodes)
            seeds[n] = episode_seed(self.seed, self.episodes)
            self.episodes += 1
        self._joint = self.envs.reset(seeds, which)
        self._previous[which] = 0


def largest_reward(episodes: Sequence[Episode]) -> float:
    """Absolute value of the largest reward in episodes."""
    return max((float(episode.reward.abs().max()) for episode in episodes), default=0.0)


def _stack_columns(columns: list[dict[str, Tensor]], kind: type[Record]) -> dict[str, Tensor]:
    """The fields of ``kind``, stacked over time to (B, T, ...)."""
    return {f.name: torch.stack([column[f.name] for column in columns], dim=1) for f in fields(kind)}


def _stack_actions(actions: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.stack(actions) if actions else np.zeros((0, *like.shape[1:]), dtype=like.dtype)
