"""Untrained learners of a task's true sizes with random experience, in the library's form and in the plain one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed.plain.model import PlainModel
from dima.algorithms.model_based import ModelBased, ModelBasedConfig
from dima.algorithms.ppo import PPO
from dima.data import EnvSpec, Episode, View
from dima.envs import make_env
from dima.experience.replay import Replay
from dima.training.run_config import TrainConfig
from dima.world_models.dima.model import DimaWorldModel

EPISODES, STEPS = 8, 1_000  # of random data in the replay

# the published sizes, re-created and measured by others on 2 CPU cores: TFLOP and seconds of one iteration
REFERENCE = {
    task: dict(zip(("denoiser", "reward", "imagination", "iteration", "seconds"), numbers, strict=True))
    for task, numbers in {
        "mamujoco/halfcheetah-2x3": (0.434, 0.190, 27.5, 263, 2547),
        "mamujoco/halfcheetah-6x1": (0.436, 0.339, 41.4, 363, 4128),
        "mamujoco/ant-4x2": (0.435, 0.265, 27.6, 279, 2914),
    }.items()
}


@dataclass
class PlainLearner:
    """What the benchmark needs of a learner, with the plain path for a world model."""

    config: ModelBasedConfig
    world_model: PlainModel
    ppo: PPO
    replay: Replay

    def act(self, view: View) -> tuple[Tensor, Tensor]:
        return self.ppo.act(view.obs, view.action_mask)


Learner = ModelBased | PlainLearner


def small_replay(config: TrainConfig) -> TrainConfig:
    """The same run with a replay that random experience fills."""
    return config.override({"learner": {"replay": {"capacity": EPISODES * STEPS}}})


def build(config: TrainConfig, device: str = "cpu") -> ModelBased:
    """The learner of a run, untrained, with random experience of the task's sizes in its replay."""
    assert isinstance(config.learner, ModelBasedConfig)
    env = make_env(config.task, config.env)
    env.close()
    learner = small_replay(config).learner.build(env.spec, device)  # type: ignore[attr-defined]
    fill(learner)
    return learner


def fill(learner: ModelBased) -> None:
    """Let a learner take in random experience."""
    learner.add([random_episode(learner.spec) for _ in range(EPISODES)])


def plain(learner: ModelBased) -> PlainLearner:
    """The same networks, weights and experience on the plain path."""
    assert isinstance(learner.world_model, DimaWorldModel)
    return PlainLearner(learner.config, PlainModel(learner.world_model), deepcopy(learner.ppo), learner.replay)


def random_episode(spec: EnvSpec, steps: int = STEPS) -> Episode:
    """Noise in the shape of an episode."""
    valid = torch.from_numpy(spec.action_valid)
    action = torch.rand(steps, spec.n_agents, spec.action_dim) * valid
    if spec.discrete:
        action = torch.nn.functional.one_hot(action.argmax(-1), spec.action_dim).float()
    end = torch.arange(steps) == steps - 1
    return Episode(
        obs=torch.randn(steps + 1, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid),
        state=torch.randn(steps + 1, spec.state_dim),
        action_mask=valid.expand(steps + 1, -1, -1),
        action=action,
        reward=torch.randn(steps),
        terminated=torch.zeros_like(end),
        truncated=end,
    )
