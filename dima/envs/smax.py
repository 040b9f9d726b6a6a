"""StarCraft-like battles of SMAX (package jaxmarl): allies learn, the enemy follows SMAX's heuristic.

An ally that dies stays in the team, as in SMAC: it observes zeros, may only stop, and shares the team's reward. A
battle terminates when a side is dead; ``max_steps`` is a time limit. ``success`` in an agent's info says whether the
battle is won: every enemy dead, and an ally alive. The reward of a step is the share of the enemy's health that was
lost, plus 1 for winning, so a return is between 0 and 2.

SMAX runs on JAX, on the CPU: one compiled function per map and settings, shared by all environments of a process.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.config import Config, EpisodeSteps
from dima.envs.base import TaskInfo
from dima.errors import ConfigError, EnvError, nearest

MAPS = {  # as in jaxmarl: allies, enemies, who fights
    "10m_vs_11m": (10, 11, "marines, one too few"),
    "25m": (25, 25, "marines"),
    "27m_vs_30m": (27, 30, "marines, three too few"),
    "2s3z": (5, 5, "stalkers and zealots"),
    "3m": (3, 3, "marines"),
    "3s5z": (8, 8, "stalkers and zealots"),
    "3s5z_vs_3s6z": (8, 9, "stalkers and zealots, a zealot too few"),
    "3s_vs_5z": (3, 5, "stalkers against zealots"),
    "5m_vs_6m": (5, 6, "marines, one too few"),
    "6h_vs_8z": (6, 8, "hydralisks against zealots"),
    "8m": (8, 8, "marines"),
    "smacv2_10_units": (10, 10, "units and positions drawn anew in every episode"),
    "smacv2_20_units": (20, 20, "units and positions drawn anew in every episode"),
    "smacv2_5_units": (5, 5, "units and positions drawn anew in every episode"),
}
INSTALL = "pip install 'dima-marl[smax]'"
Infos = dict[str, dict[str, Any]]
Observations = dict[str, np.ndarray]


@dataclass(frozen=True)
class SmaxConfig(Config):
    """Rules of the battle; the defaults are SMAX's own."""

    max_steps: EpisodeSteps = 100  # steps until truncation
    attack_mode: Literal["closest", "random"] = "closest"  # whom the enemy shoots at, of those in its range
    see_enemy_actions: bool = True  # allies observe what visible enemies did last
    walls_cause_death: bool = True  # units that touch the edge of the map die


CONFIG = SmaxConfig


def make(task: str, config: SmaxConfig, render_mode: str | None = None) -> SmaxEnv:
    """Build ``smax/<task>``; it cannot be rendered, so ``render_mode`` is ignored.

    Raises:
        ConfigError: there is no such map.
        EnvError: jaxmarl is not installed.
    """
    if task not in MAPS:
        raise ConfigError(f"smax/{task}: no such map: {nearest(task, MAPS)}")
    return SmaxEnv(task, config)


def tasks() -> list[TaskInfo]:
    """The maps of jaxmarl."""
    return [TaskInfo(f"smax/{name}", n, f"{who} (needs dima-marl[smax])") for name, (n, _, who) in MAPS.items()]


