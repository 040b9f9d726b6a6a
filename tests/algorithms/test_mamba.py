"""MAMBA as a run: it learns, remembers the episode it plays in, and every command works on its folder."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dima
from dima.agent import Agent
from dima.algorithms.mamba import MambaConfig
from dima.data import EnvSpec, View
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector
from dima.experience.episodes import play
from dima.experience.evaluation import evaluate
from dima.nn.one_hot import OneHotLinear
from dima.recording.record import record
from dima.training.offline import fit, fit_config
from dima.training.online import train
from dima.training.run_config import build_config
from dima.world_models.mamba.model import MambaModelConfig
from tests.algorithms.iteration import iterate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Of a run with two iterations."""
    folder = tmp_path_factory.mktemp("mamba") / "run"
    fixed = {"run": str(folder), "device": "cpu", "threads": 1, "tensorboard": False, "steps": 180}
    train(build_config("toy/walk", "mamba", "debug", fixed | {"env": {"episode_limit": 12}}))
    return dima.load(folder, "cpu")


def walked(agent: Agent, seed: int, interrupt: bool = False) -> list[np.ndarray]:
    """Actions of an episode that a user plays."""
    env, actions = agent.env.parallel_env, []
    observations, infos = env.reset(seed=seed)
    agent.reset()
    while env.agents:
        if interrupt:
            agent.evaluate(1)
        chosen = agent.act(observations, infos)
        observations, _, _, _, infos = env.step(chosen)
        actions.append(np.stack([chosen[name] for name in env.possible_agents]))
    return actions


def test_an_agent_remembers_its_episode_as_an_evaluation_does(agent: Agent) -> None:
    make = partial(make_env, "toy/walk", ToyConfig(episode_limit=12))
    with VectorEnv(make, 2) as envs:
        episodes = play(envs, partial(agent.algorithm.act, mode=True), [3, 4, 5])
    for seed, episode in zip((3, 4, 5), episodes, strict=True):
        np.testing.assert_allclose(np.stack(walked(agent, seed)), episode.action.clamp(-1, 1).numpy(), atol=1e-5)


def test_what_else_an_agent_does_leaves_its_memory_alone(agent: Agent) -> None:
    expected = walked(agent, 3)
    np.testing.assert_array_equal(walked(agent, 3, interrupt=True), expected)


def test_memory_matters_and_a_reset_forgets(agent: Agent) -> None:
    env = agent.env.parallel_env
    observations, infos = env.reset(seed=3)

    def act() -> Tensor:
        return torch.from_numpy(np.stack([*agent.act(observations, infos).values()]))

    agent.reset()
    first, second = act(), act()
    assert not torch.equal(first, second)
    agent.reset()
    assert torch.equal(act(), first)


def test_earlier_policies_bring_their_own_filter(agent: Agent) -> None:
    (steps,) = list(agent.earlier)[:1]
    names = {name.split(".")[2] for name in agent.earlier[steps] if name.startswith("perception.filter")}
    assert names == {"encoder", "transition", "posterior"}
    view = View(
        torch.ones(1, 2, 2), torch.ones(1, 4), torch.ones(1, 2, 1).bool(), torch.zeros(1, 2, 1), torch.ones(1).bool()
    )
    then, now = agent.earlier_policies()[steps](view, mode=True)[0], agent.algorithm.act(view, mode=True)[0]
    assert not torch.equal(then, now)


def test_the_state_is_read_from_imagined_observations(agent: Agent) -> None:
    env = agent.as_env(seed=0, horizon=4)
    names = env.possible_agents
    for _ in range(3):
        env.reset()
        observations, *_ = env.step({name: np.zeros(1, np.float32) for name in names})
        positions = [observations[name][0] for name in names]
        targets = [observations[name][1] for name in names]
        np.testing.assert_allclose(env.state(), [*positions, *targets], atol=1e-5)


