"""Check every call of a PettingZoo environment against its API.

A violation raises an :class:`~dima.errors.EnvError` of one line that names the environment, the agent, the value, what
was expected, and the step and the episode's seed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from gymnasium import spaces

from dima.config import MAX_EPISODE_STEPS
from dima.errors import EnvError, UserError, one_line

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

AGENTS_LEAVE = "--env.agents-leave (the environment's attribute agents_leave, where there is no such flag)"
METRIC = re.compile(r"[A-Za-z]\w*", re.ASCII)  # name of an episode's metric
TAKEN = {"return", "std", "length"}  # by evaluations themselves
_LARGEST = float(np.finfo(np.float32).max)  # reward; learning is in float32
ENDLESS = 10_000  # steps after which an episode without an end is an error, unless the environment states more


class AgentsLeave(EnvError):
    """Agents left before the others, which the settings do not foresee."""


class CheckedEnv:
    """A ``ParallelEnv`` with a fixed set of agents, checked at every call.

    Where agents may leave before the others, they stay away until the episode ends: with the last of them, as a
    termination unless that one was truncated. A time limit leaves agents where they are.

    Attributes:
        alive: (N,) bool, who is there.
        rewards: of each agent in the last step; NaN for agents that had left and were given none.
        metric_names: infos that are read at an episode's end, the environment's ``episode_metrics``.
        metrics: their values, (M,), in the episode that ended with the last step; empty while one runs.

    Args:
        parallel_env: the environment.
        name: of the environment in messages.
        limit: truncate episodes after this many steps; None leaves that to the environment.
        longest: steps of the longest episode, as far as the environment states it.
        agents_leave: agents may leave before the others.

    Raises:
        EnvError: it has no list of agents, two agents have one name, or it cannot be closed.
    """

    def __init__(
        self,
        parallel_env: ParallelEnv[Any, Any, Any],
        name: str,
        limit: int | None = None,
        longest: int = 0,
        agents_leave: bool = False,
    ) -> None:
        self.env, self.name, self.limit, self.agents_leave = parallel_env, name, limit, agents_leave
        self.longest = min(max(ENDLESS, longest), MAX_EPISODE_STEPS)
        self.running, self.steps = False, 0
        self.rewards: list[float] = []
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
        self.alive = np.ones(len(self.agents), dtype=bool)
        self._present = set(self.agents)
        self.metric_names = self._find_metrics()
        self.metrics: tuple[float, ...] = ()
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
        self.running, self.steps, self.seed, self.metrics = True, 0, seed, ()
        self.alive, self._present = np.ones(len(self.agents), dtype=bool), set(self.agents)
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
        if not self.running:
            self.metrics = tuple(self._metric(name, infos) for name in self.metric_names)
        if self.running and self.steps >= self.longest:
            self.fault("the episode has no end: truncate it in the environment, or cut it with --env.episode-limit")
        return observations, reward, terminated, truncated, infos

    def set_state(self, *arguments: Any) -> None:
        """Continue an episode from a state; arguments are the environment's own."""
        self.running, self.steps, self.seed = True, 0, None
        self._call("set_state", self._settable("set_state"), *arguments)
        self._find_agents()
        self._check_agents()

    def snapshot(self) -> np.ndarray:
        """All that the environment's next step depends on, (D,)."""
        return np.asarray(self._call("snapshot", self._settable("snapshot")), dtype=np.float64)

    def restore(self, snapshot: np.ndarray) -> None:
        """Continue where a snapshot was taken."""
        self.running, self.steps, self.seed = True, 0, None
        self._call("restore", self._settable("restore"), snapshot)
        self._find_agents()

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
            # PettingZoo's own method only raises, and in another way where an environment has no metadata
            inherited = [getattr(getattr(type(owner), "state", None), "__module__", "") for owner in owners]
            self._has_state &= "pettingzoo.utils.env" not in inherited
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

    def fault(self, text: str, cause: Exception | None = None, kind: type[EnvError] = EnvError) -> NoReturn:
        """Raise an EnvError with the environment, the step and the seed."""
        when = "reset" if self.steps == 0 else f"step {self.steps}"
        seed = "" if self.seed is None else f" of the episode with seed {self.seed}"
        raise kind(" ".join(f"{self.name}: {when}{seed}: {text}".split())) from cause

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

    def _find_metrics(self) -> tuple[str, ...]:
        names = attribute_of(self.env, "episode_metrics", self.name, ())
        plain = isinstance(names, list | tuple) and all(
            isinstance(name, str) and METRIC.fullmatch(name) for name in names
        )
        if not plain or {*names} & TAKEN:
            raise EnvError(
                f"{self.name}: episode_metrics = {names!r}: expected a list of names of infos, of letters, digits and "
                f"underscores, other than {', '.join(sorted(TAKEN))}"
            )
        return tuple(dict.fromkeys(names))

    def _metric(self, name: str, infos: Any) -> float:
        """Mean of an info over the agents that have it."""
        values = [info[name] for info in map(infos.get, self.agents) if info and name in info]
        try:
            mean = float(np.mean([float(value) for value in values])) if values else math.nan
        except (TypeError, ValueError):
            mean = math.nan
        if not math.isfinite(mean):
            self.fault(
                f"infos have {name} = {values} at the end of the episode, but it is one of episode_metrics: "
                "give it there as a finite number or truth value, of one agent at least"
            )
        return mean

    def _mean_reward(self, rewards: Any) -> float:
        """The mean over all agents: one that has left earns nothing, unless the environment goes on rewarding it."""
        self.rewards = []
        for agent, alive in zip(self.agents, self.alive, strict=True):
            if not alive and agent not in rewards:
                self.rewards.append(math.nan)
                continue
            try:
                self.rewards.append(float(rewards[agent]))
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                self.fault(
                    f"agent {agent!r} has no usable reward ({one_line(error)}): return one number for each agent"
                )
        given = zip(self.agents, self.alive, self.rewards, strict=True)
        total = sum(reward for agent, alive, reward in given if alive or agent in rewards)
        if not abs(total) <= _LARGEST:
            wrong = dict(zip(self.agents, self.rewards, strict=True))
            self.fault(f"rewards must be finite numbers, up to {_LARGEST:.1g}, but are {wrong}")
        return total / len(self.agents)

    def _end_of_episode(self, terminations: Any, truncations: Any) -> tuple[bool, bool]:
        """Whether the episode terminated or was truncated; marks who has left."""
        ended: dict[int, bool] = {}  # number of an agent that leaves now: whether it terminated
        for number in np.flatnonzero(self.alive):
            agent = self.agents[number]
            try:
                terminated, truncated = bool(terminations[agent]), bool(truncations[agent])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                self.fault(
                    f"agent {agent!r} has no usable termination and truncation ({one_line(error)}): "
                    "return a truth value for each agent in both"
                )
            if terminated or truncated:
                ended[int(number)] = terminated
        if len(ended) == self.alive.sum():
            if self.agents_leave:
                self.alive[[number for number, terminated in ended.items() if terminated]] = False
            return all(ended.values()), not all(ended.values())
        if ended:
            left = [self.agents[number] for number in ended]
            if not self.agents_leave:
                self.fault(f"agents {left} ended while others go on: allow that with {AGENTS_LEAVE}", kind=AgentsLeave)
            self.alive[list(ended)] = False
            self._present.difference_update(left)
        self._check_agents()
        return False, False

    def _check_agents(self) -> None:
        """All agents must be present while an episode runs, but for those that have left."""
        present = self._agents()
        if len(present) == len(self._present) and self._present.issuperset(present):
            return
        expected = [agent for agent in self.agents if agent in self._present]
        if not present:
            self.fault("no agents are left although none terminated or was truncated: say which, or keep them")
        if back := [agent for agent in self.agents if agent in present and agent not in expected]:
            self.fault(
                f"agents {back} have left but are among its agents: agents that come back are not handled; "
                "keep them out until the episode ends"
            )
        self.fault(
            f"its agents are {present}, expected {expected}: agents that come and go are not handled; "
            "keep all of possible_agents until they terminate or are truncated"
        )

    def _find_agents(self) -> None:
        """Mark who is there in an episode that continues from a state."""
        if self.agents_leave:
            present = self._agents()
            self._present = {agent for agent in self.agents if agent in present}
            self.alive = np.array([agent in self._present for agent in self.agents])

    def _agents(self) -> list[Any]:
        try:
            present = list(self.env.agents)
            hash(tuple(present))
        except Exception as error:  # user code may raise anything
            self.fault(f"its agents cannot be read ({one_line(error)}): let agents be the list of those present", error)
        return present


def attribute_of(env: Any, attribute: str, name: str, default: Any = None) -> Any:
    """An environment's attribute, which may be computed.

    Raises:
        EnvError: that raises; the message names the environment ``name``.
    """
    try:
        return getattr(env, attribute, default)
    except Exception as error:  # user code may raise anything
        raise EnvError(f"{name}: {attribute} raised {one_line(error)}: the fault is in the environment") from error
