"""Check every call of a PettingZoo environment against its API.

A violation raises an :class:`~dima.errors.EnvError` of one line that names the environment, the agent, the value, what
was expected, and the step and the episode's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.config import MAX_EPISODE_STEPS
from dima.errors import EnvError, UserError, one_line

_LARGEST = float(np.finfo(np.float32).max)  # reward; learning is in float32
ENDLESS = 10_000  # steps after which an episode without an end is an error, unless the environment states more


class CheckedEnv:
    """A ``ParallelEnv`` with a fixed set of agents, checked at every call.

    Args:
        parallel_env: the environment.
        name: of the environment in messages.
        limit: truncate episodes after this many steps; None leaves that to the environment.
        longest: steps of the longest episode, as far as the environment states it.

    Raises:
        EnvError: it has no list of agents, two agents have one name, or it cannot be closed.
    """

    def __init__(
        self, parallel_env: ParallelEnv[Any, Any, Any], name: str, limit: int | None = None, longest: int = 0
    ) -> None:
        self.env, self.name, self.limit = parallel_env, name, limit
        self.longest = min(max(ENDLESS, longest), MAX_EPISODE_STEPS)
        self.running, self.steps = False, 0
        self.rewards: list[float] = []  # of each agent in the last step
        self.seed: int | None = None
        agents = attribute_of(parallel_env, "possible_agents", name, [])
        if not isinstance(agents, list | tuple):
            raise EnvError(f"{name}: possible_agents is of type {type(agents).__name__}: expected a list of names")
        self.agents = list(agents)
        if not self.agents:
            raise EnvError(f"{name}: possible_agents is empty or missing: list the names of all agents there")
        if not callable(getattr(parallel_env, "close", None)):
            raise EnvError(f"{name}: it has no method close(): add one, which may do nothing")
        if not all(isinstance(agent, Hashable) for agent in self.agents):
            raise EnvError(f"{name}: possible_agents = {self.agents} are no names: give each agent a string")
        if len(set(map(str, self.agents))) < len(self.agents):
            raise EnvError(f"{name}: possible_agents = {self.agents} holds a name twice: give each agent its own")
        self._agent_set = set(self.agents)
        self._has_state: bool | None = None  # None: not yet known
        self._picture_shape: tuple[int, ...] = ()

    def space(self, kind: str, agent: Any) -> spaces.Space[Any]:
        """An agent's ``observation_space`` or ``action_space``."""
        try:
            space = getattr(self.env, kind)(agent)
        except Exception as error:
            raise EnvError(f"{self.name}: {kind}({agent!r}) raised {one_line(error)}: return a space") from error
        if not isinstance(space, spaces.Space):
            raise EnvError(f"{self.name}: {kind}({agent!r}) is {space!r}: return a gymnasium.spaces.Space")
        return space

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
        """Start an episode: observations and infos of all agents."""
        self.running, self.steps, self.seed = True, 0, seed
        arguments: dict[str, Any] = {"seed": seed} if options is None else {"seed": seed, "options": options}
        answer = self._call("reset", self.env.reset, **arguments)
        if not isinstance(answer, tuple) or len(answer) != 2:
            self.fault("reset must return observations and infos (two dictionaries)")
        self._check_agents()
        self._check_infos(answer[1])
        return answer

    def step(self, actions: dict[Any, Any]) -> tuple[Any, float, bool, bool, Any]:
        """Step: observations, mean reward, terminated (all agents), truncated (ended otherwise), infos."""
        if not self.running:
            raise EnvError(f"{self.name}: step without a running episode: call reset first")
        self.steps += 1
        answer = self._call("step", self.env.step, actions)
        if not isinstance(answer, tuple) or len(answer) != 5:
            self.fault("step must return observations, rewards, terminations, truncations and infos (five values)")
        observations, rewards, terminations, truncations, infos = answer
        self._check_infos(infos)
        reward = self._mean_reward(rewards)
        terminated, truncated = self._end_of_episode(terminations, truncations)
        truncated = truncated or (not terminated and self.steps == self.limit)
        self.running = not (terminated or truncated)
        if self.running and self.steps >= self.longest:
            self.fault("the episode has no end: truncate it in the environment, or cut it with --env.episode-limit")
        return observations, reward, terminated, truncated, infos

    def set_state(self, *arguments: Any) -> None:
        """Continue an episode from a state; arguments are the environment's own."""
        self.running, self.steps, self.seed = True, 0, None
        self._call("set_state", self._settable("set_state"), *arguments)
        self._check_agents()

    def snapshot(self) -> np.ndarray:
        """All that the environment's next step depends on, (D,)."""
        return np.asarray(self._call("snapshot", self._settable("snapshot")), dtype=np.float64)

    def restore(self, snapshot: np.ndarray) -> None:
        """Continue where a snapshot was taken."""
        self.running, self.steps, self.seed = True, 0, None
        self._call("restore", self._settable("restore"), snapshot)

    def _settable(self, method: str) -> Callable[..., Any]:
        """An optional method.

        Raises:
            EnvError: the environment does not have it.
        """
        found: Callable[..., Any] | None = getattr(self.env, method, None)
        if found is None:
            raise EnvError(
                f"{self.name}: its state cannot be set, it has no method {method}: add one, or choose another task"
            )
        return found

    def state(self) -> np.ndarray | None:
        """The flattened ``state()``, (S,); None if the environment has no such method."""
        if self._has_state is None:  # checked after a reset: some environments have an attribute of that name
            owners = (self.env, attribute_of(self.env, "unwrapped", self.name, self.env))
            self._has_state = all(callable(getattr(owner, "state", None)) for owner in owners)
        if not self._has_state:
            return None
        try:
            state = self._call("state", lambda: np.asarray(self.env.state()))
        except EnvError as error:
            if isinstance(error.__cause__, NotImplementedError):
                self._has_state = False
                return None
            raise
        if state.dtype.kind not in "fiub":
            self.fault(f"state() has dtype {state.dtype}: return an array of numbers")
        return state.reshape(-1)

    def render(self) -> Any:
        """What the environment renders; under ``rgb_array`` a picture of the size of those before."""
        picture = self._call("render", self.env.render)
        if attribute_of(self.env, "render_mode", self.name) != "rgb_array":
            return picture
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            kind = f"{picture.shape} {picture.dtype}" if isinstance(picture, np.ndarray) else type(picture).__name__
            self.fault(f"render() with render_mode = 'rgb_array' gave {kind}: expected (height, width, 3) uint8")
        before, self._picture_shape = self._picture_shape or picture.shape, picture.shape
        if picture.shape != before:
            self.fault(f"render() gave a picture of shape {picture.shape} after {before}: keep its size")
        return picture

    def close(self) -> None:
        """Close the environment."""
        self._call("close", self.env.close)

    def fault(self, text: str, cause: Exception | None = None) -> NoReturn:
        """Raise an EnvError with the environment, the step and the seed."""
        when = "reset" if self.steps == 0 else f"step {self.steps}"
        seed = "" if self.seed is None else f" of the episode with seed {self.seed}"
        raise EnvError(" ".join(f"{self.name}: {when}{seed}: {text}".split())) from cause

    def _call(self, method: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # user code may raise anything
            self.fault(f"{method}() raised {one_line(error)}: the fault is in the environment", error)

    def _check_infos(self, infos: Any) -> None:
        """Infos must be dictionaries."""
        for agent in (None, *self.agents):
            info = infos if agent is None else infos.get(agent)
            if not (isinstance(info, dict | Mapping) or (info is None and agent is not None)):
                whose = "infos" if agent is None else f"the info of agent {agent!r}"
                expected = "a dictionary for each agent" if agent is None else "a dictionary"
                self.fault(f"{whose} is of type {type(info).__name__}: expected {expected}, which may be empty")

    def _mean_reward(self, rewards: Any) -> float:
        self.rewards = []
        for agent in self.agents:
            try:
                self.rewards.append(float(rewards[agent]))
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                self.fault(
                    f"agent {agent!r} has no usable reward ({one_line(error)}): return one number for each agent"
                )
        total = sum(self.rewards)
        if not abs(total) <= _LARGEST:
            wrong = dict(zip(self.agents, self.rewards, strict=True))
            self.fault(f"rewards must be finite numbers, up to {_LARGEST:.1g}, but are {wrong}")
        return total / len(self.agents)

    def _end_of_episode(self, terminations: Any, truncations: Any) -> tuple[bool, bool]:
        n_terminated, n_ended = 0, 0
        for agent in self.agents:
            try:
                terminated, truncated = bool(terminations[agent]), bool(truncations[agent])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                self.fault(
                    f"agent {agent!r} has no usable termination and truncation ({one_line(error)}): "
                    "return a truth value for each agent in both"
                )
            n_terminated += terminated
            n_ended += terminated or truncated
        if n_ended == len(self.agents):
            return n_terminated == n_ended, n_terminated < n_ended
        if n_ended:
            left = [agent for agent in self.agents if terminations[agent] or truncations[agent]]
            self.fault(
                f"agents {left} ended while others go on: agents that leave one by one are not handled; "
                "end the episode for all agents in the same step"
            )
        self._check_agents()
        return False, False

    def _check_agents(self) -> None:
        """All agents must be present while an episode runs."""
        try:
            present = list(self.env.agents)
            hash(tuple(present))
        except Exception as error:  # user code may raise anything
            self.fault(f"its agents cannot be read ({one_line(error)}): let agents be the list of those present", error)
        if len(present) == len(self.agents) and self._agent_set.issuperset(present):
            return
        if not present:
            self.fault("no agents are left although none terminated or was truncated: say which, or keep them")
        self.fault(
            f"its agents are {present}, expected {self.agents}: agents that come and go are not handled; "
            "keep all of possible_agents until the episode ends"
        )


def attribute_of(env: Any, attribute: str, name: str, default: Any = None) -> Any:
    """An environment's attribute, which may be computed.

    Raises:
        EnvError: that raises; the message names the environment ``name``.
    """
    try:
        return getattr(env, attribute, default)
    except Exception as error:  # user code may raise anything
        raise EnvError(f"{name}: {attribute} raised {one_line(error)}: the fault is in the environment") from error
