"""Convert a team's PettingZoo observations, action masks and actions to padded arrays, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from dima.envs.checked import CheckedEnv
from dima.envs.spaces import ActionWriter, ObservationReader
from dima.errors import DivergenceError, EnvError

_LOW, _HIGH = np.array(-1, np.float32), np.array(1, np.float32)


class TeamCodec:
    """Readers and writers of all agents' spaces, and the action masks last read.

    Attributes:
        discrete: actions are choices.
        readers, writers: of each agent.
        masked: numbers of the agents with action masks; known after :meth:`find_masks`.
        obs_sizes, action_sizes: of each agent, by which rows are padded.

    Args:
        checked: the environment, whose ``alive`` says who is there.
        name: of the environment in messages.

    Raises:
        EnvError: a space is not supported, or some agents choose and others act in a Box.
    """

    def __init__(self, checked: CheckedEnv, name: str) -> None:
        self._checked, self._name = checked, name
        self.readers = [
            ObservationReader(self._agent_name(a), checked.space("observation_space", a)) for a in checked.agents
        ]
        self.writers = [ActionWriter(self._agent_name(a), checked.space("action_space", a)) for a in checked.agents]
        self.discrete = self.writers[0].discrete
        if any(writer.discrete != self.discrete for writer in self.writers):
            kinds = {a: "Discrete" if w.discrete else "Box" for a, w in zip(checked.agents, self.writers, strict=True)}
            raise EnvError(f"{name}: agents mix Box and Discrete actions ({kinds}): give every agent the same kind")
        self.obs_sizes = tuple(reader.size for reader in self.readers)
        self.action_sizes = tuple(writer.size for writer in self.writers)
        self.masked: list[int] = []
        self._obs = np.zeros((len(checked.agents), max(self.obs_sizes)))
        self._rows = [self._obs[i, :size] for i, size in enumerate(self.obs_sizes)]
        self._mask = np.arange(max(self.action_sizes)) < np.array(self.action_sizes)[:, None]

    @property
    def mask(self) -> np.ndarray:
        """(N, A) bool, a copy of the action masks last read; padding is False."""
        return self._mask.copy()

    @property
    def conversions(self) -> list[str]:
        """Agents whose observations so far were of a wider dtype than their space, a line each."""
        return [
            f"agent {agent!r} observes {reader.converted_from} where its space says {reader.dtype}: it is converted"
            for agent, reader in zip(self._checked.agents, self.readers, strict=True)
            if reader.converted_from
        ]

    def find_masks(self, infos: Any) -> None:
        """Find the agents with action masks, in their observations or in the infos of a reset.

        Raises:
            EnvError: an agent with a mask acts in a Box.
        """
        for i, (agent, reader) in enumerate(zip(self._checked.agents, self.readers, strict=True)):
            if reader.masked or "action_mask" in (infos.get(agent) or {}):
                if not self.discrete:
                    raise EnvError(f"{self._agent_name(agent)} has an action mask, but acts in a Box: drop the mask")
                self.masked.append(i)

    def require_known_masks(self, infos: Any) -> None:
        """Report infos that hold a mask of an agent that had none at reset.

        Raises:
            EnvError: there is one.
        """
        for i, agent in enumerate(self._checked.agents):
            if i not in self.masked and (infos.get(agent) or {}).get("action_mask") is not None:
                self._checked.fault(f"agent {agent!r} has an action mask, but had none at reset: return it there, too")

    def batch_size(self, observations: Mapping[Any, Any]) -> int | None:
        """Size of the leading axis that observations have beyond their spaces; None if they have none."""
        for agent, reader in zip(self._checked.agents, self.readers, strict=True):
            if agent in observations:
                return reader.batch_size(observations[agent])
        return None

    def read(self, observations: Any, infos: Any) -> np.ndarray:
        """Read every agent's observation and mask; those who have left observe zeros and are allowed everything.

        Returns:
            Observations (N, O) float32.

        Raises:
            EnvError: an agent is missing, or its observation or mask does not fit.
        """
        checked = self._checked
        for i, agent in enumerate(checked.agents):
            if not checked.alive[i]:
                self._rows[i][:], self._mask[i, : self.action_sizes[i]] = 0, True
                continue
            try:
                value = observations[agent]
            except (KeyError, TypeError, IndexError):
                checked.fault(f"agent {agent!r} has no observation: return one for every agent, also at the end")
            if complaint := self.readers[i].read(value, self._rows[i]):
                checked.fault(f"agent {agent!r} {complaint}")
        for i in (i for i in self.masked if checked.alive[i]):
            agent = checked.agents[i]
            self._read_mask(i, observations[agent] if self.readers[i].masked else infos.get(agent))
        obs, wrong = as_float32(self._obs)
        if wrong:
            i, j = wrong
            checked.fault(
                f"agent {checked.agents[i]!r} observed {self._obs[i, j]} in feature {j}: expected a finite number"
            )
        return obs

    def concatenated(self) -> np.ndarray:
        """The observations last read, one after the other without padding: float64."""
        return np.concatenate(self._rows)

    def set_mask(self, action_mask: np.ndarray, alive: np.ndarray | None = None) -> None:
        """Act under this mask (N, A), with the agents that are ``alive`` (N,), by default all."""
        self._mask[:], self._checked.alive[:] = action_mask, True if alive is None else alive

    def write(self, action: np.ndarray) -> dict[Any, Any]:
        """Convert a joint action (N, A) to an action for each agent that is there, in its own space.

        Raises:
            EnvError: the action has another shape, or is one that a mask forbids.
            DivergenceError: it holds NaN or infinite values.
        """
        checked = self._checked
        if action.shape != self._mask.shape:
            checked.fault(f"the joint action has shape {action.shape}, expected {self._mask.shape}")
        if checked.agents_leave:
            action = np.where(checked.alive[:, None], action, 0)
        action, wrong = as_float32(action)
        if wrong:
            agent = checked.agents[wrong[0]]
            raise DivergenceError(f"{self._name}: the policy's action for agent {agent!r} is NaN or infinite")
        if not self.discrete:
            action = np.minimum(np.maximum(action, _LOW), _HIGH)
        for i in self.masked:
            if not self._mask[i, action[i, : self.action_sizes[i]].argmax()]:
                choice = self.writers[i].write(action[i])
                checked.fault(f"agent {checked.agents[i]!r} was given action {choice}, which its action mask forbids")
        acting = zip(checked.agents, self.writers, action, checked.alive, strict=True)
        return {agent: writer.write(row) for agent, writer, row, alive in acting if alive}

    def read_actions(self, actions: Any, agents: Collection[Any] | None = None) -> np.ndarray:
        """Invert :meth:`write`, arguments and errors as for :meth:`dima.envs.base.JointEnv.encode_actions`."""
        joint = np.zeros(self._mask.shape, dtype=np.float32)
        for i, (agent, writer) in enumerate(zip(self._checked.agents, self.writers, strict=True)):
            if agents is not None and agent not in agents:
                continue
            if agent not in actions:
                raise EnvError(f"{self._agent_name(agent)} was given no action: give one to every agent")
            joint[i, : writer.size] = writer.inverse(actions[agent])
        return joint

    def write_observations(self, obs: np.ndarray, action_mask: np.ndarray) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Invert :meth:`read`: observations and infos of (N, O) and (N, A) arrays."""
        observations, infos = {}, {}
        for i, (agent, reader) in enumerate(zip(self._checked.agents, self.readers, strict=True)):
            mask = action_mask[i, : self.action_sizes[i]]
            observations[agent] = reader.inverse(obs[i, : reader.size], mask)
            infos[agent] = {"action_mask": mask.astype(np.int8)} if i in self.masked and not reader.masked else {}
        return observations, infos

    def _read_mask(self, i: int, source: Any) -> None:
        """Read agent i's mask; at an episode's end it may be missing or forbid every action."""
        checked, agent, size = self._checked, self._checked.agents[i], self.action_sizes[i]
        mask = None if source is None else source.get("action_mask")
        if mask is None and checked.running:
            checked.fault(f"agent {agent!r} has no action mask, but had one at first: return it at every step")
        try:
            mask = np.ones(size, dtype=bool) if mask is None else np.asarray(mask)
        except ValueError:  # rows of several lengths
            mask = np.asarray(mask, dtype=object)
        if mask.shape != (size,) or mask.dtype.kind not in "fiub":
            checked.fault(
                f"agent {agent!r} has an action mask of shape {mask.shape} and dtype {mask.dtype}: "
                f"expected {size} truth values"
            )
        self._mask[i, :size] = mask != 0
        if not self._mask[i].any():
            if checked.running:
                checked.fault(f"agent {agent!r} has an action mask that forbids every action: allow at least one")
            self._mask[i, :size] = True

    def _agent_name(self, agent: Any) -> str:
        return f"{self._name}: agent {agent!r}"


def as_float32(values: np.ndarray) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """A copy, and the index of the first entry that is not finite (as are numbers too large for float32)."""
    flat = values.ravel()
    if float(flat.dot(flat)) < 1e70:  # fast path: false for NaN, infinity and possible overflow
        return values.astype(np.float32), None
    with np.errstate(over="ignore"):
        copy = values.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(copy))
    return copy, tuple(map(int, wrong[0])) if len(wrong) else None
