"""The simulator as a world model: how far a policy would get if the model were perfect.

Under the same schedule, what a policy learns here beyond what it learns in another world model is what that model's
errors cost; what it lacks here is the policy update's. It is a yardstick, not a method: a task has it only if its
simulator can be put into a given state.

Rewards, terminations and observations are the environment's own. There is no time limit: a rollout continues unless the
task terminates. A terminated row stays as it is, without reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dima.data import EnvSpec, Episode, View
from dima.envs.base import JointEnv
from dima.errors import ConfigError, EnvError
from dima.experience.replay import Rows
from dima.world_models.base import Objective, Step, WorldModel, WorldModelConfig, clip_action, replace_rows


@dataclass(frozen=True)
class OracleModelConfig(WorldModelConfig):
    """The task's own simulator, for comparison: nothing is learnt but the policy."""

    def build(self, spec: EnvSpec) -> OracleWorldModel:
        return OracleWorldModel(spec)


@dataclass
class Latent:
    """Simulations, and what they look like, in the environment's units."""

    simulation: Tensor  # (B, D) float64, snapshots of the environment
    state: Tensor  # (B, S)
    obs: Tensor  # (B, N, O)
    previous_action: Tensor  # (B, N, A) joint action that led here
    terminated: Tensor  # (B,) bool


class OracleWorldModel(WorldModel[Latent]):
    """Steps an environment of the task, row by row, on the CPU.

    Raises:
        ConfigError: the spec cannot make an environment.
        EnvError: the environment cannot be put into a given state.
    """

    context = 2  # the state, and the step that led to it
    capturable = False
    action_valid: Tensor  # (N, A) bool

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        if spec.make is None:
            raise ConfigError("algorithm = 'oracle' needs the task's environment: build it from JointEnv.spec")
        self.spec = spec
        self.env: JointEnv = spec.make()
        self.register_buffer("action_valid", torch.from_numpy(spec.action_valid), persistent=False)
        try:
            if spec.masks_actions:
                raise EnvError(f"{self.env.name}: action masks do not follow from its state: choose another task")
            self.env.set_state(self.env.reset(seed=0)[0]["state"])
            self.env.snapshot()
        except EnvError as error:
            raise EnvError(f"algorithm oracle: {error}") from error

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        """There are none."""

    def objectives(self) -> dict[str, Objective]:
        return {}

    def start(self, rows: Rows) -> Latent:
        previous_action = clip_action(rows.action[:, -2], self.spec)
        columns = rows.state[:, -1], rows.state[:, -2], previous_action, rows.valid[:, -2]
        simulation = []
        for state, before, action, known in zip(*(column.cpu().numpy() for column in columns), strict=True):
            self.env.set_state(state, (before, action) if known else None)
            simulation.append(self.env.snapshot())
        return Latent(
            simulation=torch.from_numpy(np.stack(simulation)).to(rows.state.device),
            state=rows.state[:, -1],
            obs=rows.obs[:, -1],
            previous_action=previous_action,
            terminated=torch.zeros_like(rows.valid[:, -1]),
        )

    def observe(self, latent: Latent) -> View:
        return View(
            obs=latent.obs,
            state=latent.state,
            action_mask=self.action_valid.expand(len(latent.state), -1, -1),
            previous_action=latent.previous_action,
        )

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        action, device = clip_action(action, self.spec), latent.state.device
        before = latent.simulation, latent.state, latent.obs, latent.terminated
        simulation, state, obs, terminated = (values.cpu().numpy().copy() for values in before)
        actions, reward = action.float().cpu().numpy(), np.zeros(len(state), dtype=np.float32)
        for row in np.flatnonzero(~terminated):
            self.env.restore(simulation[row])
            joint, reward[row], terminated[row], _, _ = self.env.step(actions[row])
            simulation[row], state[row], obs[row] = self.env.snapshot(), joint["state"], joint["obs"]

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        after = Latent(on_device(simulation), on_device(state), on_device(obs), action, on_device(terminated))
        return Step(after, on_device(reward), 1 - after.terminated.float())

    def reset_rows(self, latent: Latent, fresh: Latent, rows: Tensor) -> Latent:
        """Replace the selected rows."""
        return replace_rows(latent, fresh, rows)
