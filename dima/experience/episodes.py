"""Play whole episodes in real environments, each from a seed of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.data import Act, EnvSpec, Episode, View, choose
from dima.envs.base import Joint
from dima.envs.vector import VectorEnv
from dima.runtime.signals import Stop

Purpose = Literal["training", "evaluation"]


def episode_seed(run_seed: int, episode: int, purpose: Purpose = "training") -> int:
    """Seed of an episode, below 2**31: even in training and odd in evaluation, so they are disjoint."""
    drawn = int(np.random.SeedSequence((run_seed, episode)).generate_state(1)[0])
    return (drawn >> 2 << 1) | (purpose == "evaluation")


@dataclass
class UnfinishedEpisode:
    """Time steps of one environment since its last reset."""

    number: int = -1  # of the episode, in the order of the seeds
    observations: list[Joint] = field(default_factory=list)  # T + 1
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def finish(self, terminated: bool) -> Episode:
        end = torch.zeros(len(self.actions), dtype=torch.bool)
        end[-1] = True
        stacked = {
            name: torch.from_numpy(np.stack([joint[name] for joint in self.observations]))
            for name in self.observations[0]
        }
        return Episode(
            **stacked,
            action=torch.from_numpy(np.stack(self.actions)),
            reward=torch.tensor(self.rewards, dtype=torch.float32),
            terminated=end & terminated,
            truncated=end & (not terminated),
        )


class Played(NamedTuple):
    """An episode, and the values of its environment's ``episode_metrics``; empty if a limit cut it."""

    episode: Episode
    metrics: tuple[float, ...]


def play(
    envs: VectorEnv,
    act: Act,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    limit: int = 0,
    stop: Stop | None = None,
) -> list[Episode]:
    """The episodes of :func:`play_measured`."""
    return [played.episode for played in play_measured(envs, act, seeds, device, limit, stop)]


def play_measured(
    envs: VectorEnv,
    act: Act,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    limit: int = 0,
    stop: Stop | None = None,
) -> list[Played]:
    """Play one whole episode per seed, as many at a time as there are environments.

    Args:
        envs: vectorised environments.
        act: the policy.
        seeds: one for each episode.
        device: where ``act`` expects its input.
        limit: truncate episodes after this many steps; 0 leaves that to the environment.
        stop: heeded between two steps.

    Returns:
        The episodes in the order of their seeds, on the CPU.

    Raises:
        Interrupted: a stop was requested; the episodes are lost.
    """
    device = torch.device(device)
    waiting = deque(enumerate(seeds))
    running: dict[int, UnfinishedEpisode] = {}  # by environment
    finished: dict[int, Played] = {}
    previous = np.zeros((envs.n, envs.spec.n_agents, envs.spec.action_dim), dtype=np.float32)
    while waiting or running:
        if stop is not None:
            stop.heed()
        idle = [n for n in range(envs.n) if n not in running][: len(waiting)]
        first = np.isin(np.arange(envs.n), idle)
        if idle:
            start_seeds: list[int | None] = [None] * envs.n
            for n in idle:
                number, start_seeds[n] = waiting.popleft()
                running[n] = UnfinishedEpisode(number)
            joint = envs.reset(start_seeds, first)
            previous[idle] = 0
            for n in idle:
                running[n].observations.append(_of_env(joint, n))
        chosen, _ = choose(act, view_of(joint, previous, first, device), envs.spec)
        action = chosen.cpu().numpy()
        active = np.array([n in running for n in range(envs.n)])
        joint, reward, terminated, truncated = envs.step(action, active)
        previous = action.copy()
        for n, episode in list(running.items()):
            episode.actions.append(action[n])
            episode.rewards.append(float(reward[n]))
            episode.observations.append(_of_env(joint, n))
            if terminated[n] or truncated[n] or len(episode.actions) == limit:
                metrics = envs.metrics.get(n, ())
                finished[episode.number] = Played(episode.finish(bool(terminated[n])), metrics)
                del running[n]
    return [finished[number] for number in range(len(seeds))]


def random_policy(spec: EnvSpec) -> Act:
    """Uniform policy over each agent's action space, or its allowed choices; log-probabilities are 0."""

    def act(view: View) -> tuple[Tensor, Tensor]:
        draw = torch.rand(view.action_mask.shape, device=view.obs.device)
        log_prob = torch.zeros(draw.shape[:-1], device=draw.device)
        if not spec.discrete:
            return (2 * draw - 1) * view.action_mask, log_prob
        choice = torch.where(view.action_mask, draw, -1.0).argmax(-1)
        return F.one_hot(choice, spec.action_dim).float(), log_prob

    return act


def view_of(joint: Joint, previous: np.ndarray, first: np.ndarray, device: torch.device | str) -> View:
    """Observations of a vectorised environment, as tensors on ``device``.

    Args:
        joint: the observations, (B, ...).
        previous: (B, N, A) actions before them.
        first: (B,) bool, whose episode begins with them.
        device: of the tensors.
    """
    return View(
        obs=torch.from_numpy(joint["obs"]).to(device),
        state=torch.from_numpy(joint["state"]).to(device),
        action_mask=torch.from_numpy(joint["action_mask"]).to(device, torch.bool),
        previous_action=torch.from_numpy(previous).to(device),
        first=torch.from_numpy(first).to(device),
    )


def _of_env(joint: Joint, n: int) -> Joint:
    return {name: values[n] for name, values in joint.items()}
