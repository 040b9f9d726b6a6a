"""Adapt a PettingZoo environment to padded arrays of a team."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from dima.config import Config, EpisodeSteps
from dima.data import EnvSpec
from dima.envs.checked import CheckedEnv, attribute_of
from dima.envs.spaces import ActionWriter, ObservationReader
from dima.errors import DivergenceError, EnvError

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

_LOW, _HIGH = np.array(-1, np.float32), np.array(1, np.float32)
Joint = dict[str, np.ndarray]  # obs (N, O) float32, state (S,) float32, action_mask (N, A) bool


@dataclass(frozen=True)
class TaskInfo:
    """A task in the list of tasks."""

    name: str  # such as mamujoco/halfcheetah-2x3
    n_agents: int | None  # None if it depends on the settings
    note: str


@dataclass(frozen=True)
class AdapterConfig(Config):
    """Settings of the adapter; settings of tasks may derive from it."""

    episode_limit: EpisodeSteps | None = None  # truncate episodes after this many steps; None: only where the task does
    team_reward: Literal["shared", "mean"] = "shared"  # shared: refuse rewards that oppose each other; mean: learn it
    agents_leave: bool = False  # agents may leave (die) before the others; on where random play shows it


class JointEnv(gymnasium.Env[Joint, np.ndarray]):
    """A PettingZoo ``ParallelEnv`` as one Gymnasium environment of joint observations and actions.

    An observation is a dictionary: ``obs`` (N, O) float32, ``state`` (S,) float32, ``action_mask`` (N, A) bool, True
    where an action is allowed (all real entries when continuous). An action is (N, A) floating point: continuous ones
    are clipped to [-1, 1] and mapped affinely onto the agent's Box, discrete ones are one-hot. Agents of different
    sizes are padded with zeros, which never reach the environment. The reward is the mean over agents. ``terminated``
    means that every agent terminated; an episode that ends otherwise (some agent was only truncated) is ``truncated``.
    Without ``state()`` the state is the concatenated observations, padding left out.

    Where agents may leave before the others (``agents_leave``, of the settings or of the environment), the state ends
    with N flags of who is there. One that has left observes zeros, is allowed everything, and its action is dropped.

    Args:
        parallel_env: the environment; it is reset once here, with seed 0, to find its state and its masks.
        name: of the environment in messages, usually the task's.
        config: settings of the adapter.
        make: builds another environment like this one.

    Raises:
        EnvError: its agents or spaces are not supported.
    """

    spec: EnvSpec  # type: ignore[assignment]  # sizes for networks, not Gymnasium's registration record

    def __init__(
        self,
        parallel_env: ParallelEnv[Any, Any, Any],
        *,
        name: str,
        config: AdapterConfig | None = None,
        make: Callable[[], JointEnv] | None = None,
    ) -> None:
        config = config or AdapterConfig()
        self.parallel_env, self.name = parallel_env, name
        metadata = attribute_of(parallel_env, "metadata", name, {})
        if not isinstance(metadata, Mapping):
            raise EnvError(f"{name}: metadata is of type {type(metadata).__name__}: expected a dictionary")
        self.metadata = dict(metadata)
        self.render_mode = attribute_of(parallel_env, "render_mode", name)
        stated = _episode_limit(parallel_env, name)
        leave = config.agents_leave or bool(attribute_of(parallel_env, "agents_leave", name))
        self.forkable = bool(attribute_of(parallel_env, "forkable", name, True))  # works in a forked process
        self._checked = checked = CheckedEnv(parallel_env, name, config.episode_limit, stated or 0, leave)
        self._readers = [
            ObservationReader(_agent_name(name, a), checked.space("observation_space", a)) for a in checked.agents
        ]
        self._writers = [ActionWriter(_agent_name(name, a), checked.space("action_space", a)) for a in checked.agents]
        self._discrete = self._writers[0].discrete
        if any(writer.discrete != self._discrete for writer in self._writers):
            kinds = {a: "Discrete" if w.discrete else "Box" for a, w in zip(checked.agents, self._writers, strict=True)}
            raise EnvError(f"{name}: agents mix Box and Discrete actions ({kinds}): give every agent the same kind")
        observations, infos = checked.reset(0, None)
        state = checked.state()
        self._has_state = state is not None
        size = sum(reader.size for reader in self._readers) if state is None else state.size
        if size == 0:
            raise EnvError(f"{name}: state() is empty: return at least one feature, or leave the method out")
        self.spec = EnvSpec(
            agents=tuple(map(str, checked.agents)),
            state_dim=size + len(checked.agents) * leave,
            obs_sizes=tuple(reader.size for reader in self._readers),
            action_sizes=tuple(writer.size for writer in self._writers),
            discrete=self._discrete,
            masks_actions=self._find_masks(infos),
            obs_has_id=bool(getattr(parallel_env, "obs_has_id", False)),
            episode_limit=min(filter(None, (stated, config.episode_limit)), default=None),
            agents_leave=leave,
            episode_metrics=checked.metric_names,
            make=make,
        )
        self._make_arrays()
        self._read(observations, infos)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Joint, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: makes the episode reproducible; None continues the environment's own random stream.
            options: passed to the environment.

        Returns:
            The observation, and the agents' infos from the environment.
        """
        super().reset(seed=seed)
        observations, infos = self._checked.reset(seed, options)
        return self._read(observations, infos), infos

    def step(self, action: np.ndarray) -> tuple[Joint, float, bool, bool, dict[str, Any]]:
        """Step with a joint action (N, A).

        Raises:
            EnvError: the environment violated the PettingZoo API, or the action has a wrong shape or is masked.
            DivergenceError: the action holds NaN or infinite values.
        """
        observations, reward, terminated, truncated, infos = self._checked.step(self._actions(np.asarray(action)))
        return self._read(observations, infos), reward, terminated, truncated, infos

    @property
    def agent_rewards(self) -> list[float]:
        """Each agent's reward in the last step; NaN for one that had left."""
        return self._checked.rewards

    @property
    def metrics(self) -> tuple[float, ...]:
        """Values of the spec's ``episode_metrics`` in the episode that the last step ended; else empty."""
        return self._checked.metrics

    @property
    def conversions(self) -> list[str]:
        """Agents whose observations so far were of a wider dtype than their space, a line each."""
        return [
            f"agent {agent!r} observes {reader.converted_from} where its space says {reader.dtype}: it is converted"
            for agent, reader in zip(self._checked.agents, self._readers, strict=True)
            if reader.converted_from
        ]

    def set_state(self, state: np.ndarray, previous: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Continue from a state (S,) with a new time limit, where the environment has a method ``set_state``.

        Args:
            state: as observed.
            previous: the state (S,) and the joint action (N, A) that led there; None at an episode's start.

        Raises:
            EnvError: the environment cannot do that.
        """
        checked, spec = self._checked, self.spec
        led: tuple[np.ndarray, dict[Any, Any]] | None = None
        if previous:
            checked.alive = np.ones_like(checked.alive) if (then := spec.alive(previous[0])) is None else then
            led = spec.own_state(previous[0]), self._actions(previous[1])
        checked.set_state(spec.own_state(state), led)
        alive = spec.alive(state)
        if alive is not None and (alive != checked.alive).any():
            checked.fault("set_state() cannot tell from the state who has left: say it there")

    def snapshot(self) -> np.ndarray:
        """(D,) float64: all that the next step depends on, for :meth:`restore`; errors as for :meth:`set_state`."""
        return self._checked.snapshot()

    def restore(self, snapshot: np.ndarray) -> None:
        """Continue where a :meth:`snapshot` was taken, with a new time limit; errors as for :meth:`set_state`."""
        self._checked.restore(snapshot)

    def encode(self, observations: Any, infos: Any = None) -> Joint:
        """Convert PettingZoo observations to ``obs`` (N, O) and ``action_mask`` (N, A).

        For acting outside a running episode of this environment. Where agents may leave, those missing have left.

        Raises:
            EnvError: an agent is missing, or its observation does not fit its space.
        """
        self._checked.running = True
        if self._checked.agents_leave:
            self._checked.alive = np.array([agent in observations for agent in self._checked.agents])
        joint = self._read_agents(observations, infos or {})
        return {"obs": joint, "action_mask": self._mask.copy()}

    @property
    def alive(self) -> np.ndarray:
        """(N,) bool: who is there, by the last observation."""
        return self._checked.alive.copy()

    def batch_size(self, observations: Mapping[Any, Any]) -> int | None:
        """Size of the leading axis that observations have beyond their spaces; None if they have none."""
        for agent, reader in zip(self._checked.agents, self._readers, strict=True):
            if agent in observations:
                return reader.batch_size(observations[agent])
        return None

    def decode(
        self, action: np.ndarray, action_mask: np.ndarray | None = None, alive: np.ndarray | None = None
    ) -> dict[Any, Any]:
        """Convert a joint action (N, A) to PettingZoo actions, one entry per agent that is there.

        Args:
            action: may be overwritten.
            action_mask: (N, A) bool; by default the last one observed, of those who were there then.
            alive: (N,) bool, who is there, beside a mask; by default all.
        """
        if action_mask is not None:
            self._mask[:], self._checked.alive[:] = action_mask, True if alive is None else alive
        return self._actions(action)

    def encode_actions(self, actions: Any, agents: Collection[Any] | None = None) -> np.ndarray:
        """Convert PettingZoo actions to a joint action (N, A): the inverse of :meth:`decode`.

        Args:
            actions: by agent.
            agents: that act, the rest being zero; by default all.

        Raises:
            EnvError: an agent is missing, or its action does not fit its space.
        """
        joint = np.zeros(self._mask.shape, dtype=np.float32)
        for i, (agent, writer) in enumerate(zip(self._checked.agents, self._writers, strict=True)):
            if agents is not None and agent not in agents:
                continue
            if agent not in actions:
                raise EnvError(f"{_agent_name(self.name, agent)} was given no action: give one to every agent")
            joint[i, : writer.size] = writer.inverse(actions[agent])
        return joint

    def decode_observations(self, obs: np.ndarray, action_mask: np.ndarray) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Convert arrays to PettingZoo observations and infos: the inverse of :meth:`encode`.

        Args:
            obs: (N, O); features outside an agent's space are clipped to it.
            action_mask: (N, A) bool.
        """
        observations, infos = {}, {}
        for i, agent in enumerate(self._checked.agents):
            reader, mask = self._readers[i], action_mask[i, : self._writers[i].size]
            observations[agent] = reader.inverse(obs[i, : reader.size], mask)
            infos[agent] = {"action_mask": mask.astype(np.int8)} if i in self._masked and not reader.masked else {}
        return observations, infos

    def render(self) -> Any:
        """Render the environment."""
        return self._checked.render()

    def close(self) -> None:
        """Close the environment."""
        self._checked.close()

    def state_names(self) -> list[str]:
        """Names of the S state features, from the environment if it has any, else numbered."""
        spec = self.spec
        if hasattr(self.parallel_env, "state_names"):
            names = list(self.parallel_env.state_names())
        elif self._has_state:
            names = [f"state:{i}" for i in range(self._state_size)]
        else:
            names = spec.obs_names
        return names + [f"alive:{agent}" for agent in spec.agents if spec.agents_leave]

    def state_kinds(self) -> list[str]:
        """Kinds of quantity of the S state features, from the environment if it has any.

        Otherwise the part of the name before the colon: ``state``, or the agent that observes it.
        """
        if hasattr(self.parallel_env, "state_kinds"):
            return list(self.parallel_env.state_kinds()) + ["alive"] * self.spec.agents_leave * self.spec.n_agents
        return [name.partition(":")[0] for name in self.state_names()]

    def _find_masks(self, infos: Any) -> bool:
        self._masked = []  # numbers of the agents with masks
        for i, (agent, reader) in enumerate(zip(self._checked.agents, self._readers, strict=True)):
            if reader.masked or "action_mask" in (infos.get(agent) or {}):
                if not self._discrete:
                    raise EnvError(
                        f"{_agent_name(self.name, agent)} has an action mask, but acts in a Box: drop the mask"
                    )
                self._masked.append(i)
        return bool(self._masked)

    def _make_arrays(self) -> None:
        spec = self.spec
        self._obs = np.zeros((spec.n_agents, spec.obs_dim))
        self._rows = [self._obs[i, :size] for i, size in enumerate(spec.obs_sizes)]
        self._mask, self._state_size = spec.action_valid.copy(), spec.own_state_dim
        shape = (spec.n_agents, spec.action_dim)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # Gymnasium calls its content Any
            {
                "obs": spaces.Box(-np.inf, np.inf, self._obs.shape, np.float32),
                "state": spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32),
                "action_mask": spaces.Box(0, 1, shape, np.bool_),
            }
        )
        self.action_space = spaces.Box(0 if spec.discrete else -1, 1, shape, np.float32)

    def _actions(self, action: np.ndarray) -> dict[Any, Any]:
        """Each agent's action in its own space."""
        checked = self._checked
        if action.shape != self._mask.shape:
            checked.fault(f"the joint action has shape {action.shape}, expected {self._mask.shape}")
        if checked.agents_leave:
            action = np.where(checked.alive[:, None], action, 0)
        action, wrong = _as_float32(action)
        if wrong:
            agent = checked.agents[wrong[0]]
            raise DivergenceError(f"{self.name}: the policy's action for agent {agent!r} is NaN or infinite")
        if not self._discrete:
            action = np.minimum(np.maximum(action, _LOW), _HIGH)
        for i in self._masked:
            if not self._mask[i, action[i, : self._writers[i].size].argmax()]:
                choice = self._writers[i].write(action[i])
                checked.fault(f"agent {checked.agents[i]!r} was given action {choice}, which its action mask forbids")
        acting = zip(checked.agents, self._writers, action, checked.alive, strict=True)
        return {agent: writer.write(row) for agent, writer, row, alive in acting if alive}

    def _read(self, observations: Any, infos: Any) -> Joint:
        """Observations as new arrays."""
        for i, agent in enumerate(self._checked.agents):
            if i not in self._masked and (infos.get(agent) or {}).get("action_mask") is not None:
                self._checked.fault(f"agent {agent!r} has an action mask, but had none at reset: return it there, too")
        obs = self._read_agents(observations, infos)
        return {"obs": obs, "state": self._read_state(), "action_mask": self._mask.copy()}

    def _read_agents(self, observations: Any, infos: Any) -> np.ndarray:
        """Read every agent's observation into (N, O), and its mask into ``self._mask``."""
        checked = self._checked
        for i, agent in enumerate(checked.agents):
            if not checked.alive[i]:
                self._rows[i][:], self._mask[i, : self._writers[i].size] = 0, True
                continue
            try:
                value = observations[agent]
            except (KeyError, TypeError, IndexError):
                checked.fault(f"agent {agent!r} has no observation: return one for every agent, also at the end")
            if complaint := self._readers[i].read(value, self._rows[i]):
                checked.fault(f"agent {agent!r} {complaint}")
        for i in (i for i in self._masked if checked.alive[i]):
            agent = checked.agents[i]
            self._read_mask(i, observations[agent] if self._readers[i].masked else infos.get(agent))
        obs, wrong = _as_float32(self._obs)
        if wrong:
            i, j = wrong
            checked.fault(
                f"agent {checked.agents[i]!r} observed {self._obs[i, j]} in feature {j}: expected a finite number"
            )
        return obs

    def _read_state(self) -> np.ndarray:
        values = self._checked.state() if self._has_state else np.concatenate(self._rows)
        if values is None or values.size != self._state_size:
            size = 0 if values is None else values.size
            self._checked.fault(f"state() has {size} features, but had {self._state_size} at first: keep its size")
        state, wrong = _as_float32(values)
        if wrong:
            self._checked.fault(f"state() holds {values[wrong]} in feature {wrong[0]}: expected a finite number")
        return np.append(state, np.float32(self._checked.alive)) if self._checked.agents_leave else state

    def _read_mask(self, i: int, source: Any) -> None:
        """Read agent i's mask; at an episode's end it may be missing or forbid every action."""
        checked, agent, size = self._checked, self._checked.agents[i], self._writers[i].size
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


def _as_float32(values: np.ndarray) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """A copy, and the index of the first entry that is not finite (as are numbers too large for float32)."""
    flat = values.ravel()
    if float(flat.dot(flat)) < 1e70:  # fast path: false for NaN, infinity and possible overflow
        return values.astype(np.float32), None
    with np.errstate(over="ignore"):
        copy = values.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(copy))
    return copy, tuple(map(int, wrong[0])) if len(wrong) else None


def _agent_name(name: str, agent: Any) -> str:
    return f"{name}: agent {agent!r}"


def _episode_limit(parallel_env: Any, name: str) -> int | None:
    """Time limit that an environment states: its ``episode_limit``, or ``max_cycles`` as in many PettingZoo tasks."""
    for owner in (parallel_env, attribute_of(parallel_env, "unwrapped", name)):
        for field in ("episode_limit", "max_cycles"):
            limit = attribute_of(owner, field, name)
            if isinstance(limit, int | np.integer) and limit > 0:
                return int(limit)
    return None