class SmaxEnv(ParallelEnv[str, np.ndarray, int]):
    """The allies of a map as a PettingZoo environment.

    Actions: 0 north, 1 east, 2 south, 3 west, 4 stop, 5 and on: shoot at the enemy of that number; shooting is
    allowed while the enemy is in range. ``state()`` is SMAX's world state: of each unit health, position, cooldown and
    type, zero if it is dead; then the teams and types of all units.

    Args:
        task: the map.
        config: rules of the battle.

    Raises:
        EnvError: jaxmarl is not installed.
    """

    forkable = False  # a forked child lacks the threads of JAX, and would wait for them for ever
    episode_metrics = ("success",)  # infos whose value at the end of an episode says how it went

    def __init__(self, task: str, config: SmaxConfig | None = None) -> None:
        config = config or SmaxConfig()
        self.metadata = {"name": f"smax/{task}", "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self._battle = battle = _battle_of(task, config)
        self.episode_limit = config.max_steps
        self.possible_agents = [f"ally_{i}" for i in range(battle.allies)]
        self.agents: list[str] = []
        box = spaces.Box(-np.inf, np.inf, (battle.obs_size,), np.float32)  # a unit pushed aside is beyond the map
        self.observation_spaces = dict.fromkeys(self.possible_agents, box)
        self.action_spaces = {agent: spaces.Discrete(battle.actions) for agent in self.possible_agents}
        self.state_space = spaces.Box(-np.inf, np.inf, (battle.state_size,), np.float32)
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's observation space."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's action space."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        """Start a battle, whose random numbers follow from the seed; without one the random stream continues."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self._steps = self.possible_agents[:], 0
        self._units, packed = self._battle.reset(self._rng.integers(2**32, size=2, dtype=np.uint32))
        return self._unpack(np.asarray(packed))[:2]

    def step(
        self, actions: dict[str, int]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Play one step, eight steps of the simulation."""
        chosen = np.array([actions[agent] for agent in self.possible_agents], dtype=np.int32)
        self._units, packed = self._battle.step(self._units, chosen)
        self._steps += 1
        observations, infos, reward, over = self._unpack(np.asarray(packed))
        truncated, team = not over and self._steps >= self.episode_limit, self.possible_agents
        if over or truncated:
            self.agents = []
        return (
            observations,
            dict.fromkeys(team, reward),
            dict.fromkeys(team, over),
            dict.fromkeys(team, truncated),
            infos,
        )

    def state(self) -> np.ndarray:
        """SMAX's world state, (S,) float32."""
        return self._state

    def state_names(self) -> list[str]:
        """Names of the S state features."""
        units = [*self.possible_agents, *(f"enemy_{i}" for i in range(self._battle.enemies))]
        features = ["health", "x", "y", "cooldown", *(f"is {kind}" for kind in self._battle.unit_types)]
        return [f"{unit}: {feature}" for unit in units for feature in features] + [
            f"{unit}: {constant}" for constant in ("team", "type") for unit in units
        ]

    def _unpack(self, packed: np.ndarray) -> tuple[Observations, Infos, float, bool]:
        """Observations, infos, reward and whether a side is dead, from what :class:`_Battle` packed."""
        battle, team = self._battle, self.possible_agents
        obs, masks, self._state, (reward, over, won) = np.split(packed, battle.splits)
        obs, masks = obs.reshape(battle.allies, -1), masks.reshape(battle.allies, -1).astype(np.int8)
        infos = {a: {"action_mask": mask, "success": bool(won)} for a, mask in zip(team, masks, strict=True)}
        return dict(zip(team, obs, strict=True)), infos, float(reward), bool(over)


class _Battle:
    """The compiled simulation of a map.

    ``reset(entropy)`` takes (2,) uint32 and ``step(units, actions)`` (N,) int32. Both return the units, for the next
    step, and one float32 array: observations, masks, world state, reward, whether a side is dead, whether the allies
    won. One array, since each transfer to NumPy costs as much as several of them in one.
    """

    def __init__(self, task: str, config: SmaxConfig) -> None:
        jax, jaxmarl = _import_jaxmarl(task)
        jnp = jax.numpy
        env = jaxmarl.HeuristicEnemySMAX(
            scenario=jaxmarl.map_name_to_scenario(task),
            attack_mode=config.attack_mode,
            see_enemy_actions=config.see_enemy_actions,
            walls_cause_death=config.walls_cause_death,
            max_steps=config.max_steps,
        )
        self.allies, self.enemies, self.unit_types = env.num_allies, env.num_enemies, tuple(env.unit_type_names)
        self.obs_size, self.state_size, self.actions = env.obs_size, env.state_size, env.num_ally_actions
        ends = np.cumsum([self.allies * self.obs_size, self.allies * self.actions, self.state_size])
        self.splits = ends.tolist()

        def packed(obs: Any, state: Any, reward: Any) -> Any:
            masks, alive = env.get_avail_actions(state), state.state.unit_alive
            allies, enemies = alive[: env.num_allies].any(), alive[env.num_allies :].any()
            seen = [values[agent].astype(jnp.float32) for values in (obs, masks) for agent in env.agents]
            return jnp.concatenate(
                [*seen, obs["world_state"], jnp.stack([reward, ~(allies & enemies), allies & ~enemies])]
            )

        def reset(entropy: Any) -> Any:
            key, first = jax.random.split(jax.random.wrap_key_data(entropy, impl="threefry2x32"))
            obs, state = env.reset(first)
            return (key, state), packed(obs, state, jnp.float32(0))

        def step(units: Any, actions: Any) -> Any:
            key, now = jax.random.split(units[0])
            obs, state, rewards, *_ = env.step_env(now, units[1], dict(zip(env.agents, actions, strict=True)))
            return (key, state), packed(obs, state, rewards[env.agents[0]])

        self.reset, self.step = jax.jit(reset), jax.jit(step)


_battle_of = lru_cache(maxsize=None)(_Battle)


def _import_jaxmarl(task: str) -> tuple[Any, Any]:
    """JAX and SMAX; on the CPU, unless the user has chosen a platform or uses JAX already.

    Raises:
        EnvError: one cannot be imported.
    """
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else it would reserve most of a GPU's memory
    try:
        with _silent():
            import jax
            from jaxmarl.environments import smax
    except ImportError as error:
        raise EnvError(f"smax/{task} needs the package jaxmarl ({error}): {INSTALL}") from error
    # JAX warns of every fork; forks of this library do not call it (SmaxEnv.forkable)
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    return jax, smax


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what is printed: jaxmarl prints when imported, and resets ``sys.stdout`` to ``sys.__stdout__``."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in names}
    for name in names:
        setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
