"""Play an episode of a real environment step by step, so that it can be drawn on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dima.data import Act, EnvSpec
from dima.envs.base import Joint, JointEnv
from dima.experience.episodes import view_of

Choose = Callable[["TimeStep"], np.ndarray | None]  # the newest time step -> next action; None to stop


@dataclass
class TimeStep:
    """Outcome of a step; the first of an episode is its start."""

    joint: Joint
    action: np.ndarray  # (N, A) that led here, zeros at the start
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    first: bool = False


def play_steps(env: JointEnv, seed: int, choose: Choose) -> Iterator[TimeStep]:
    """Play an episode from its seed until it ends or no action is chosen."""
    joint, _ = env.reset(seed=seed)
    time_step = TimeStep(joint, np.zeros((env.spec.n_agents, env.spec.action_dim), dtype=np.float32), first=True)
    yield time_step
    while not (time_step.terminated or time_step.truncated):
        action = choose(time_step)
        if action is None:
            return
        if (alive := env.spec.alive(time_step.joint["state"])) is not None:
            action = np.where(alive[:, None], action, 0)
        joint, reward, terminated, truncated, _ = env.step(action)
        time_step = TimeStep(joint, action, reward, terminated, truncated)
        yield time_step


def policy_actions(act: Act, device: torch.device | str) -> Choose:
    """Choose the actions of a policy that computes on ``device``."""

    def choose(now: TimeStep) -> np.ndarray:
        joint = {name: values[None] for name, values in now.joint.items()}
        view = view_of(joint, now.action[None], np.array([now.first]), device)
        return act(view)[0][0].cpu().numpy()

    return choose


def given_actions(actions: Iterable[np.ndarray], spec: EnvSpec) -> Choose:
    """Choose given actions in turn, until the environment's mask forbids one."""
    remaining = iter(actions)

    def choose(now: TimeStep) -> np.ndarray | None:
        action = next(remaining, None)
        if action is None or not spec.masks_actions:
            return action
        allowed = np.take_along_axis(now.joint["action_mask"], action.argmax(-1)[:, None], axis=-1)
        return action if allowed.all() else None

    return choose
