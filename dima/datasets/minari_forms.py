"""Convert episodes to and from Minari's columns, in two forms (see ``dima.datasets.minari``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces

from dima.data import Episode, blank
from dima.envs.base import JointEnv
from dima.errors import DatasetError

Columns = dict[str, Any]  # observations, actions, rewards, terminations, truncations, infos: as Minari keeps them


class Form(ABC):
    """Converter between episodes of a task and Minari's columns.

    Attributes:
        name: of the form.
        observation_space, action_space: of the Minari dataset.
        simulator: Gymnasium's spec of the equivalent single-agent task, if there is one.
    """

    name: ClassVar[str]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    simulator: Any = None

    def __init__(self, env: JointEnv) -> None:
        self.env, self.team = env, env.parallel_env.possible_agents

    def to_minari(self, episode: Episode) -> Columns:
        """The columns of an episode."""
        observations, infos = self._observations(episode)
        pairs = zip(episode.action.numpy(), episode.action_mask.numpy()[:-1], strict=True)
        return {
            "observations": observations,
            "actions": self._actions([self.env.decode(action.copy(), mask) for action, mask in pairs]),
            "rewards": episode.reward.double().numpy(),
            "terminations": episode.terminated.numpy(),
            "truncations": episode.truncated.numpy(),
            "infos": infos,
        }

    def from_minari(self, columns: Columns) -> Episode:
        """The episode in columns written by :meth:`to_minari` or by another library.

        Raises:
            DatasetError: a column that the task needs is missing or of another shape, or the episode ends inside.
            EnvError: a value is not in the task's spaces.
        """
        columns = columns | {name: _per_step(columns, name) for name in ("rewards", "terminations", "truncations")}
        steps = len(columns["rewards"])
        rows = [self._view_at(columns, t) for t in range(steps + 1)]
        views = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        action = torch.from_numpy(
            np.stack([self.env.encode_actions(self._action_at(columns["actions"], t)) for t in range(steps)])
        )
        alive = self.env.spec.alive(views["state"])
        views["obs"] = blank(views["obs"], alive)
        ends = torch.zeros(steps, dtype=torch.bool)
        ends[-1] = True
        inside = np.flatnonzero((columns["terminations"] | columns["truncations"])[:-1])
        if inside.size:
            raise DatasetError(f"it ends at step {inside[0] + 1} of {steps}: each episode must end with its last step")
        terminated = bool(columns["terminations"][-1])
        return Episode(
            **views,
            action=action if alive is None else blank(action, alive[:-1]),
            reward=torch.from_numpy(columns["rewards"].astype(np.float32)),
            terminated=ends & terminated,
            truncated=ends & (not terminated),
        )

    @abstractmethod
    def matches(self, observation: spaces.Space[Any]) -> bool:
        """Whether a dataset with this observation space has this form."""

    @abstractmethod
    def _observations(self, episode: Episode) -> tuple[Any, Columns]: ...

    @abstractmethod
    def _actions(self, actions: list[dict[Any, Any]]) -> Any: ...

    @abstractmethod
    def _view_at(self, columns: Columns, t: int) -> dict[str, np.ndarray]:
        """``obs``, ``state`` and ``action_mask`` at time step t."""

    @abstractmethod
    def _action_at(self, actions: Any, t: int) -> dict[Any, Any]: ...


class Agents(Form):
    """Dictionaries over agents, with state and action masks in the infos."""

    name = "agents"

    def __init__(self, env: JointEnv) -> None:
        super().__init__(env)
        parallel = env.parallel_env
        self.observation_space = spaces.Dict({str(a): parallel.observation_space(a) for a in self.team})
        self.action_space = spaces.Dict({str(a): parallel.action_space(a) for a in self.team})

    def matches(self, observation: spaces.Space[Any]) -> bool:
        return isinstance(observation, spaces.Dict) and observation == self.observation_space

    def _observations(self, episode: Episode) -> tuple[Any, Columns]:
        pairs = zip(episode.obs.numpy(), episode.action_mask.numpy(), strict=True)
        observations = [self.env.decode_observations(obs, mask)[0] for obs, mask in pairs]
        infos = {"state": episode.state.numpy(), "action_mask": episode.action_mask.numpy()}
        return {str(a): _stack([one[a] for one in observations]) for a in self.team}, infos

    def _actions(self, actions: list[dict[Any, Any]]) -> Any:
        return {str(a): np.stack([action[a] for action in actions]) for a in self.team}

    def _view_at(self, columns: Columns, t: int) -> dict[str, np.ndarray]:
        if not {"state", "action_mask"} <= set(columns["infos"] or ()):
            raise DatasetError("its infos hold no state and action masks: only what dima exported can be imported")
        mask = np.asarray(columns["infos"]["action_mask"][t], dtype=bool)
        sizes = self.env.spec.action_sizes
        infos = {a: {"action_mask": mask[i, : sizes[i]]} for i, a in enumerate(self.team)}
        seen = self.env.encode({a: _pick(columns["observations"][str(a)], t) for a in self.team}, infos)
        return {**seen, "action_mask": mask, "state": np.asarray(columns["infos"]["state"][t], dtype=np.float32)}

    def _action_at(self, actions: Any, t: int) -> dict[Any, Any]:
        return {a: actions[str(a)][t] for a in self.team}


class Joint(Form):
    """State and joint action as vectors; for MuJoCo robots those of Gymnasium's task."""

    name = "joint"

    def __init__(self, env: JointEnv) -> None:
        super().__init__(env)
        if env.spec.discrete:
            raise DatasetError(f"{env.name} has discrete actions: use the form agents")
        parallel = env.parallel_env
        boxes = [parallel.action_space(agent) for agent in self.team]
        ends = np.cumsum(env.spec.action_sizes)
        consecutive = {
            a: np.arange(end - n, end) for a, end, n in zip(self.team, ends, env.spec.action_sizes, strict=True)
        }
        self._entries: dict[Any, np.ndarray] = getattr(parallel, "actuators", consecutive)
        self._order = np.argsort(np.concatenate([self._entries[agent] for agent in self.team]))
        low, high = (self._vector([getattr(box, bound) for box in boxes]) for bound in ("low", "high"))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        unbounded = spaces.Box(-np.inf, np.inf, (env.spec.state_dim,), np.float32)
        with_flags = env.spec.agents_leave  # of who is there, which the environment's own space does not have
        self.observation_space = unbounded if with_flags else getattr(parallel, "state_space", unbounded)
        self.simulator = getattr(parallel, "single_agent_task", None)

    def matches(self, observation: spaces.Space[Any]) -> bool:
        return isinstance(observation, spaces.Box) and observation.shape == self.observation_space.shape

    def _vector(self, parts: list[np.ndarray]) -> np.ndarray:
        """Concatenate the agents' values in the order of the joint action."""
        joined: np.ndarray = np.concatenate([np.reshape(part, -1) for part in parts])[self._order]
        return joined

    def _observations(self, episode: Episode) -> tuple[Any, Columns]:
        return episode.state.numpy().astype(self.observation_space.dtype), {}

    def _actions(self, actions: list[dict[Any, Any]]) -> Any:
        return np.stack([self._vector([action[agent] for agent in self.team]) for action in actions])

    def _view_at(self, columns: Columns, t: int) -> dict[str, np.ndarray]:
        parallel = self.env.parallel_env
        if not hasattr(parallel, "observations_of"):
            raise DatasetError(f"the observations of {self.env.name} cannot be computed from the state alone")
        seen = self.env.encode(parallel.observations_of(columns["observations"][t]))
        return {**seen, "state": np.asarray(parallel.state(), dtype=np.float32)}

    def _action_at(self, actions: Any, t: int) -> dict[Any, Any]:
        parallel = self.env.parallel_env
        return {a: actions[t][self._entries[a]].reshape(parallel.action_space(a).shape) for a in self.team}


def _per_step(columns: Columns, name: str) -> np.ndarray:
    """A column with one value for each step, (T,), which may be stored as (T, 1)."""
    values = np.asarray(columns[name])
    if values.ndim == 0 or values.size != len(values) or values.size != len(columns["rewards"]) or not values.size:
        raise DatasetError(f"its {name} have shape {values.shape}: expected one for each step")
    flat = values.reshape(-1)
    return flat if name == "rewards" else flat.astype(bool)


def _stack(values: list[Any]) -> Any:
    """Stack one agent's observations, each an array or a dictionary of arrays."""
    if isinstance(values[0], dict):
        return {name: np.stack([value[name] for value in values]) for name in values[0]}
    return np.stack(values)


def _pick(column: Any, t: int) -> Any:
    """Time step t of :func:`_stack`."""
    return {name: values[t] for name, values in column.items()} if isinstance(column, dict) else column[t]
