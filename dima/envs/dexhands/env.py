"""The PettingZoo environment of two dexterous hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from dima.envs.base import TaskInfo
from dima.envs.dexhands.hand import ACTUATED, FOREARM
from dima.envs.dexhands.noise import add_noise
from dima.envs.dexhands.objects import DoubleDoor
from dima.envs.dexhands.observation import ACTION, CLIP, Observer
from dima.envs.dexhands.rewards import Outcome
from dima.envs.dexhands.scene import SIDES, build
from dima.envs.dexhands.settings import CONTROL_SECONDS, DexHandsConfig
from dima.envs.dexhands.tasks import TASKS
from dima.errors import ConfigError, nearest

if TYPE_CHECKING:
    from dima.envs.render.dexhands import DexHandsScene

AGENTS = ("right_hand", "left_hand")
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class DexHandsEnv(ParallelEnv[str, np.ndarray, np.ndarray]):
    """Two hands and an object; both hands receive the team's reward.

    An action of 26 numbers in [-1, 1] is a force (3) and a torque (3) on the forearm, along the axes of the world, and
    the targets of 20 joints, -1 and 1 at their limits (``hand.ACTUATED``). A failure of the task terminates, the time
    limit truncates. Infos hold ``success`` (reached at any time of the episode), ``reach`` (sum of the distances of the
    hand's fingertips to their target, m) and ``progress`` (what success is a threshold of).

    Args:
        task: of ``TASKS``.
        config: its settings.
        render_mode: ``rgb_array`` or None.

    Raises:
        ConfigError: the task does not exist, or a setting does not apply to it.
        EnvError: the package with the hand's files is missing.
    """

    episode_metrics = ("success",)

    def __init__(self, task: str, config: DexHandsConfig | None = None, render_mode: str | None = None) -> None:
        config = config or DexHandsConfig()
        if task not in TASKS:
            raise ConfigError(f"dexhands/{task}: no such task: {nearest(task, TASKS)}")
        self.task, self.config = TASKS[task], config
        _check(task, config)
        self.metadata = {
            "name": task,
            "is_parallelizable": True,
            "render_modes": ["rgb_array"],
            "render_fps": round(1 / CONTROL_SECONDS),
        }
        self.render_mode = render_mode
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        self.episode_limit = config.episode_limit or self.task.episode_limit
        self.model = build(self.task, config)
        self.data = mujoco.MjData(self.model)
        self.observer = Observer(self.model, self.task)
        self.np_random = np.random.default_rng()
        self._renderer: DexHandsScene | None = None
        self._find_parts()
        self.state_space = spaces.Box(-CLIP, CLIP, (self.observer.size,), np.float32)
        sizes = [len(part) for part in self.observer.of_hands(np.zeros(self.observer.size))]
        self._observation_spaces = {
            agent: spaces.Box(-CLIP, CLIP, (size,), np.float32) for agent, size in zip(AGENTS, sizes, strict=True)
        }
        self._action_spaces = {agent: spaces.Box(-1, 1, (ACTION,), np.float32) for agent in AGENTS}

    def _find_parts(self) -> None:
        model, task = self.model, self.task
        self._forearms = np.array([model.body(f"{side}_{FOREARM}").id for side in SIDES])
        self._wrench = np.array([task.force] * 3 + [task.torque] * 3)
        self.motors = np.array([model.actuator(f"{side}_A_{joint}").id for side in SIDES for joint in ACTUATED])
        low, high = model.actuator_ctrlrange[self.motors].T
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._start = model.qpos0.copy()
        for side in SIDES:
            for joint, angle in task.joints.items():
                self._start[model.joint(f"{side}_{joint}").qposadr[0]] = angle
        targets = [int(model.joint(f"{side}_{joint}").qposadr[0]) for side in SIDES for joint in ACTUATED]
        self._start_targets = self._start[targets]
        self._action = np.zeros((2, ACTION))

    def observation_space(self, agent: str) -> spaces.Box:
        """(221,) or (218,) float32 in [-5, 5]."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box:
        """(26,) float32 in [-1, 1]."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode: from the task's pose, with noise if set, after one step of small random actions."""
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        self.place()
        small = self.config.reset_action
        self._simulate(self.np_random.uniform(-small, small, (2, ACTION)))
        self.agents, self._steps, self._success = self.possible_agents[:], 0, False
        observations, outcome = self._observe()
        return observations, self._infos(outcome)

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Apply both hands' actions for 1/60 s."""
        action = np.stack([actions[agent] for agent in AGENTS])
        self._simulate(np.minimum(np.maximum(action, -1.0), 1.0))
        self._steps += 1
        observations, outcome = self._observe()
        failed = bool(outcome.failed)
        self._success = self._success or bool(outcome.succeeded)
        truncated = self._steps >= self.episode_limit
        if failed or truncated:
            self.agents = []
        return (
            observations,
            dict.fromkeys(AGENTS, float(outcome.reward)),
            dict.fromkeys(AGENTS, failed),
            dict.fromkeys(AGENTS, truncated),
            self._infos(outcome),
        )

    def state(self) -> np.ndarray:
        """(420,) or (417,) float32 in [-5, 5]: both hands and the object."""
        return self._state

    def state_names(self) -> list[str]:
        """Names of the state features, such as ``right positions: FFJ3``."""
        return self.observer.names()

    def state_kinds(self) -> list[str]:
        """Kinds of quantity of the state features: ``positions``, ``fingertips``, ``object pose``, ..."""
        kinds = [name.partition(":")[0] for name in self.state_names()]
        return [kind.removeprefix("right ").removeprefix("left ") for kind in kinds]

    def snapshot(self) -> np.ndarray:
        """(D,) float64: all that the next step depends on, for :meth:`restore`."""
        state = np.zeros(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return np.append(state, self._success)

    def restore(self, snapshot: np.ndarray) -> None:
        """Continue where a :meth:`snapshot` was taken, with a new time limit. Before a step, :meth:`state` is stale."""
        mujoco.mj_setState(self.model, self.data, snapshot[:-1], _STATE)
        mujoco.mj_step1(self.model, self.data)
        self.agents, self._steps, self._success = self.possible_agents[:], 0, bool(snapshot[-1])

    def render(self) -> np.ndarray | None:
        """A picture, (240, 320, 3) uint8 with ``rgb_array``.

        Raises:
            EnvError: this machine cannot render.
        """
        if self.render_mode != "rgb_array":
            return None
        if self._renderer is None:
            self._renderer = scene(self, 320, 240)
        return self._renderer.draw(self._renderer.now())

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def targets(self, action: np.ndarray) -> np.ndarray:
        """Targets (40,) of both hands' actuated joints, for ``data.ctrl[motors]``, of actions (2, 26)."""
        return self._middle + self._half * action[:, 6:].ravel()

    @property
    def start_action(self) -> np.ndarray:
        """(2, 20) targets in [-1, 1] of both hands' actuated joints, where they start."""
        action: np.ndarray = ((self._start_targets - self._middle) / self._half).reshape(2, -1)
        return action

    def place(self) -> None:
        """Put hands and object where an episode starts, before its first step."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = self._start
        data.ctrl[self.motors] = self._start_targets
        add_noise(data.qpos, self.model, self.task, self.config, self.observer, self.np_random)
        mujoco.mj_step1(self.model, data)

    def _simulate(self, action: np.ndarray) -> None:
        """Play one step of actions (2, 26); positions and velocities are up to date afterwards."""
        model, data = self.model, self.data
        self._action = action
        data.xfrc_applied[self._forearms] = action[:, :6] * self._wrench
        data.ctrl[self.motors] = self.targets(action)
        mujoco.mj_step2(model, data)  # the first half of this physics step was done before
        mujoco.mj_step(model, data, self.config.frame_skip - 1)
        mujoco.mj_rnePostConstraint(model, data)
        self.observer.read_forces(data)
        mujoco.mj_step1(model, data)

    def _observe(self) -> tuple[dict[str, np.ndarray], Outcome]:
        """Observations, and what the task makes of the state."""
        observer = self.observer
        self._state = observer.read(self.data, self._action)
        outcome = self.task.outcome(observer.palms, observer.fingertips, observer.object_points)
        return dict(zip(AGENTS, observer.of_hands(self._state), strict=True)), outcome

    def _infos(self, outcome: Outcome) -> dict[str, dict[str, Any]]:
        common = {"success": self._success, "progress": float(outcome.progress)}
        reaches = (float(outcome.right), float(outcome.left))
        return {agent: {**common, "reach": reach} for agent, reach in zip(AGENTS, reaches, strict=True)}


def _check(task: str, config: DexHandsConfig) -> None:
    """Refuse settings that do not apply to a task."""
    if isinstance(TASKS[task].thing, DoubleDoor):
        return
    for name in ("door_spring", "door_damping"):
        if (value := getattr(config, name)) != getattr(DexHandsConfig(), name):
            raise ConfigError(f"{name} = {value} applies to the doors only, not to dexhands/{task}: leave it out")


CONFIG = DexHandsConfig


def make(task: str, config: DexHandsConfig, render_mode: str | None = None) -> DexHandsEnv:
    """Build ``dexhands/<task>``."""
    return DexHandsEnv(task, config, render_mode)


def scene(env: DexHandsEnv, width: int, height: int) -> DexHandsScene:
    """A scene of an environment; sizes in pixels.

    Raises:
        EnvError: this machine cannot render.
    """
    from dima.envs.render.dexhands import DexHandsScene

    return DexHandsScene(env, width, height)


def tasks() -> list[TaskInfo]:
    """The four tasks."""
    return [TaskInfo(f"dexhands/{name}", 2, f"{task.note}, {task.episode_limit} steps") for name, task in TASKS.items()]
