"""An episode of a real environment, step by step, so that it can be looked at while it is played."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dima.data import EnvSpec
from dima.envs.base import Joint, JointEnv
from dima.experience.collector import Act, view_of

Choose = Callable[[Joint, np.ndarray], np.ndarray | None]  # what is seen, last action -> next action; None to stop


@dataclass
class Moment:
    """Where a step led; the first moment is the episode's start."""

    joint: Joint
    action: np.ndarray  # (N, A) that led here, zeros at the start
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def moments(env: JointEnv, seed: int, choose: Choose) -> Iterator[Moment]:
    """Play an episode from its seed until it ends or nothing is chosen."""
    joint, _ = env.reset(seed=seed)
    moment = Moment(joint, np.zeros((env.spec.n_agents, env.spec.action_dim), dtype=np.float32))
    yield moment
    while not (moment.terminated or moment.truncated):
        action = choose(moment.joint, moment.action)
        if action is None:
            return
        joint, reward, terminated, truncated, _ = env.step(action)
        moment = Moment(joint, action, reward, terminated, truncated)
        yield moment


def by_policy(act: Act, device: torch.device | str) -> Choose:
    """What a policy chooses, on ``device``."""

    def choose(joint: Joint, previous: np.ndarray) -> np.ndarray:
        view = view_of({name: values[None] for name, values in joint.items()}, previous[None], device)
        return act(view)[0][0].cpu().numpy()

    return choose


def in_turn(actions: Iterable[np.ndarray], spec: EnvSpec) -> Choose:
    """Given actions, one after the other, until the environment forbids one."""
    waiting = iter(actions)

    def choose(joint: Joint, previous: np.ndarray) -> np.ndarray | None:
        action = next(waiting, None)
        if action is None or not spec.masks_actions:
            return action
        allowed = np.take_along_axis(joint["action_mask"], action.argmax(-1)[:, None], axis=-1)
        return action if allowed.all() else None

    return choose
