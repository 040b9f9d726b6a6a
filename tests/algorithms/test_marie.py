"""MARIE as an algorithm: what the policy sees, an update per agent, learning, exact restore."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.marie import MarieConfig, MariePPO, MariePPOConfig
from dima.algorithms.model_based import ModelBased
from dima.data import EnvSpec, View
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError
from dima.experience.collector import Collector
from dima.experience.evaluation import evaluate
from dima.policies.attention_critic import AttentionCritic
from dima.policies.team_critic import TeamCritic
from dima.training.run_config import build_config
from tests.algorithms.iteration import iterate

pytestmark = pytest.mark.usefixtures("one_thread")
DEBUG = build_config("toy/walk", "marie", "debug").learner

# two iterations of learning that suffice for toy/walk
QUICK: dict[str, Any] = {
    "learn_after": 600,
    "policy_after": 0,
    "imaginations": 25,
    "imagination_batch": 64,
    "horizon": 5,
    "world_model": {
        "tokenizer": {"tokens": 2, "token_dim": 8, "codebook": 64, "dead_below": 0.1},
        "transformer": {"dim": 32, "dropout": 0.0, "reward_bins": 32, "aggregator": {"dropout": 0.0}},
        "tokenizer_fit": {"updates": 250, "batch": 64, "lr": 3e-3},
        "transformer_fit": {"updates": 200, "batch": 32, "lr": 3e-3},
    },
    "ppo": {
        "gamma": 0.8,
        "clip": 0.2,
        "epochs": 4,
        "minibatches": 2,
        "max_grad_norm": 0.5,
        "lr": 3e-3,
        "critic_lr": 3e-3,
        "value_norm_beta": 0.9,
        "actor": {"hidden": [32]},
        "critic": {"hidden": [32]},
    },
}


def environments(task: str = "toy/walk", n: int = 1, **changes: int) -> VectorEnv:
    return VectorEnv(partial(make_env, task, ToyConfig(**changes)), n)


def build(spec: EnvSpec, **changes: Any) -> ModelBased:
    torch.manual_seed(0)
    return DEBUG.override(changes).build(spec, "cpu")  # type: ignore[return-value]


def test_it_learns_to_walk_in_imagination() -> None:
    with environments(n=4) as envs, environments(n=10) as tests:
        learner, collector = build(envs.spec, **QUICK), Collector(envs, 0)
        before = evaluate(tests, partial(learner.act, mode=True), 10, 0).mean
        for _ in range(2):
            iterate(learner, collector)
        after = evaluate(tests, partial(learner.act, mode=True), 10, 0).mean
    assert after > 0.6 * before, (before, after)  # returns are negative


def test_each_agent_acts_on_its_own_reconstruction() -> None:
    with environments() as envs:
        learner = build(envs.spec)
        learner.add(Collector(envs, 0).play(learner.policy, 60))
    view = View(torch.randn(6, 2, 2), torch.randn(6, 4), torch.ones(6, 2, 1, dtype=torch.bool), torch.zeros(6, 2, 1))
    action, _ = learner.act(view, mode=True)
    seen = learner.world_model.perception.decode(learner.world_model.perception.encode(view.obs))
    expected, _ = learner.actor.act(View(seen, view.state, view.action_mask, view.previous_action), mode=True)
    assert torch.equal(action, expected)
    changed = view.clone()
    changed.obs[:, 1] = 5
    changed.state[:] = 5
    assert torch.equal(learner.act(changed, mode=True)[0][:, 0], action[:, 0])


def test_an_update_has_a_return_and_an_advantage_for_each_agent() -> None:
    with environments() as envs:
        learner = build(envs.spec)
        learner.add(Collector(envs, 0).play(learner.policy, 60))
        rollout = learner.imagine(learner.world_model.imagination_rows(learner.replay, 32))
    ppo = learner.ppo
    value = ppo.value_norm.denormalize(ppo.critic(rollout.obs.flatten(2)))
    after = ppo.value_norm.denormalize(ppo.critic(rollout.next_state))
    config, horizon, returns = ppo.config, rollout.reward.shape[1], [after[:, -1]]
    torch.testing.assert_close(after[:, :-1], value[:, 1:])
    for t in reversed(range(horizon)):
        follows = (1 - config.lam) * after[:, t] + config.lam * returns[0]
        returns.insert(0, rollout.reward[:, t, None] + config.gamma * rollout.continuation[:, t, None] * follows)
    expected = torch.stack(returns[:-1], dim=1)
    batch, metrics = ppo.prepare(rollout)
    torch.testing.assert_close(ppo.value_norm.denormalize(batch.target), expected.flatten(0, 1), atol=1e-4, rtol=1e-4)
    assert batch.advantage.shape == (32 * horizon, 2)
    assert abs(float(batch.advantage.mean())) < 1e-5
    torch.testing.assert_close(metrics["return"], expected.mean())
    ratio = (ppo.actor(batch.obs, batch.action_mask).log_prob(batch.action) - batch.log_prob).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio))  # before the first step


@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
def test_a_restored_algorithm_continues_exactly(task: str) -> None:
    changes: dict[str, Any] = {"policy_ema": 0.5, "policy_after": 0}
    with environments(task) as envs, environments(task) as others:
        learner, collector = build(envs.spec, **changes), Collector(envs, 0)
        chunks = []
        for _ in range(2):
            iterate(learner, collector)
            chunks.append(learner.replay.chunk())
        other, fresh = build(others.spec, **changes), Collector(others, 0)
        other.restore(learner.checkpoint(), chunks)
        fresh.restore(collector.checkpoint())
        state = torch.get_rng_state()
        expected = iterate(learner, collector, 0.5)
        torch.set_rng_state(state)
        got = iterate(other, fresh, 0.5)
    assert {k: float(v) for k, v in got.items()} == {k: float(v) for k, v in expected.items()}
    for name, weight in learner.state_dict().items():
        assert same(weight, other.state_dict()[name]), name


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(nan=77.0), other.nan_to_num(nan=77.0))


def test_the_transformer_and_the_policy_wait_for_the_tokenizer() -> None:
    with environments() as envs:
        learner, collector = build(envs.spec, policy_after=2, world_model={"transformer_after": 1}), Collector(envs, 0)
        found = [iterate(learner, collector) for _ in range(3)]
    names = [{name.partition("/")[0] for name in metrics} & {"tokenizer", "transformer", "policy"} for metrics in found]
    assert names == [{"tokenizer"}, {"tokenizer", "transformer"}, {"tokenizer", "transformer", "policy"}]


def test_critics_by_recipe() -> None:
    spec = EnvSpec(("a", "b"), 4, (3, 3), (2, 2), discrete=True)
    learner: MarieConfig = build_config("toy/switches", "marie", "published").learner  # type: ignore[assignment]
    assert isinstance(MariePPO(learner.ppo, spec).critic, AttentionCritic)
    plain = MariePPOConfig().override({"critic": {"norm": False}, "critic_decay": True, "weight_decay": 1e-5})
    ppo = MariePPO(plain, spec)
    assert isinstance(ppo.critic, TeamCritic)
    decays = [
        group["weight_decay"] for one in (ppo.actor_optimizer, ppo.critic_optimizer) for group in one.param_groups
    ]
    assert decays == [1e-5, 1e-5]


def test_real_steps_in_the_critic_s_loss_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^replay_value = 0\.5 is not for marie"):
        DEBUG.override({"replay_value": 0.5})
