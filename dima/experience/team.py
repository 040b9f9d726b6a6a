"""A policy that acts in the spaces of a PettingZoo environment, in one or in many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.data import View, blank
from dima.envs.base import Joint, JointEnv
from dima.errors import EnvError
from dima.policies.base import Policy


class Team:
    """A team's policy and its memory of the episode, if it has one.

    Args:
        policy: acts; its weights stay shared.
        env: of the task; it translates observations and actions, and is never stepped.
        device: of the policy.
    """

    def __init__(self, policy: Policy, env: JointEnv, device: torch.device | str) -> None:
        self.env, self.device = env, torch.device(device)
        self._policy = copy(policy)  # with a memory of its own, if it has one
        self._previous: Tensor
        self._first: Tensor
        self._start(1)

    def reset(self, which: Sequence[bool] | np.ndarray | None = None) -> None:
        """Forget the episode so far: call it whenever the environment is reset, for policies that have a memory.

        Args:
            which: (B,) the environments whose episodes begin, of the B that were acted in; by default all.

        Raises:
            EnvError: it does not fit the number of environments.
        """
        if which is None:
            self._start(len(self._first))
            return
        begun = torch.as_tensor(np.asarray(which, dtype=bool), device=self.device)
        if begun.shape != self._first.shape:
            raise EnvError(f"reset({begun.tolist()}) does not fit: the team acts in {len(self._first)} environments")
        self._first |= begun
        self._previous = torch.where(begun[:, None, None], 0.0, self._previous)

    def copy_memory(self, other: Team) -> None:
        """Remember what another team of the same policy remembers, in as many environments."""
        self._previous, self._first = other._previous.clone(), other._first.clone()
        self._policy.memory = other._policy.memory

    def act(self, observations: Any, infos: Any = None, mode: bool = True) -> Any:
        """Choose an action for every agent, in the PettingZoo environment's spaces.

        A policy with a memory remembers earlier calls until :meth:`reset`.

        Args:
            observations: as returned by ``reset`` or ``step``; where agents may leave, of those in ``agents``. For B
                environments at a time: a list of B such dictionaries, or one whose arrays have a leading axis of B.
            infos: likewise; needed where they hold the action masks.
            mode: take the most probable action instead of sampling one.

        Returns:
            Actions by agent: of one environment, a list of B of them, or arrays with a leading axis.

        Raises:
            EnvError: an agent is missing, or its observation does not fit its space.
        """
        if isinstance(observations, Mapping):
            size = self.env.batch_size(observations)
            if size is None:
                return self._act([observations], [infos], mode)[0]
            masks = {
                a: {"action_mask": i["action_mask"]} for a, i in (infos or {}).items() if "action_mask" in (i or {})
            }
            many = self._act(_rows(observations, size), _rows(masks, size), mode)
            return {agent: np.stack([actions[agent] for actions in many]) for agent in many[0]}
        if not isinstance(observations, Sequence) or not observations:
            raise EnvError(f"observations are of type {type(observations).__name__}: expected a dictionary by agent")
        if infos is not None and len(infos) != len(observations):
            raise EnvError(f"there are infos of {len(infos)} environments and observations of {len(observations)}")
        return self._act(observations, infos or [None] * len(observations), mode)

    def _act(self, observations: Sequence[Any], infos: Sequence[Any], mode: bool) -> list[dict[Any, Any]]:
        """Actions in each of B environments."""
        env = self.env
        joints: list[tuple[Joint, np.ndarray]] = []
        for one, info in zip(observations, infos, strict=True):
            joints.append((env.encode(one, info), env.alive))
        obs, masks = (np.stack([joint[name] for joint, _ in joints]) for name in ("obs", "action_mask"))
        chosen = self._choose(obs, masks, np.stack([there for _, there in joints]), mode)
        return [env.decode(row, mask, there) for row, mask, (_, there) in zip(chosen, masks, joints, strict=True)]

    def _choose(self, obs: np.ndarray, action_mask: np.ndarray, alive: np.ndarray, mode: bool) -> np.ndarray:
        """Joint actions (B, N, A), continuous ones unbounded, zero for agents that are not ``alive`` (B, N)."""
        spec, size = self.env.spec, len(obs)
        if size != len(self._first):  # another number of environments
            self._start(size)
        view = View(
            obs=torch.from_numpy(obs).to(self.device),
            state=torch.zeros(size, spec.state_dim, device=self.device),  # policies act on observations alone
            action_mask=torch.from_numpy(action_mask).to(self.device),
            previous_action=self._previous,
            first=self._first,
        )
        action, _ = self._policy.act(view, mode)
        there = torch.from_numpy(alive).to(self.device) if spec.agents_leave else None
        self._previous = blank(action, there)  # who has left acts none
        self._first = torch.zeros_like(self._first)
        chosen: np.ndarray = self._previous.cpu().numpy()
        return chosen

    def _start(self, size: int) -> None:
        """Begin an episode in each of ``size`` environments."""
        spec = self.env.spec
        self._previous = torch.zeros(size, spec.n_agents, spec.action_dim, device=self.device)
        self._first = torch.ones(size, dtype=torch.bool, device=self.device)


def _rows(values: Any, size: int) -> list[Any]:
    """A dictionary for each row of one whose arrays have a leading axis; nested ones likewise.

    Raises:
        EnvError: an array has no axis of that size.
    """
    if isinstance(values, Mapping):
        columns = {name: _rows(value, size) for name, value in values.items()}
        return [{name: column[n] for name, column in columns.items()} for n in range(size)]
    if values is None or np.ndim(values) == 0 or len(values) != size:
        shape = np.shape(values) if values is not None else None
        raise EnvError(
            f"a batch of {size} observations has an entry of shape {shape}: expected a leading axis of {size}"
        )
    return list(np.asarray(values))
