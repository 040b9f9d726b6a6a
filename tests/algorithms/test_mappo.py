"""MAPPO in the real environment: it learns, rollouts continue across updates, checkpoints are exact."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from dima import build_config
from dima.algorithms.mappo import MappoConfig
from dima.algorithms.ppo import PPO, Batch, PPOConfig
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector
from dima.experience.evaluation import evaluate
from dima.policies.actors import ActorConfig
from dima.policies.critics import CriticConfig
from dima.runtime.progress import Progress
from dima.training.online import Trainer
from tests.algorithms.iteration import iterate

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = MappoConfig(
    rollout=30,
    ppo=PPOConfig(
        actor=ActorConfig(hidden=(32,)),
        critic=CriticConfig(hidden=(32,), previous_action=False),
        gamma=0.8,
        clip=0.2,
        epochs=8,
        minibatches=2,
        max_grad_norm=0.5,
        lr=3e-3,
        critic_lr=3e-3,
        value_norm_beta=0.9,
    ),
)


def environments(task: str, n: int, **changes: int) -> VectorEnv:
    return VectorEnv(partial(make_env, task, ToyConfig(**changes)), n)


@pytest.mark.parametrize(
    ("task", "distribution", "iterations", "better"),
    [
        # untrained teams lose 9 to 15 on walk; a perfect one loses 1 to 2
        ("toy/walk", "gaussian", 10, lambda before, after: after > 0.5 * before),
        ("toy/walk", "beta", 10, lambda before, after: after > 0.5 * before),
        # untrained teams wait (-3) or undo each other's work; the switches can be on after 1.5 steps on average
        ("toy/switches", "gaussian", 10, lambda before, after: after > 0.5),
    ],
)
def test_it_learns(task: str, distribution: str, iterations: int, better) -> None:
    torch.manual_seed(0)
    with environments(task, 10) as envs, environments(task, 10) as test_envs:
        config = QUICK.override({"ppo": {"actor": {"distribution": distribution}}})
        mappo = config.build(envs.spec, "cpu")
        act = partial(mappo.act, mode=True)
        before = evaluate(test_envs, act, 10, seed=0).mean
        collector = Collector(envs, seed=0)
        for _ in range(iterations):
            iterate(mappo, collector)
        after = evaluate(test_envs, act, 10, seed=0).mean
    assert better(before, after), (before, after)


def test_rollouts_continue_unfinished_episodes() -> None:
    torch.manual_seed(0)
    with environments("toy/walk", 2, episode_limit=50) as envs:
        collector, mappo = Collector(envs, seed=0), QUICK.build(envs.spec, "cpu")
        first = iterate(mappo, collector)
        assert "collect/return" not in first  # no episode has ended
        second = iterate(mappo, collector)
        assert second["collect/return"] < 0
        assert (collector.steps, collector.episodes) == (120, 4)


def test_normalisers_count_each_real_step_once() -> None:
    torch.manual_seed(0)
    with environments("toy/walk", 2) as envs:
        config = QUICK.override({"ppo": {"actor": {"normalize_obs": True}}})
        mappo = config.build(envs.spec, "cpu")
        iterate(mappo, Collector(envs, seed=0))
    assert mappo.ppo.actor.obs_scale is not None
    assert mappo.ppo.actor.obs_scale.count == mappo.ppo.critic.state_scale.count == 60


def test_the_learning_rate_decays_over_the_run() -> None:
    torch.manual_seed(0)
    with environments("toy/walk", 2) as envs:
        mappo = QUICK.override({"ppo": {"linear_lr_decay": True}}).build(envs.spec, "cpu")
        iterate(mappo, Collector(envs, seed=0), 0.75)
    assert mappo.ppo.actor_optimizer.param_groups[0]["lr"] == pytest.approx(3e-3 / 4)


def test_learning_rates_of_k_iterations_decay_from_1_to_1_over_k(monkeypatch) -> None:
    rates: list[float] = []
    run_epochs = PPO.run_epochs

    def record(ppo: PPO, batch: Batch, workers: int, replayed: None) -> dict[str, Tensor]:
        rates.append(ppo.critic_optimizer.param_groups[0]["lr"])
        return run_epochs(ppo, batch, workers, replayed)

    monkeypatch.setattr(PPO, "run_epochs", record)
    changes = {"steps": 4 * 60, "envs": 2, "evaluate_every": 1_000, "evaluation_episodes": 1}
    learner = {"rollout": 30, "ppo": {"linear_lr_decay": True, "critic_lr": 4e-3}}
    config = build_config("toy/walk", "mappo", "debug", changes | {"learner": learner})
    with Trainer(config, torch.device("cpu"), Progress()) as trainer:
        while trainer.step < trainer.target:
            trainer.learn()
    assert rates == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3])


def test_a_restored_algorithm_continues_exactly() -> None:
    torch.manual_seed(0)
    with environments("toy/switches", 2) as envs, environments("toy/switches", 2) as others:
        mappo, other = QUICK.build(envs.spec, "cpu"), QUICK.build(envs.spec, "cpu")
        collector, fresh = Collector(envs, seed=0), Collector(others, seed=0)
        iterate(mappo, collector)
        other.restore(mappo.checkpoint(), [])
        fresh.restore(collector.checkpoint())
        state = torch.get_rng_state()
        expected = iterate(mappo, collector, 0.5)
        torch.set_rng_state(state)
        got = iterate(other, fresh, 0.5)
    assert {k: float(v) for k, v in got.items()} == {k: float(v) for k, v in expected.items()}
    for name, weight in mappo.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
