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
from dima.envs.codec import TeamCodec, as_float32
from dima.errors import EnvError

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

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
        self._codec = codec = TeamCodec(checked, name)
        observations, infos = checked.reset(0, None)
        codec.find_masks(infos)
        state = checked.state()
        self._has_state = state is not None
        size = sum(codec.obs_sizes) if state is None else state.size
        if size == 0:
            raise EnvError(f"{name}: state() is empty: return at least one feature, or leave the method out")
        self.spec = EnvSpec(
            agents=tuple(map(str, checked.agents)),
            state_dim=size + len(checked.agents) * leave,
            obs_sizes=codec.obs_sizes,
            action_sizes=codec.action_sizes,
            discrete=codec.discrete,
            masks_actions=bool(codec.masked),
            obs_has_id=bool(getattr(parallel_env, "obs_has_id", False)),
            episode_limit=min(filter(None, (stated, config.episode_limit)), default=None),
            agents_leave=leave,
            episode_metrics=checked.metric_names,
            make=make,
        )
        self._state_size = self.spec.own_state_dim
        self._make_spaces()
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
        observations, reward, terminated, truncated, infos = self._checked.step(self._codec.write(np.asarray(action)))
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
        return self._codec.conversions

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
            led = spec.own_state(previous[0]), self._codec.write(previous[1])
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
        obs = self._codec.read(observations, infos or {})
        return {"obs": obs, "action_mask": self._codec.mask}

    @property
    def alive(self) -> np.ndarray:
        """(N,) bool: who is there, by the last observation."""
        return self._checked.alive.copy()

    def batch_size(self, observations: Mapping[Any, Any]) -> int | None:
        """Size of the leading axis that observations have beyond their spaces; None if they have none."""
        return self._codec.batch_size(observations)

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
            self._codec.set_mask(action_mask, alive)
        return self._codec.write(action)

    def encode_actions(self, actions: Any, agents: Collection[Any] | None = None) -> np.ndarray:
        """Convert PettingZoo actions to a joint action (N, A): the inverse of :meth:`decode`.

        Args:
            actions: by agent.
            agents: that act, the rest being zero; by default all.

        Raises:
            EnvError: an agent is missing, or its action does not fit its space.
        """
        return self._codec.read_actions(actions, agents)

    def decode_observations(self, obs: np.ndarray, action_mask: np.ndarray) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Convert arrays to PettingZoo observations and infos: the inverse of :meth:`encode`.

        Args:
            obs: (N, O); features outside an agent's space are clipped to it.
            action_mask: (N, A) bool.
        """
        return self._codec.write_observations(obs, action_mask)

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

    def _make_spaces(self) -> None:
        spec = self.spec
        shape = (spec.n_agents, spec.action_dim)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # Gymnasium calls its content Any
            {
                "obs": spaces.Box(-np.inf, np.inf, (spec.n_agents, spec.obs_dim), np.float32),
                "state": spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32),
                "action_mask": spaces.Box(0, 1, shape, np.bool_),
            }
        )
        self.action_space = spaces.Box(0 if spec.discrete else -1, 1, shape, np.float32)

    def _read(self, observations: Any, infos: Any) -> Joint:
        """Observations as new arrays."""
        self._codec.require_known_masks(infos)
        obs = self._codec.read(observations, infos)
        return {"obs": obs, "state": self._read_state(), "action_mask": self._codec.mask}

    def _read_state(self) -> np.ndarray:
        values = self._checked.state() if self._has_state else self._codec.concatenated()
        if values is None or values.size != self._state_size:
            size = 0 if values is None else values.size
            self._checked.fault(f"state() has {size} features, but had {self._state_size} at first: keep its size")
        state, wrong = as_float32(values)
        if wrong:
            self._checked.fault(f"state() holds {values[wrong]} in feature {wrong[0]}: expected a finite number")
        return np.append(state, np.float32(self._checked.alive)) if self._checked.agents_leave else state


def _episode_limit(parallel_env: Any, name: str) -> int | None:
    """Time limit that an environment states: its ``episode_limit``, or ``max_cycles`` as in many PettingZoo tasks."""
    for owner in (parallel_env, attribute_of(parallel_env, "unwrapped", name)):
        for field in ("episode_limit", "max_cycles"):
            limit = attribute_of(owner, field, name)
            if isinstance(limit, int | np.integer) and limit > 0:
                return int(limit)
    return None
