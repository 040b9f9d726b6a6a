"""Fresh and stored episodes, and the scales of their features."""

from __future__ import annotations

from functools import partial

import torch

from dima.analysis.diagnose.episodes import feature_scales, play_fresh, replay_episodes, reservoir_sample
from dima.data import EnvSpec
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.experience.episodes import random_policy
from dima.experience.replay import Replay, ReplayConfig
from tests.analysis.diagnose.worlds import numbered_episode


def test_fresh_episodes_are_reproducible_and_all_different() -> None:
    make = partial(make_env, "toy/walk", ToyConfig())
    policies = {"one": random_policy(make().spec), "two": random_policy(make().spec)}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = play_fresh(make, policies, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [source.name for source in (one, two)] == ["one", "two"]
    assert len({*one.seeds, *two.seeds}) == 6
    assert all(seed % 2 for seed in one.seeds)  # training's are even
    again = play_fresh(make, policies, 3, seed=0)[1]
    assert all(torch.equal(a.state, b.state) for a, b in zip(two.episodes, again.episodes, strict=True))
    other = play_fresh(make, policies, 3, seed=1)[0]
    assert not set(other.seeds) & {*one.seeds, *two.seeds}


def test_stored_episodes_come_back_as_they_were(spec: EnvSpec) -> None:
    replay = Replay(ReplayConfig(capacity=500), spec, "cpu")
    chunks = []
    for numbers in ((1, 2), (3,)):
        for number in numbers:
            replay.add(numbered_episode(5 + number, number == 2, number))
        chunks.append(replay.chunk())
    found = list(replay_episodes(iter(chunks)))
    assert [len(e) for e in found] == [6, 7, 8]
    assert [bool(e.terminated[-1]) for e in found] == [False, True, False]
    assert torch.equal(found[1].state[:, 0], 200 + torch.arange(8.0))
    assert torch.equal(found[2].action[:, 0, 0], 300 + torch.arange(8.0))
    firsts = [int(reservoir_sample(replay_episodes(iter(chunks)), 1, seed)[0].state[0, 0]) // 100 for seed in range(60)]
    assert all(firsts.count(number) >= 10 for number in (1, 2, 3))  # each as likely


def test_units_are_the_data_s_and_constants_have_none() -> None:
    env = make_env("toy/uneven", ToyConfig(n_agents=3))
    episodes = play_fresh(partial(make_env, "toy/uneven", ToyConfig(n_agents=3)), {"a": random_policy(env.spec)}, 4, 0)[
        0
    ].episodes
    scales = feature_scales(env, episodes)
    states = torch.cat([e.state for e in episodes])
    torch.testing.assert_close(scales.state_scale, states.std(0, correction=0), rtol=1e-4, atol=1e-5)
    assert scales.groups == {"agent_0": [0, 1], "agent_1": [2, 3, 4, 5, 6], "agent_2": [7, 8, 9]}
    assert torch.equal(scales.obs_varies, scales.obs_valid)
    assert (scales.obs_scale[~scales.obs_valid] == 1).all()