def test_a_world_model_is_fitted_to_a_dataset(recording, tmp_path) -> None:
    record(recording(steps=200))
    config = fit_config(
        tmp_path / "data", "mamba", "debug", {"run": str(tmp_path / "fit"), "iterations": 2, "threads": 1}
    )
    found = fit(config.override({"evaluation_horizon": 5, "device": "cpu", "tensorboard": False}))
    assert found.finished and all(np.isfinite(score) for _, score in found.evaluations)


def test_agents_that_leave_are_remembered_as_in_an_evaluation(tiny) -> None:
    """Who has left observes zeros and acts none; a model of observations does not know who will leave."""
    config = tiny(
        "toy/crossfire", "mamba", steps=160, evaluation_episodes=2, env={"n_agents": 3}, learner={"learn_after": 80}
    )
    agent = dima.load(train(config).folder, "cpu")
    with VectorEnv(partial(make_env, "toy/crossfire", config.env), 2) as envs:
        episodes = play(envs, partial(agent.algorithm.act, mode=True), range(8))
        left = [bool((envs.spec.alive(one.state)[:-1] == 0).any()) for one in episodes]
    assert any(left)
    env = agent.env.parallel_env
    for seed, episode in enumerate(episodes):
        observations, infos = env.reset(seed=seed)
        agent.reset()
        for step in range(len(episode)):
            there = list(env.agents)
            chosen = agent.act({name: observations[name] for name in there}, infos)
            played = agent.env.encode_actions(chosen, there)
            np.testing.assert_allclose(played, episode.action[step].clamp(-1, 1).numpy(), atol=1e-5)
            observations, _, _, _, infos = env.step(chosen)
    agent.as_env(seed=0, horizon=3).reset()


# two iterations of learning that suffice for toy/walk
QUICK: dict[str, Any] = {
    "learn_after": 600,
    "imaginations": 25,
    "imagination_batch": 16,
    "horizon": 5,
    "world_model": {
        "hidden": 32,
        "deterministic": 32,
        "categoricals": 8,
        "classes": 8,
        "dropout": 0.0,
        "dynamics_fit": {"updates": 200, "batch": 32, "lr": 3e-3},
    },
    "ppo": {
        "gamma": 0.8,
        "epochs": 4,
        "minibatches": 2,
        "minibatch_rows": 0,
        "max_grad_norm": 0.5,
        "lr": 3e-3,
        "critic_lr": 3e-3,
        "value_norm_beta": 0.9,
        "actor": {"hidden": [32], "norm": True},
        "critic": {"width": 32},
    },
}


@pytest.mark.parametrize(("task", "factor"), [("toy/walk", 0.6), ("toy/switches", 0.3)])  # continuous, discrete
def test_it_learns_in_imagination(task: str, factor: float) -> None:
    make = partial(make_env, task, ToyConfig())
    with VectorEnv(make, 4) as envs, VectorEnv(make, 10) as tests:
        torch.manual_seed(0)
        learner = build_config(task, "mamba", "debug").learner.override(QUICK).build(envs.spec, "cpu")  # type: ignore[attr-defined]
        collector = Collector(envs, 0)
        before = evaluate(tests, learner.act, 20, 0).mean
        for _ in range(2):
            iterate(learner, collector)
        after = evaluate(tests, learner.act, 20, 0).mean
    assert after > factor * before, (before, after)  # returns of random policies are negative


def test_first_layers_of_actor_and_critic_read_choices_and_are_trained():
    names = ("agent_0", "agent_1")
    spec = EnvSpec(names, 4, (4, 4), (3, 3), discrete=True)
    config = MambaConfig(world_model=MambaModelConfig(categoricals=2, classes=3, deterministic=4, hidden=8))
    ppo = config.build_ppo(config.world_model.build(spec).policy_spec)
    for layer, optimizer in ((ppo.actor.net[0], ppo.actor_optimizer), (ppo.critic.embed, ppo.critic_optimizer)):
        assert isinstance(layer, OneHotLinear)
        assert any(weight is layer.weight for group in optimizer.param_groups for weight in group["params"])
