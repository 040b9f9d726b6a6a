"""Learning in imagination: schedule, separation of policy and world model, learning, exact restore."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.model_based import ModelBased
from dima.data import EnvSpec, Episode, View
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError
from dima.experience.collector import Collector, play
from dima.experience.evaluation import evaluate
from dima.experience.replay import Rows
from dima.runtime.progress import Progress
from dima.storage.serialization import encode
from dima.training.run_config import build_config
from dima.world_models.base import Objective, Step, WorldModel
from tests.algorithms.iteration import iterate

pytestmark = pytest.mark.usefixtures("one_thread")

DEBUG = build_config("toy/walk", "dima", "debug").learner

# one iteration of learning that suffices for toy/walk
QUICK = {
    "learn_after": 600,
    "policy_after": 0,
    "imaginations": 20,
    "imagination_batch": 64,
    "horizon": 8,
    "world_model": {
        "denoiser": {
            "context": 1,
            "rollout": 1,
            "reveal": "cumulative",
            "action_path": "condition+input",
            "channels": [32],
        },
        "sampler": {"levels_per_agent": 1},
        "decoder": {"bottleneck": "none"},
        "reward": {"segment": 8, "dropout": 0.0, "normalize_reward": True},
        "denoiser_fit": {"updates": 120, "batch": 64, "lr": 3e-3, "warmup": 0},
        "decoder_fit": {"updates": 60, "batch": 64, "lr": 3e-3},
        "reward_fit": {"updates": 80, "batch": 32, "lr": 3e-3},
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


def build(envs: VectorEnv, **changes: Any) -> ModelBased:
    torch.manual_seed(0)
    return DEBUG.override(changes).build(envs.spec, "cpu")


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def moved(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_dima_learns_to_walk_in_its_imagination(seed: int) -> None:
    """From 600 random steps only; a team that stands still loses 10 to 20, a perfect one 1 to 2."""
    with environments(n=10) as envs, environments(n=10) as test_envs:
        torch.manual_seed(seed)
        dima = DEBUG.override(QUICK).build(envs.spec, "cpu")
        act = partial(dima.act, mode=True)
        before = evaluate(test_envs, act, 10, seed).mean
        metrics = iterate(dima, Collector(envs, seed))
        after = evaluate(test_envs, act, 10, seed).mean
    assert after > 0.6 * before, (before, after, metrics)


def test_learns_after_the_first_experience_then_every_iteration_steps() -> None:
    with environments() as envs:  # episodes of 30 steps
        dima, collector = build(envs, learn_after=100, iteration_steps=40, imaginations=1), Collector(envs, 0)
        steps = []
        for _ in range(3):
            iterate(dima, collector)
            steps.append(collector.steps)
    assert steps == [120, 180, 240]
    assert dima.replay.steps == 240


def test_collected_episodes_may_be_truncated() -> None:
    with environments() as envs:  # episodes of 30 steps
        dima, collector = build(envs, iteration_steps=40, episode_steps=20, learn_after=1), Collector(envs, 0)
        metrics = iterate(dima, collector)
    assert collector.steps == 40 and metrics["collect/length"] == 20
    assert not dima.replay.store["terminated"].any()
    assert int(dima.replay.store["truncated"].sum()) == 2


def test_the_policy_is_updated_after_the_iterations_of_the_world_model_alone() -> None:
    with environments() as envs:
        dima, collector = build(envs, policy_after=2), Collector(envs, 0)
        actor, world = weights(dima.ppo), weights(dima.world_model)
        for _ in range(2):
            metrics = iterate(dima, collector)
            assert not moved(dima.ppo, actor)
            assert not any("policy_loss" in name for name in metrics)
        assert moved(dima.world_model, world)
        metrics = iterate(dima, collector)
    assert moved(dima.ppo.actor, {name[6:]: value for name, value in actor.items() if name.startswith("actor.")})
    assert any("policy_loss" in name for name in metrics)


class KnownModel(WorldModel[Tensor]):
    """Predicts a reward of 2 and terminates with probability 0.1, whatever happens."""

    context = 2

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec

    def update_statistics(self, episodes: Sequence[Episode]) -> None: ...

    def objectives(self) -> dict[str, Objective]:
        return {}

    def start(self, rows: Rows) -> Tensor:
        return rows.state[:, -1]

    def observe(self, latent: Tensor) -> View:
        agents, batch = self.spec.n_agents, len(latent)
        mask = torch.from_numpy(self.spec.action_valid).expand(batch, -1, -1)
        return View(latent.new_zeros(batch, agents, self.spec.obs_dim), latent, mask, mask.float())

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        return Step(latent, latent.new_full((len(latent),), 2.0), latent.new_full((len(latent),), 0.9))


@pytest.mark.parametrize("terminated", [False, True])
def test_optimism_compares_imagination_with_new_real_steps(terminated: bool) -> None:
    """Of episodes shorter than the horizon, whose real part ends with them."""
    with environments() as envs:
        dima = build(envs, horizon=5)
        dima.world_model = KnownModel(envs.spec)
        episodes = play(envs, dima.act, [0, 1], limit=4)
    for n, episode in enumerate(episodes):
        episode.reward[:] = 0.5 + n
        episode.terminated[-1] = terminated
        dima.replay.add(episode)
    found = dima.optimism(4)  # of the second episode alone
    assert found["optimism/real_reward"] == 1.5
    assert found["optimism/imagined_reward"] == 2
    assert found["optimism/imagined_terminations"] == pytest.approx(0.1)
    # from the k-th of four steps the window holds the 5 - k that are left, the last of which may end the episode
    assert found["optimism/real_terminations"] == (pytest.approx(0.4, abs=0.1) if terminated else 0)


def test_replayed_steps_are_real_windows() -> None:
    with environments() as envs:
        dima = build(envs, horizon=3, imagination_batch=400, replay_value=0.5)
        episode = play(envs, dima.act, [0], limit=6)[0]
    episode.terminated[-1] = True
    dima.replay.add(episode)
    steps = dima.replayed_steps()
    known = steps.weight > 0
    assert steps.weight[known].unique().tolist() == [0.5]
    state, reward = episode.state, episode.reward
    for t in range(6):
        here = known & (steps.state == state[t]).all(-1)
        assert here.any()
        assert (steps.reward[here] == reward[t]).all()
        assert (steps.action[here] == episode.action[t]).all()
        assert (steps.next_state[here] == state[t + 1]).all()
        assert (steps.previous_action[here] == (episode.action[t - 1] if t else 0)).all()
        assert (steps.continuation[here] == (t < 5)).all()
        assert (steps.boundary[here][:, None] | torch.tensor(t < 5)).all()
    assert steps.boundary[:, -1].all()


def test_the_critic_learns_the_values_of_replayed_steps() -> None:
    with environments() as envs:
        dima = build(envs, horizon=5, imagination_batch=64, replay_value=1.0, policy_after=0)
        iterate(dima, Collector(envs, 0))
        rollout = dima.imagine(dima.replay.gather(dima.replay.recent(64), dima.world_model.context - 1, 0))
        steps = dima.replayed_steps()
        steps.reward[:] = 1000.0  # unlike anything imagined
        before = dima.ppo.critic(steps.state, steps.previous_action).mean()
        for _ in range(5):
            dima.ppo.update(rollout, replayed=steps)
        after = dima.ppo.critic(steps.state, steps.previous_action).mean()
    assert after > before + 0.1, (before, after)


def test_the_average_policy_acts_and_follows_the_one_that_learns() -> None:
    with environments() as envs:
        dima = build(envs, policy_after=0, imaginations=2, policy_ema=0.6, ppo={"actor": {"normalize_obs": True}})
        actor = dima.ppo.actor
        assert dima.policy is dima.average_actor is not actor
        expected = weights(actor)
        learn, history = dima.ppo.update, []

        def update(*arguments: Any, **options: Any) -> dict[str, Tensor]:
            metrics = learn(*arguments, **options)
            history.append(weights(actor))
            return metrics

        dima.ppo.update = update
        for _ in range(2):
            iterate(dima, Collector(envs, 0))
    for step, present in enumerate(history, start=1):
        decay = min(0.6, step / (10 + step))
        expected = {name: decay * mean + (1 - decay) * present[name] for name, mean in expected.items()}
    assert len(history) == 4
    for name, value in dima.policy.named_parameters():
        torch.testing.assert_close(value, expected[name])
    assert moved(actor, expected)
    ours, theirs = (dict(policy.named_buffers()) for policy in (dima.policy, actor))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_policy_updates_do_not_change_the_world_model() -> None:
    """Neither weights and statistics nor gradients."""
    with environments() as envs:
        dima = build(envs, policy_after=0)
        iterate(dima, Collector(envs, 0))
        dima.world_model.zero_grad(set_to_none=True)
        state = {name: value.clone() for name, value in dima.world_model.state_dict().items()}
        actor = weights(dima.ppo)
        dima.update_policy(Progress(), 0.0)
        assert moved(dima.ppo, actor)
        assert all(torch.equal(value, state[name]) for name, value in dima.world_model.state_dict().items())
        assert all(weight.grad is None for weight in dima.world_model.parameters())


def test_metrics_are_averages_over_imaginations() -> None:
    """A policy with a vanishing learning rate has the same entropy in each of them."""
    with environments() as envs:
        dima = build(envs, ppo={"lr": 1e-30, "critic_lr": 1e-30}, policy_after=0)
        iterate(dima, Collector(envs, 0))
        with torch.no_grad():
            policy = dima.ppo.actor(torch.zeros(1, 2, 2), torch.ones(1, 2, 1, dtype=torch.bool))
        metrics = dima.update_policy(Progress(), 0.0)
    assert float(metrics["policy/entropy"]) == pytest.approx(float(policy.entropy().mean()), abs=1e-5)


@pytest.mark.parametrize("task", ["toy/walk", "toy/switches"])
def test_a_restored_algorithm_continues_exactly(task: str) -> None:
    changes: dict[str, Any] = {"policy_ema": 0.5, "replay_value": 1.0, "ppo": {"survival_weights": True}}
    with environments(task) as envs, environments(task) as others:
        dima, collector = build(envs, **changes), Collector(envs, 0)
        chunks = []
        for _ in range(2):
            iterate(dima, collector)
            chunks.append(dima.replay.chunk())
        torch.manual_seed(77)
        other, fresh = DEBUG.override(changes).build(others.spec, "cpu"), Collector(others, 0)
        other.restore(dima.checkpoint(), chunks)
        fresh.restore(collector.checkpoint())
        state = torch.get_rng_state()
        expected = iterate(dima, collector, 0.5)
        torch.set_rng_state(state)
        got = iterate(other, fresh, 0.5)
    assert {k: float(v) for k, v in got.items()} == {k: float(v) for k, v in expected.items()}
    for name, weight in dima.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_restored_for_acting_it_acts_alike_with_an_empty_replay() -> None:
    with environments() as envs:
        dima = build(envs)
        iterate(dima, Collector(envs, 0))
        other = DEBUG.for_acting().build(envs.spec, "cpu")
        other.restore(dima.checkpoint(), None)
        assert other.replay.steps == 0
        one, same = (evaluate(envs, partial(a.act, mode=True), 2, 0) for a in (dima, other))
    assert one == same


def test_several_workers_learn_the_same_as_one(two_threads) -> None:
    """Fits, imagination and policy updates in parallel give the numbers of serial ones."""
    found, metrics = [], []
    changes: dict[str, Any] = {"learn_after": 60, "policy_after": 0, "world_model": {"denoiser_fit": {"ema": 0.9}}}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with environments() as envs:
            algorithm = build(envs, workers=2, **changes)
            collector, progress = Collector(envs, seed=0), Progress()
            metrics.append([iterate(algorithm, collector, progress=progress) for _ in range(2)][-1])
        found.append(algorithm)
        assert progress.seconds.keys() >= {"decoder", "denoiser", "reward", "imagine and update"}
        assert progress.lap()["updates/reward"] == 8
    (text, one), (same, two) = (encode(algorithm.checkpoint()) for algorithm in found)
    assert text == same
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert float(value) == float(metrics[1][name]), name


def test_workers_share_the_starts_of_an_imagination(two_threads) -> None:
    with environments() as envs:
        algorithm = build(envs, workers=3)
        algorithm.add(Collector(envs, seed=0).play(algorithm.policy, 60))
    start = algorithm.replay.gather(algorithm.replay.recent(7), algorithm.world_model.context - 1, 0)
    rollout = algorithm.imagine(start)
    assert rollout.reward.shape == (7, 5)
    torch.testing.assert_close(rollout.state[:, 0], start.state[:, -1])
    assert len(rollout.action[:, 0].unique(dim=0)) == 7  # all workers' draws differ


def test_a_world_model_that_cannot_be_captured_is_rolled_out_as_it_is() -> None:
    with environments() as envs:
        learner = build(envs)
        learner.add(Collector(envs, 0).play(learner.policy, 30))
    start, calls = learner.replay.gather(learner.replay.recent(4), learner.world_model.context - 1, 0), []
    learner.graph = lambda rows: calls.append(rows) or learner._imagine(rows)  # type: ignore[assignment]
    learner.imagine(start)
    assert len(calls) == 1
    learner.world_model.capturable = False
    assert len(learner.imagine(start).reward) == 4
    assert len(calls) == 1


@pytest.mark.parametrize("algorithm", ["dima", "mamba"])
def test_an_uncertainty_penalty_needs_a_model_that_can_disagree(algorithm: str) -> None:
    config = build_config("toy/walk", algorithm, "debug", {"learner": {"uncertainty_penalty": 1.0}})
    with environments() as envs, pytest.raises(ConfigError, match=r"denoisers = 2 or more or ensemble"):
        config.learner.build(envs.spec, "cpu")


def test_only_the_policy_pays_for_uncertainty() -> None:
    """Optimism compares the model's own rewards with real ones."""
    penalty = {"uncertainty_penalty": 1e5, "world_model": {"denoisers": 2}}
    with environments() as envs:
        learner = build(envs, **penalty)
        collector, progress = Collector(envs, 0), Progress()
        learner.collect(collector, progress)
        learner.fit(progress)
        found = learner.collect(collector, progress)
        rows = learner.world_model.imagination_rows(learner.replay, 64)
        lowered = learner.imagine(rows).reward.mean()
    assert lowered < found["optimism/imagined_reward"] - 1
