"""Agents' spaces as plain data, and the task's adapter without its simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from dima.config import count, shown
from dima.envs.base import JointEnv
from dima.errors import ConfigError

_INTEGERS = (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = ("bool", *_INTEGERS, "float16", "float32", "float64")
_MAX_AGENTS = 1 << 12
MAX_ENTRIES = 1 << 24  # of a team's padded arrays; a card of little text could ask for any amount of memory
Observations = dict[Any, Any]


def describe_agents(env: JointEnv) -> list[dict[str, Any]]:
    """Names, spaces and action masks of a team's agents as JSON data.

    Raises:
        ConfigError: an agent is named by something that JSON cannot hold.
    """
    spec, parallel_env = env.spec, env.parallel_env
    _, infos = env.decode_observations(np.zeros((spec.n_agents, spec.obs_dim)), spec.action_valid)
    described = []
    for agent, info in infos.items():
        if type(agent) not in (str, int):
            raise ConfigError(
                f"{env.name}: agent {agent!r} is a {type(agent).__name__}: name agents by text or integers"
            )
        observation = parallel_env.observation_space(agent)
        mask = "info" if "action_mask" in info else None
        if isinstance(observation, spaces.Dict):
            observation, mask = observation["observation"], "observation"
        own = {
            "name": agent,
            "observation": _describe(observation),
            "action": _describe(parallel_env.action_space(agent)),
        }
        described.append(own | ({"action_mask": mask} if mask else {}))
    return described


def team_of(name: str, agents: Sequence[Mapping[str, Any]], obs_has_id: bool, agents_leave: bool = False) -> JointEnv:
    """The adapter of a task with these agents, for converting observations and actions; it cannot be stepped.

    Args:
        name: of the task, in messages.
        agents: of :func:`describe_agents`, from an untrusted file.
        obs_has_id: whether observations identify the agent.
        agents_leave: whether agents may leave before the others.

    Raises:
        Exception: of any kind, where they are not of the form that is written.
    """
    if len(agents) > _MAX_AGENTS:
        raise ValueError(f"it has {len(agents)} agents")
    observed = {own["name"]: _build(own["observation"]) for own in agents}
    acted = {own["name"]: _build(own["action"]) for own in agents}
    for all_spaces in (observed, acted):
        if len(agents) * max(map(_size, all_spaces.values())) > MAX_ENTRIES:
            raise ValueError(f"its {len(agents)} agents have spaces that are too large")
    for own in agents:
        if own.get("action_mask") == "observation":
            mask = spaces.Box(0, 1, (_size(acted[own["name"]]),), np.int8)
            observed[own["name"]] = spaces.Dict({"observation": observed[own["name"]], "action_mask": mask})
    masked = {own["name"] for own in agents if own.get("action_mask") == "info"}
    return JointEnv(_Spaces(observed, acted, masked, obs_has_id, agents_leave), name=name)


class _Spaces:
    """A PettingZoo environment's spaces without what happens in them."""

    def __init__(
        self,
        observed: dict[Any, spaces.Space[Any]],
        acted: dict[Any, spaces.Space[Any]],
        masked: set[Any],
        has_id: bool,
        agents_leave: bool,
    ) -> None:
        self.observed, self.acted, self.masked = observed, acted, masked
        self.obs_has_id, self.agents_leave = has_id, agents_leave
        self.possible_agents = self.agents = list(observed)

    def observation_space(self, agent: Any) -> spaces.Space[Any]:
        return self.observed[agent]

    def action_space(self, agent: Any) -> spaces.Space[Any]:
        return self.acted[agent]

    def reset(self, seed: int | None = None) -> tuple[Observations, dict[Any, Any]]:
        """An observation of each agent, to read the form of, with every action allowed."""
        masks = {agent: np.ones(_size(self.acted[agent]), np.int8) for agent in self.agents}
        infos = {agent: {"action_mask": masks[agent]} if agent in self.masked else {} for agent in self.agents}
        return {agent: _any_observation(self.observed[agent], masks[agent]) for agent in self.agents}, infos

    def close(self) -> None:
        """Nothing is open."""


def _any_observation(space: spaces.Space[Any], mask: np.ndarray) -> Any:
    if isinstance(space, spaces.Dict):
        return {"observation": _any_observation(space["observation"], mask), "action_mask": mask}
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)
    assert isinstance(space, spaces.Discrete)
    return int(space.start)


def _size(space: spaces.Space[Any]) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or ())


def _describe(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, spaces.Box), "the adapter takes no other"
    bounds = {"low": _bound(space.low), "high": _bound(space.high)}
    return {"kind": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def _bound(values: np.ndarray) -> Any:
    """One value where all are equal, else a list; JSON has no infinity, so that is text."""
    if values.size and (values == values.flat[0]).all():
        value = values.flat[0].item()
        return value if math.isfinite(value) else str(value)
    return [_bound(np.array([value], values.dtype)) for value in values.flat]


def _build(described: Mapping[str, Any]) -> spaces.Space[Any]:
    if described["kind"] == "discrete":
        if not 0 < count(described["n"]) <= MAX_ENTRIES:
            raise ValueError(f"a space has {shown(described['n'])} choices")
        return spaces.Discrete(described["n"], start=int(described["start"]))
    shape, dtype = tuple(map(count, described["shape"])), described["dtype"]
    if described["kind"] != "box" or dtype not in _DTYPES:
        raise ValueError(f"there is no space {shown(described['kind'])} of {shown(dtype)}")
    if math.prod(shape) > MAX_ENTRIES:
        raise ValueError(f"a space has the shape {shown(shape)}")
    return spaces.Box(_array(described["low"], shape, dtype), _array(described["high"], shape, dtype), dtype=dtype)


def _array(bound: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if isinstance(bound, list):
        return np.array([_number(value) for value in bound], dtype).reshape(shape)
    return np.full(shape, _number(bound), dtype)


def _number(value: Any) -> float | int:
    return float(value) if isinstance(value, str) else value
