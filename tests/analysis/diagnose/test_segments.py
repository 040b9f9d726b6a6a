"""Segments begin and end where they should, and hold what really happened."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dima.analysis.diagnose.episodes import Source, play_fresh, some_of, stored_episodes
from dima.analysis.diagnose.segments import choose_horizon, cut
from dima.analysis.diagnose.units import measure
from dima.data import Episode
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.errors import ConfigError
from dima.experience.collector import random_policy
from dima.experience.replay import Replay, ReplayConfig


def episode(length: int, terminated: bool, number: int = 0) -> Episode:
    """Row t holds 100 number + t everywhere."""
    ends = torch.arange(length) == length - 1
    rows = 100.0 * number + torch.arange(length + 1)
    return Episode(
        obs=rows[:, None, None].expand(-1, 2, 2).clone(),
        state=rows[:, None].expand(-1, 4).clone(),
        action_mask=torch.ones(length + 1, 2, 1, dtype=torch.bool),
        action=rows[:-1, None, None].expand(-1, 2, 1).clone(),
        reward=rows[:-1].clone(),
        terminated=ends & terminated,
        truncated=ends & (not terminated),
    )


@pytest.fixture
def spec():
    return make_env("toy/walk").spec


def test_a_segment_holds_what_followed_its_start(spec) -> None:
    segments = cut([Source("a", [episode(30, False, 1)])], spec, context=3, horizon=5, count=9, seed=0)
    assert (len(segments), segments.horizon) == (9, 5)
    first = segments.start.state[:, -1, 0]
    assert len(first.unique()) == 9  # drawn without repetition
    assert torch.equal(segments.state[..., 0], first[:, None] + torch.arange(1, 6))
    assert torch.equal(segments.obs[..., 0, 0], segments.state[..., 0])
    assert torch.equal(segments.action[..., 0, 0], first[:, None] + torch.arange(5))
    assert torch.equal(segments.reward, first[:, None] + torch.arange(5))
    assert torch.equal(segments.window(2).state[:, -1], segments.state[:, 1])
    early = segments.start.valid.sum(1) < 3
    assert torch.equal(first < 102, early)


def test_a_time_limit_cuts_no_segment_but_an_end_does(spec) -> None:
    limited = cut([Source("a", [episode(12, False)])], spec, 1, 5, 100, seed=0)
    assert len(limited) == 8  # starts 0 to 7
    assert limited.alive.all() and not limited.terminated.any()
    ended = cut([Source("a", [episode(12, True)])], spec, 1, 5, 100, seed=0)
    assert len(ended) == 12
    assert ended.alive.sum().item() == 8 * 5 + 4 + 3 + 2 + 1
    last = ended.alive.sum(1) - 1
    assert torch.equal(ended.terminated.any(1), torch.arange(12) >= 7)
    assert ended.terminated[torch.arange(7, 12), last[7:]].all()


def test_every_source_and_episode_can_be_told_apart(spec) -> None:
    sources = [Source("a", [episode(9, False, 1), episode(9, False, 2)]), Source("b", [episode(9, False, 3)])]
    segments = cut(sources, spec, 1, 4, 5, seed=0)
    assert segments.source.tolist() == [0] * 5 + [1] * 5
    hundreds = (segments.start.state[:, -1, 0] // 100).long()
    assert torch.equal(hundreds == 3, segments.source == 1)
    assert all(len(hundreds[segments.episode == number].unique()) == 1 for number in segments.episode.unique())
    few = segments.spread_out(4)
    assert few.source.tolist() == [0, 0, 1, 1]
    assert len(segments.spread_out(99)) == 10


def test_a_source_too_short_for_a_segment_gives_none(spec) -> None:
    sources = [Source("long", [episode(9, False)]), Source("short", [episode(3, False)])]
    assert cut(sources, spec, 1, 5, 50, seed=0).source.unique().tolist() == [0]


def test_the_horizon_follows_the_longest_episode() -> None:
    source = Source("a", [episode(12, False), episode(30, True)])
    assert choose_horizon([source], None) == 15
    assert choose_horizon([Source("a", [episode(300, False)])], None) == 50
    assert choose_horizon([Source("a", [episode(1, True)])], None) == 1
    assert choose_horizon([source], 30) == 30
    with pytest.raises(ConfigError, match=r"horizon = 31 is longer than any episode played: choose 30 or less"):
        choose_horizon([source], 31)


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


def test_stored_episodes_come_back_as_they_were(spec) -> None:
    replay = Replay(ReplayConfig(capacity=500), spec, "cpu")
    chunks = []
    for numbers in ((1, 2), (3,)):
        for number in numbers:
            replay.add(episode(5 + number, number == 2, number))
        chunks.append(replay.chunk())
    found = list(stored_episodes(iter(chunks)))
    assert [len(e) for e in found] == [6, 7, 8]
    assert [bool(e.terminated[-1]) for e in found] == [False, True, False]
    assert torch.equal(found[1].state[:, 0], 200 + torch.arange(8.0))
    assert torch.equal(found[2].action[:, 0, 0], 300 + torch.arange(8.0))
    firsts = [int(some_of(stored_episodes(iter(chunks)), 1, seed)[0].state[0, 0]) // 100 for seed in range(60)]
    assert all(firsts.count(number) >= 10 for number in (1, 2, 3))  # each as likely


def test_units_are_the_data_s_and_constants_have_none() -> None:
    env = make_env("toy/uneven", ToyConfig(n_agents=3))
    episodes = play_fresh(partial(make_env, "toy/uneven", ToyConfig(n_agents=3)), {"a": random_policy(env.spec)}, 4, 0)[
        0
    ].episodes
    units = measure(env, episodes)
    states = torch.cat([e.state for e in episodes])
    torch.testing.assert_close(units.state_scale, states.std(0, correction=0), rtol=1e-4, atol=1e-5)
    assert units.groups == {"agent_0": [0, 1], "agent_1": [2, 3, 4, 5, 6], "agent_2": [7, 8, 9]}
    assert torch.equal(units.obs_varies, units.obs_valid)
    assert (units.obs_scale[~units.obs_valid] == 1).all()
