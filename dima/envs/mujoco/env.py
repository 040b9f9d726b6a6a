"""Multi-agent MuJoCo: one robot whose actuators are divided among agents.

Tasks are called ``<scenario>-<partition>``, such as ``halfcheetah-2x3``. The simulators are Gymnasium's v5 tasks and
the partitions Gymnasium-Robotics' ``mamujoco_v1``, with ``halfcheetah-3x2`` and ``walker2d-3x2`` added (consecutive
actuators). Returns are not comparable with those of the v2 tasks behind published tables.

Which actuators an agent of the ants drives (legs: 1 front left, 2 front right, 3 back left, 4 back right):

=========  ==========================  ==========================================
task       here                        HARL and the published DIMA runs (v2)
=========  ==========================  ==========================================
ant-2x4    legs 1, 2 and legs 3, 4     legs 4, 1 and legs 2, 3
ant-2x4d   legs 1, 4 and legs 2, 3     (the same split: their 2x4 is our 2x4d)
ant-4x2    legs 1, 2, 3, 4             legs 4, 1, 2, 3 (agents renumbered)
=========  ==========================  ==========================================

In numbers, the simulator's actuators 0 to 7 being hip and ankle of legs 4, 1, 2, 3: ``ant-2x4`` is [2, 3, 4, 5] and
[6, 7, 0, 1], HARL's is [0, 1, 2, 3] and [4, 5, 6, 7].

Does not work with gymnasium-robotics 1.4.2 and mujoco 3.6 or newer: ``coupledhalfcheetah-1p1``, because the package
reads the tendon's Jacobian as a dense matrix and MuJoCo stores it sparse since 3.6. The inverted pendulums have one
actuator and one agent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.config import Config, EpisodeSteps
from dima.envs.base import TaskInfo
from dima.envs.mujoco.coordinates import Layout, coordinates, layout_of
from dima.envs.mujoco.observations import FullObservation, LocalObservation, standardized, state_kinds, state_names
from dima.envs.mujoco.partitions import (
    GRAPHLESS,
    SCENARIOS,
    WITH_CONTACTS,
    parse,
    parts_of,
    simulator,
)
from dima.errors import ConfigError, EnvError, one_line

if TYPE_CHECKING:
    from dima.envs.render.mujoco import MujocoScene


@dataclass(frozen=True)
class MamujocoConfig(Config):
    """Observations and length of episodes."""

    observation: str = "full+id"  # full+id: the state and a one-hot id; local-K: joints at most K edges away
    standardize: bool = (
        False  # full+id: each vector, and the state, minus its own mean, divided by its own standard deviation
    )
    contact_forces: bool = False  # ants: observe contact forces and pay their cost, as in Gymnasium's v5 tasks
    episode_limit: EpisodeSteps | None = None  # steps until truncation; None: the task's (1000, pusher 100, reacher 50)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observation != "full+id" and not re.fullmatch(r"local-\d{1,2}", self.observation):
            raise ConfigError(
                f"observation = {self.observation!r} does not fit: expected full+id, local-0, local-1, ..."
            )
        if self.standardize and self.observation != "full+id":
            raise ConfigError(f"standardize = True works with observation = 'full+id' only, not {self.observation!r}")


class MamujocoEnv(ParallelEnv[str, np.ndarray, np.ndarray]):
    """A robot as a PettingZoo environment; its state is the robot's whole observation.

    All agents receive the robot's reward. A fall terminates (if it does in the robot's task), the time limit truncates.

    Args:
        task: ``<scenario>-<partition>``.
        config: observations and length of episodes.
        render_mode: ``rgb_array``, ``depth_array``, ``human`` or None.

    Raises:
        ConfigError: the task does not exist or an option does not apply to it.
        EnvError: the installed versions cannot run it.
    """

    def __init__(self, task: str, config: MamujocoConfig | None = None, render_mode: str | None = None) -> None:
        config = config or MamujocoConfig()
        scenario, partition = parse(task)
        self.scenario = scenario
        if config.contact_forces and scenario not in WITH_CONTACTS:
            raise ConfigError(f"contact_forces = True applies to {' and '.join(WITH_CONTACTS)} only, not to {scenario}")
        local = None if config.observation == "full+id" else int(config.observation.removeprefix("local-"))
        if local is not None and scenario in GRAPHLESS:
            raise ConfigError(f"observation = {config.observation!r}: {scenario} has no graph of joints: use full+id")
        try:
            parts = parts_of(scenario, partition)
            self.simulator = simulator(scenario, partition, render_mode, config.contact_forces)
            state, _ = self.simulator.reset(seed=0)
        except Exception as error:
            versions = ", ".join(f"{name} {version(name)}" for name in ("gymnasium-robotics", "gymnasium", "mujoco"))
            cause = f"{SCENARIOS[scenario].broken}: " if SCENARIOS[scenario].broken else ""
            raise EnvError(
                f"mamujoco/{task} does not work with {versions} ({cause}{one_line(error)}): choose another task"
            ) from error
        self.metadata = {**self.simulator.metadata, "name": task, "is_parallelizable": True}
        self.render_mode = render_mode
        self.obs_has_id = local is None
        self.episode_limit = config.episode_limit or SCENARIOS[scenario].episode_limit
        self.possible_agents = [f"agent_{i}" for i in range(len(parts.actuators))]
        self.agents: list[str] = []
        self.standardize = config.standardize
        self._observation: FullObservation | LocalObservation
        if local is None:
            self._observation = FullObservation(len(self.possible_agents), state.size, config.standardize)
        else:
            self._observation = LocalObservation(scenario, parts, local, config.contact_forces, self.simulator.data)
        self.actuators = {
            agent: np.array(ids) for agent, ids in zip(self.possible_agents, parts.actuators, strict=True)
        }
        self._order = np.argsort(np.concatenate(parts.actuators))  # index of each actuator in the joint action
        self._make_spaces(state.size)

    def _make_spaces(self, state_dim: int) -> None:
        bounds = self.simulator.action_space
        self.state_space = spaces.Box(-np.inf, np.inf, (state_dim,), np.float64)
        self.observation_spaces: dict[str, spaces.Box] = {
            agent: spaces.Box(-np.inf, np.inf, (size,), np.float64)
            for agent, size in zip(self.possible_agents, self._observation.sizes, strict=True)
        }
        self.action_spaces: dict[str, spaces.Box] = {
            agent: spaces.Box(bounds.low[ids], bounds.high[ids], dtype=np.float32)
            for agent, ids in self.actuators.items()
        }

    def observation_space(self, agent: str) -> spaces.Box:
        """(O_i,) float64, unbounded."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box:
        """(A_i,) float32 within the bounds of the agent's actuators."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode in a random pose."""
        state, info = self.simulator.reset(seed=seed)
        self.agents, self._steps = self.possible_agents[:], 0
        return self._observe(state), dict.fromkeys(self.agents, info)

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Apply all actions for one control step."""
        state, reward, terminated, _, info = self.simulator.step(self._joined(actions))
        self._steps += 1
        team, truncated = self.possible_agents, self._steps >= self.episode_limit
        if terminated or truncated:
            self.agents = []
        return (
            self._observe(state),
            dict.fromkeys(team, float(reward)),
            dict.fromkeys(team, bool(terminated)),
            dict.fromkeys(team, truncated),
            dict.fromkeys(team, info),
        )

    def state(self) -> np.ndarray:
        """(S,) float64: the robot's whole observation, standardised if configured."""
        return self._state

    def set_state(self, state: np.ndarray, previous: tuple[np.ndarray, dict[str, np.ndarray]] | None = None) -> None:
        """Continue from a ``state`` (S,) with a new time limit; what went before in this environment has no influence.

        The root's position starts at 0 where states leave it out. Velocities that they clip (hopper, walker2d, double
        pendulum) are as clipped, those that they leave out (pusher) are 0.

        Args:
            state: as :meth:`state` returns it.
            previous: the state and the actions that led there, which are played first; None at an episode's start. The
                ants and humanoids are paid for the distance from where the step before left their bodies' positions,
                which lag behind the joints by one simulator step.

        Raises:
            EnvError: observations are local, or a state does not determine the robot's pose.
        """
        self._refuse_local()
        if self.layout.several_roots:
            raise EnvError(f"mamujoco/{self.metadata['name']}: its states leave out the distance between the robots")
        model, data, start = self.simulator.model, self.simulator.data, np.zeros(self.simulator.model.nq)
        if previous is not None:
            self.set_state(previous[0])
            self.simulator.step(self._joined(previous[1]))
            start, lagging = data.qpos.copy(), (data.xpos.copy(), data.xipos.copy())
        qpos, qvel = coordinates(self.layout, model, state[None], start, self.simulator.dt)
        mujoco.mj_resetData(model, data)
        self.simulator.set_state(qpos[0], qvel[0])
        if previous is not None:
            data.xpos[:], data.xipos[:] = lagging
        self.agents, self._steps = self.possible_agents[:], 0
        self._state = np.asarray(state, dtype=np.float64)

    def snapshot(self) -> np.ndarray:
        """(D,) float64: all that the next step depends on, for :meth:`restore`."""
        return np.concatenate([part.ravel() for part in self._simulation])

    def restore(self, snapshot: np.ndarray) -> None:
        """Continue where a :meth:`snapshot` was taken, with a new time limit. Before a step, :meth:`state` is stale."""
        first = 0
        for part in self._simulation:
            part[:] = snapshot[first : first + part.size].reshape(part.shape)
            first += part.size
        self.agents, self._steps = self.possible_agents[:], 0

    @property
    def _simulation(self) -> tuple[np.ndarray, ...]:
        data = self.simulator.data
        return data.qpos, data.qvel, data.qacc_warmstart, data.xpos, data.xipos

    @property
    def poseless(self) -> str:
        """Why its states do not determine the robot's pose; empty if they do."""
        if not self.standardize:
            return ""
        return (
            f"mamujoco/{self.metadata['name']}: states that were standardised one by one (env.standardize = True) "
            "no longer determine the robot's pose: expected env.standardize = False"
        )

    @cached_property
    def layout(self) -> Layout:
        """Relation of its states to the simulator's coordinates.

        Raises:
            EnvError: its states are standardised.
        """
        if self.poseless:
            raise EnvError(self.poseless)
        return layout_of(self.scenario, self.simulator)

    def state_names(self) -> list[str]:
        """Names of the state features, such as ``qpos:rootz`` or ``qvel:bthigh``."""
        return state_names(self.simulator, self._state.size)

    def state_kinds(self) -> list[str]:
        """Kinds of quantity of the state features: ``joint positions``, ``root velocity``, ..."""
        return state_kinds(self.simulator, self.state_names())

    @property
    def single_agent_task(self) -> Any:
        """Gymnasium's spec of the robot's own task, if the state equals its observation; else None."""
        spec = self.simulator.spec
        return None if self.standardize or spec is None or "xml_file" in spec.kwargs else spec

    def observations_of(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """The agents' observations in a ``state`` (S,), which :meth:`state` returns from then on.

        Raises:
            EnvError: observations are local and depend on more than the state.
        """
        self._refuse_local()
        return self._observe(np.asarray(state, dtype=np.float64))

    def render(self) -> Any:
        """A picture of the robot, (height, width, 3) uint8 with ``rgb_array``."""
        return self.simulator.render()

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()

    def _refuse_local(self) -> None:
        if isinstance(self._observation, LocalObservation):
            raise EnvError(
                f"mamujoco/{self.metadata['name']}: local observations do not follow from the state alone: "
                "use observation = full+id"
            )

    def _joined(self, actions: dict[str, np.ndarray]) -> np.ndarray:
        """The simulator's action, in the order of its actuators."""
        joined = np.concatenate([actions[agent] for agent in self.possible_agents])
        return joined.take(self._order).astype(np.float64)

    def _observe(self, state: np.ndarray) -> dict[str, np.ndarray]:
        self._state = standardized(state) if self.standardize else state
        return dict(zip(self.possible_agents, self._observation.observe(state, self.simulator.data), strict=True))


CONFIG = MamujocoConfig


def make(task: str, config: MamujocoConfig, render_mode: str | None = None) -> MamujocoEnv:
    """Build ``mamujoco/<task>``."""
    return MamujocoEnv(task, config, render_mode)


def scene(env: MamujocoEnv, width: int, height: int) -> MujocoScene:
    """A scene of an environment's robot; sizes in pixels.

    Raises:
        EnvError: this machine cannot render.
    """
    from dima.envs.render.mujoco import MujocoScene

    layout, flat = layout_of(env.scenario, env.simulator), SCENARIOS[env.scenario].flat
    return MujocoScene(env.simulator, layout, env.actuators, width, height, flat, env.poseless)


def tasks() -> list[TaskInfo]:
    """All scenarios and partitions; two robots have any number of segments."""
    found = []
    for name, scenario in SCENARIOS.items():
        for partition in scenario.partitions:
            note = f"{scenario.label}, {scenario.episode_limit} steps"
            if scenario.broken:
                note += "; does not work: " + scenario.broken
            found.append(TaskInfo(f"mamujoco/{name}-{partition}", _n_agents(partition), note))
        if not scenario.partitions:
            example = "2x3" if name == "manysegmentant" else "10x2"
            note = f"{scenario.label}, {scenario.episode_limit} steps; any NxM: N agents of M segments"
            found.append(TaskInfo(f"mamujoco/{name}-{example}", _n_agents(example), note))
    return found


def _n_agents(partition: str) -> int:
    if partition in ("9|8", "1p1"):
        return 2
    return int(partition[0]) if not partition.startswith("10") else 10
