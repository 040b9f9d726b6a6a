"""Train Stable-Baselines3's PPO inside a world model of dima, then evaluate it in the real task.

    pip install stable-baselines3
    python examples/train_in_imagination.py

Random episodes of ``toy/walk`` (two agents walk to their targets) are recorded, a small world model is fitted to them,
and Stable-Baselines3 trains one policy, shared by both agents, on a batch of imagined teams. Between the recording and
the final evaluation nothing is played in the real task. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dima
from dima.data import View
from dima.envs.vector import VectorEnv
from dima.experience.episodes import random_policy
from dima.experience.evaluation import evaluate
from dima.world_models.env import ImaginedVectorEnv

try:
    from gymnasium import spaces
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    sys.exit("this example trains with Stable-Baselines3: pip install stable-baselines3")

TASK = "toy/walk"


class SharedPolicy(VecEnv):
    """Every agent of every imagined team as one environment of Stable-Baselines3.

    n teams of N agents are n * N environments in that order; each is paid the team's reward. Fits continuous actions,
    and observations that identify the agent where that matters.
    """

    def __init__(self, teams: ImaginedVectorEnv) -> None:
        self.teams = teams
        _, self.n_agents, features = teams.observation_space["obs"].shape
        observed = spaces.Box(-np.inf, np.inf, (features,), np.float32)
        done = spaces.Box(-1, 1, teams.single_action_space.shape[1:], np.float32)
        super().__init__(teams.num_envs * self.n_agents, observed, done)

    def reset(self) -> np.ndarray:
        return self._each(self.teams.reset()[0]["obs"])

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions.reshape(self.teams.action_space.shape)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        now, reward, terminated, truncated, team_infos = self.teams.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for team in np.flatnonzero(terminated | truncated):
            for agent, seen in enumerate(team_infos["final_obs"][team]["obs"]):
                info = {"terminal_observation": seen, "TimeLimit.truncated": bool(truncated[team])}
                infos[team * self.n_agents + agent] = info
        per_agent = (np.repeat(column, self.n_agents) for column in (reward.astype(np.float32), terminated | truncated))
        return self._each(now["obs"]), *per_agent, infos

    def _each(self, obs: np.ndarray) -> np.ndarray:
        return obs.reshape(self.num_envs, -1)

    def close(self) -> None:
        self.teams.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.teams, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.teams, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self.teams, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def fitted(folder: Path, iterations: int) -> dima.Agent:
    """A world model of the task, out of 3,000 random steps."""
    recording = dima.record_config(TASK).override({"out": str(folder / "data"), "steps": 3000, "device": "cpu"})
    dima.record(recording)
    fits = {f"{part}_fit": {"updates": 50, "batch": 64, "lr": 2e-3} for part in ("denoiser", "decoder", "reward")}
    denoiser = {"reveal": "all", "action_path": "condition+input", "context": 1}
    learner = {"world_model": {**fits, "denoiser": denoiser, "reward": {"dropout": 0.0}}}
    changes = {
        "iterations": iterations,
        "run": str(folder / "run"),
        "device": "cpu",
        "threads": 1,
        "tensorboard": False,
    }
    config = dima.fit_config(folder / "data", preset="debug", overrides=changes | {"learner": learner})
    print(dima.fit(config).table())
    return dima.load(folder / "run", device="cpu")


def main(iterations: int = 10, steps: int = 40_000) -> tuple[float, float]:
    """Fit, train and test; mean team returns of random actions and of the policy in the real task."""
    torch.set_num_threads(1)  # small networks are fastest so
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        agent = fitted(Path(folder), iterations)
        teams = SharedPolicy(agent.as_vector_env(32, horizon=12, seed=0))
        ppo = PPO("MlpPolicy", teams, n_steps=16, batch_size=256, n_epochs=4, gamma=0.9, seed=0, device="cpu")
        ppo.learn(steps)

    def act(view: View) -> tuple[torch.Tensor, torch.Tensor]:
        action, _ = ppo.predict(view.obs.flatten(0, 1).numpy(), deterministic=True)
        return torch.from_numpy(action).reshape(view.action_mask.shape), torch.zeros(view.obs.shape[:2])

    with VectorEnv(lambda: dima.make_env(TASK), 10) as envs:
        before = evaluate(envs, random_policy(envs.spec), 20, seed=1).mean
        after = evaluate(envs, act, 20, seed=1).mean
    print(f"\nreal {TASK}, mean team return of 20 episodes: random {before:.1f}, learnt in imagination {after:.1f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10, help="iterations of fitting the world model")
    parser.add_argument("--steps", type=int, default=40_000, help="imagined steps, counted for every agent")
    main(**vars(parser.parse_args()))
