"""Evaluation: the policy's mode, seeds of its own, no effect on training."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from dima.data import View
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.toy import ToyConfig, Walk
from dima.envs.vector import VectorEnv
from dima.experience.episodes import play_measured
from dima.experience.evaluation import Evaluation, evaluate
from dima.storage.run_folder import RunFolder
from dima.training.online import train

pytestmark = pytest.mark.usefixtures("one_thread")


def environments(n: int) -> VectorEnv:
    return VectorEnv(partial(make_env, "toy/walk", ToyConfig(episode_limit=12)), n)


def to_target(view: View) -> tuple[Tensor, Tensor]:
    action = (5 * (view.obs[..., 1:] - view.obs[..., :1])).clamp(-1, 1)
    return action, action.sum(-1)


def still(view: View) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(view.previous_action), view.obs.sum(-1)


def test_the_number_of_environments_does_not_matter() -> None:
    with environments(1) as one, environments(4) as four:
        assert evaluate(one, to_target, 6, seed=0) == evaluate(four, to_target, 6, seed=0)


def test_policies_meet_the_same_episodes() -> None:
    """Standing still costs the first distance at every step, so its return identifies the episode."""
    with environments(2) as envs:
        good, bad, again = (evaluate(envs, act, 5, seed=3) for act in (to_target, still, still))
        other = evaluate(envs, still, 5, seed=4)
    assert bad == again
    assert len(set(bad.returns)) == 5
    assert not set(bad.returns) & set(other.returns)
    assert all(g > b for g, b in zip(good.returns, bad.returns, strict=True))
    assert good.lengths == (12,) * 5


def test_an_evaluation_says_mean_and_spread() -> None:
    result = Evaluation(returns=(1.0, 2.0, 6.0), lengths=(1, 1, 1))
    assert result.mean == pytest.approx(3.0)
    assert result.std == pytest.approx(np.std([1.0, 2.0, 6.0]))


class Graded(Walk):
    """Says in its infos how an episode went."""

    episode_metrics = ("success", "late")

    def step(self, actions):
        *rest, infos = super().step(actions)
        infos = {agent: {"success": not self.agents, "late": float(i), "unasked": 7} for i, agent in enumerate(infos)}
        return *rest, infos


def graded(n: int, processes: bool = False) -> VectorEnv:
    return VectorEnv(lambda: JointEnv(Graded(ToyConfig(episode_limit=12)), name="graded"), n, processes)


@pytest.mark.parametrize("processes", [False, True])
def test_metrics_of_the_environment_are_read_at_the_end(processes: bool) -> None:
    with graded(2, processes) as envs:
        assert envs.spec.episode_metrics == ("success", "late")
        result = evaluate(envs, still, 5, seed=0)
    agents = len(envs.spec.agents)
    assert result.metrics == {"success": (1.0,) * 5, "late": ((agents - 1) / 2,) * 5}  # mean over agents
    assert result.means == {"success": 1.0, "late": (agents - 1) / 2}
    with environments(2) as plain:
        assert evaluate(plain, still, 2, seed=0).metrics == {}


def test_metrics_of_an_episode_that_a_limit_cut_are_unknown() -> None:
    with graded(2) as envs:
        cut = play_measured(envs, still, [0, 2], limit=5)
    assert [(len(episode), metrics) for episode, metrics in cut] == [(5, ()), (5, ())]


@pytest.mark.parametrize("algorithm", ["dima", "mappo"])
def test_evaluating_more_often_does_not_change_training(tiny, algorithm: str) -> None:
    configs = [
        tiny(algorithm=algorithm, run="often", evaluate_every=1, evaluation_episodes=3, steps=240),
        tiny(algorithm=algorithm, run="seldom", evaluate_every=1_000, evaluation_episodes=1, steps=240),
    ]
    assert len(train(configs[0]).evaluations) > len(train(configs[1]).evaluations) == 1
    weights = []
    for config in configs:
        with RunFolder.open(config.folder) as folder:
            weights.append(folder.load().tree["algorithm"]["ppo"]["networks"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
