"""A world model as a PettingZoo environment, or as a vectorised Gymnasium environment of many teams.

Spaces, agents and action masks are those of the real task; rewards are the predicted team reward, the same for all
agents; where some have left, times N over the number of those who stay, so that the team's mean is what was predicted.
An episode starts in a real state, terminates with the predicted probability, and is truncated at a horizon. Everything
random comes from the environment's own seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from gymnasium.vector.utils import batch_space
from pettingzoo import ParallelEnv
from torch import Tensor

from dima.envs.base import Joint, JointEnv
from dima.errors import ConfigError, EnvError
from dima.world_models.base import PartialReset
from dima.world_models.imagined import ImaginedBatch


class ImaginedEnv(ParallelEnv[Any, Any, Any]):
    """The learnt task as a PettingZoo environment.

    Args:
        batch: of one rollout.
        real: the task's own environment, for its spaces; it is not stepped.
    """

    def __init__(self, batch: ImaginedBatch, real: JointEnv) -> None:
        assert batch.count == 1
        self._batch, self._real = batch, real
        self.metadata = {"name": f"{real.name}, imagined", "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.possible_agents = list(real.parallel_env.possible_agents)
        self.agents: list[Any] = []
        self.obs_has_id, self.episode_limit = real.spec.obs_has_id, batch.horizon
        self.agents_leave = real.spec.agents_leave
        unbounded = spaces.Box(-np.inf, np.inf, (real.spec.own_state_dim,), np.float32)
        self.state_space = getattr(real.parallel_env, "state_space", unbounded)

    def observation_space(self, agent: Any) -> spaces.Space[Any]:
        """The real task's."""
        return self._real.parallel_env.observation_space(agent)

    def action_space(self, agent: Any) -> spaces.Space[Any]:
        """The real task's."""
        return self._real.parallel_env.action_space(agent)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Start in another real state; without a seed the random stream continues."""
        if seed is not None:
            self._batch.seed(seed)
        self._batch.reset()
        self.agents = self._present()
        return self._see(self.agents)

    def step(
        self, actions: dict[Any, Any]
    ) -> tuple[dict[Any, Any], dict[Any, float], dict[Any, bool], dict[Any, bool], dict[Any, Any]]:
        """Imagine the consequences of the agents' actions. A forbidden one is given to the model as it is.

        Raises:
            EnvError: no episode is running, or an action is missing or does not fit its space.
            DivergenceError: the model's prediction is not finite.
        """
        if not self.agents:
            raise EnvError(f"{self.metadata['name']}: step without a running episode: call reset first")
        team = self.agents
        joint = torch.from_numpy(self._real.encode_actions(actions, team))[None]
        reward, terminated, truncated = (value.item() for value in self._batch.step(joint))
        observations, infos = self._see(team)
        stay = [] if terminated else self._present()
        self.agents = [] if truncated else stay
        share = float(reward) * (len(self.possible_agents) / len(team))
        gone, cut = ({a: a not in stay for a in team}, {a: bool(truncated) and a in stay for a in team})
        return observations, dict.fromkeys(team, share), gone, cut, infos

    def state(self) -> np.ndarray:
        """(S,): the predicted state, without the flags of who is there.

        Raises:
            NotImplementedError: the world model predicts observations alone; then they are all that there is.
        """
        if not self._batch.world_model.predicts_state:
            raise NotImplementedError(
                f"{self.metadata['name']}: the world model predicts observations, which do not hold the state"
            )
        state: np.ndarray = self._real.spec.own_state(self._batch.joint()["state"][0])
        return state.astype(self.state_space.dtype)

    def state_names(self) -> list[str]:
        """What each state feature is, as the real task calls it; of all observations where no state is predicted."""
        if not self._batch.world_model.predicts_state:
            return self._real.spec.obs_names
        return self._real.state_names()[: self.state_space.shape[0]]

    def close(self) -> None:
        """Close the real environment behind it."""
        self._real.close()

    def _present(self) -> list[Any]:
        alive = self._batch.alive
        return [a for n, a in enumerate(self.possible_agents) if alive is None or alive[0, n]]

    def _see(self, team: list[Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
        joint = self._batch.joint()
        seen, infos = self._real.decode_observations(joint["obs"][0], joint["action_mask"][0])
        return {agent: seen[agent] for agent in team}, {agent: infos[agent] for agent in team}


class ImaginedVectorEnv(GymnasiumVectorEnv[Joint, np.ndarray, np.ndarray]):
    """Many imagined teams as one vectorised Gymnasium environment, each seen as a team.

    Observations are a dictionary of ``obs`` (n, N, O), ``state`` (n, S) and ``action_mask`` (n, N, A); actions are
    (n, N, A): continuous ones in [-1, 1], discrete ones one-hot, padding ignored. The reward is the team's. A team
    whose episode ended is reset in the same step; its last observation is in ``infos["final_obs"]``. There is no state
    where the world model predicts observations alone.

    Args:
        batch: of n rollouts.
        real: the task's own environment, for its spaces; it is not stepped.
    """

    def __init__(self, batch: ImaginedBatch, real: JointEnv) -> None:
        if batch.count > 1 and not isinstance(batch.world_model, PartialReset):
            raise ConfigError(
                f"{type(batch.world_model).__name__} cannot reset single rollouts of a batch: use one team"
            )
        self._batch, self._real = batch, real
        self.num_envs = batch.count
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        seen: Any = real.observation_space
        if not batch.world_model.predicts_state:
            seen = spaces.Dict({name: space for name, space in seen.items() if name != "state"})
        self.single_observation_space, self.single_action_space = seen, real.action_space
        self.observation_space = batch_space(seen, self.num_envs)
        self.action_space = batch_space(real.action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Joint, dict[str, Any]]:
        """Start everywhere; without a seed the random stream continues. One seed determines all teams."""
        if seed is not None:
            self._batch.seed(seed)
        self._batch.reset()
        return self._batch.joint(), {}

    def step(self, actions: np.ndarray) -> tuple[Joint, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine the consequences of every team's joint action.

        Raises:
            EnvError: the actions are of the wrong shape, or not numbers.
            DivergenceError: the model's prediction is not finite.
        """
        reward, terminated, truncated = self._batch.step(self._joint_actions(actions))
        infos: dict[str, Any] = {}
        if (ended := terminated | truncated).any():
            last = self._batch.joint()
            final = np.full(self.num_envs, None, dtype=object)
            for n in np.flatnonzero(ended):
                final[n] = {name: values[n] for name, values in last.items()}
            infos = {"final_obs": final, "_final_obs": ended.numpy()}
            self._batch.reset(ended)
        return self._batch.joint(), reward.double().numpy(), terminated.numpy(), truncated.numpy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the real environment behind it."""
        self._real.close()

    def _joint_actions(self, actions: np.ndarray) -> Tensor:
        actions = np.asarray(actions, dtype=np.float32)
        spec = self._real.spec
        expected = (self.num_envs, spec.n_agents, spec.action_dim)
        if actions.shape != expected or not np.isfinite(actions).all():
            raise EnvError(
                f"{self._real.name}, imagined: actions of shape {actions.shape} were given, "
                f"expected finite numbers of shape {expected}"
            )
        valid = torch.from_numpy(spec.action_valid)
        joint = torch.from_numpy(actions)
        if not spec.discrete:
            return joint.clamp(-1, 1) * valid
        choice = joint.masked_fill(~valid, -torch.inf).argmax(-1)
        return torch.nn.functional.one_hot(choice, spec.action_dim).float()
