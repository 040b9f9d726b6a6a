"""The preset ``published`` has HARL's settings: tuned ones, the nearest, or the base config."""

from __future__ import annotations

from typing import Any

import pytest

from dima.algorithms.happo import HappoConfig
from dima.algorithms.hasac import HasacConfig
from dima.algorithms.mappo import MappoConfig
from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import HUBER_DELTA
from dima.envs import all_tasks
from dima.training.run_config import build_config
from tests.parity.harl import HARL, cases, ppo_config

OWN = {info.name for info in all_tasks()}


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in HARL["tuned"] if case["task"] in OWN])
def test_published_presets_are_harl_s_tuned_settings(case: dict[str, Any]) -> None:
    config = build_config(case["task"], case["algorithm"], "published")
    learner = config.learner
    assert (config.steps, config.envs) == (case["num_env_steps"], case["n_rollout_threads"])
    if isinstance(learner, HasacConfig):
        assert learner == HasacConfig(
            hidden=tuple(case["hidden_sizes"]),
            capacity=case["buffer_size"],
            warmup=case["warmup_steps"],
            interval=case["train_interval"],
            updates=case["update_per_train"],
            batch=case["batch_size"],
            n_step=case["n_step"],
            gamma=case["gamma"],
            tau=case["polyak"],
            lr=case["lr"],
            critic_lr=case["critic_lr"],
            alpha=None if case["auto_alpha"] else case["alpha"],
            alpha_lr=case["alpha_lr"],
            choice_entropy=0.0 if case["task"].startswith("mpe/") else 0.98,
        )
        assert not (case["use_huber_loss"] or case["use_valuenorm"] or case["share_param"])
        return
    assert isinstance(learner, OnPolicyConfig)
    same_sizes = case["task"] != "mpe/simple_speaker_listener"  # in HARL other agents cannot share a network
    assert case["share_param"] == (isinstance(learner, MappoConfig) and same_sizes)
    assert learner.rollout == case["episode_length"]
    assert case["huber_delta"] == HUBER_DELTA
    assert learner.ppo == ppo_config(case)


@cases("base")
@pytest.mark.parametrize("task", ["my.package:make", "pettingzoo/my.package:parallel_env", "toy/walk"])
def test_published_is_harl_s_base_config_on_other_tasks(task: str, case: dict[str, Any]) -> None:
    config = build_config(task, case["algorithm"], "published")
    assert (config.preset, config.steps, config.envs) == ("published", case["num_env_steps"], case["n_rollout_threads"])
    rollout_steps = case["n_rollout_threads"] * case["episode_length"]
    assert config.evaluate_every == case["eval_interval"] * rollout_steps
    assert config.evaluation_episodes == case["eval_episodes"]
    learner = config.learner
    assert isinstance(learner, OnPolicyConfig)
    assert case["share_param"] == isinstance(learner, MappoConfig)
    assert learner.rollout == case["episode_length"]
    assert case["huber_delta"] == HUBER_DELTA
    assert learner.ppo == ppo_config(case)
    if isinstance(learner, HappoConfig):
        assert learner.fixed_order == case["fixed_order"]


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "hasac"])
def test_untuned_tasks_have_the_nearest_recipe(algorithm: str) -> None:
    nearest = {"ant-2x4": "ant-4x2", "halfcheetah-3x2": "halfcheetah-2x3", "halfcheetah-6x1": "halfcheetah-2x3"}
    nearest |= {"walker2d-3x2": "walker2d-2x3"}
    tuned = {case["task"] for case in HARL["tuned"] if case["algorithm"] == algorithm}
    for task, other in nearest.items():
        if f"mamujoco/{task}" not in tuned:
            ours = build_config(f"mamujoco/{task}", algorithm, "published")
            assert ours == build_config(f"mamujoco/{other}", algorithm, "published").override({"task": ours.task})
