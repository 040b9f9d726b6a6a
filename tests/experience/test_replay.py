"""Windows stay in their episode, sampling weights, eviction, and exact rebuilding from chunks.

A row of these episodes identifies itself: its state is (episode, time), repeated in its action and reward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dima.data import EnvSpec, Episode
from dima.errors import ConfigError
from dima.experience.replay import Replay, ReplayConfig

SPEC = EnvSpec(("a", "b"), 2, (3, 2), (2, 1), discrete=False, episode_limit=10)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def episode(number: int, length: int, terminated: bool = False) -> Episode:
    time = torch.arange(length + 1.0)
    state = torch.stack([torch.full_like(time, number), time], dim=1)
    ends = torch.arange(length) == length - 1
    return Episode(
        obs=state[:, :1, None].expand(-1, 2, 3) + torch.tensor([0.0, 0.5])[:, None],
        state=state,
        action_mask=torch.ones(length + 1, 2, 2, dtype=torch.bool),
        action=(1 + time[:-1, None, None]).expand(-1, 2, 2) + 100 * number,
        reward=time[:-1] + 100 * number,
        terminated=ends & terminated,
        truncated=ends & (not terminated),
    )


def filled(lengths: list[int], capacity: int = 1000, visit_counters: tuple[str, ...] = (), **config: Any) -> Replay:
    replay = Replay(ReplayConfig(capacity=capacity, **config), SPEC, "cpu", visit_counters)
    for number, length in enumerate(lengths):
        replay.add(episode(number, length))
    return replay


def acted_rows(replay: Replay) -> Tensor:
    """Numbers of the rows with an action."""
    number = torch.arange(replay.oldest, replay.newest)
    return number[number != replay.last[number % replay.rows]]


# -- windows ----------------------------------------------------------------------------------------------------------


def test_a_window_holds_its_own_episode_and_zeros() -> None:
    replay = filled([3, 4, 2])
    anchor = acted_rows(replay)
    rows = replay.gather(anchor, 3, 4)
    who = replay.gather(anchor, 0, 0).state[:, 0]  # (B, 2) episode and time of the anchor
    lengths = torch.tensor([3, 4, 2])[who[:, 0].long()]
    time = who[:, 1:] + torch.arange(-3, 5)
    inside = (time >= 0) & (time <= lengths[:, None])
    assert torch.equal(rows.valid, inside)
    assert torch.equal(rows.acted, inside & (time < lengths[:, None]))
    expected = torch.stack([who[:, :1].expand_as(time), time], dim=-1) * inside[..., None]
    assert torch.equal(rows.state, expected)
    for values in (rows.obs, rows.action, rows.reward, rows.action_mask, rows.terminated):
        assert not values[~rows.valid].any()
    assert torch.equal(rows.reward[rows.acted], (time + 100 * who[:, :1])[rows.acted])
    assert not rows.action[rows.valid & ~rows.acted].any()  # none was taken at the end


def test_a_window_before_the_first_row_is_padded_with_zeros() -> None:
    rows = filled([5]).gather(torch.tensor([0]), 3, 0)
    assert rows.valid.tolist() == [[False, False, False, True]]
    assert not rows.state[:, :3].any()
    assert not rows.action[:, :3].any()


def test_windows_stay_in_their_episode_after_wrapping_around() -> None:
    replay = filled([7] * 20, capacity=30)
    assert replay.newest > 3 * replay.rows
    rows = replay.gather(acted_rows(replay), 3, 4)
    number = rows.state[..., 0].masked_fill(~rows.valid, -1).amax(1, keepdim=True)
    assert torch.equal(rows.state[..., 0][rows.valid], number.expand_as(rows.valid)[rows.valid])
    assert rows.valid[:, 3].all()
    assert (number >= 16).all()
    step = rows.state[:, 1:, 1] - rows.state[:, :-1, 1]
    assert (step[rows.valid[:, 1:] & rows.valid[:, :-1]] == 1).all()


def test_segments_run_across_episode_ends_and_say_so() -> None:
    replay = filled([3, 4])
    rows = replay.segments(torch.tensor([1]), 6)
    assert rows.state[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert rows.episode[0].tolist() == [0, 0, 0, 4, 4, 4]
    assert rows.acted[0].tolist() == [True, True, False, True, True, True]
    assert rows.valid.all()


def test_only_the_last_step_of_a_terminated_episode_is_terminated() -> None:
    replay = filled([3])
    replay.add(episode(1, 4, terminated=True))
    rows = replay.segments(torch.tensor([0]), 9)
    assert rows.terminated[0].nonzero().flatten().tolist() == [7]


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_recent_weights_are_those_of_quarters_of_the_episodes() -> None:
    replay = filled([2, 9, 5, 1, 8, 3, 10, 4])
    drawn = replay.gather(replay.recent(40_000), 0, 0)
    assert drawn.acted.all()
    share = torch.bincount(drawn.state[:, 0, 0].long() // 2, minlength=4) / 40_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.1, 0.1, 0.7]), atol=0.01, rtol=0)


def test_recent_share_is_configurable() -> None:
    replay = filled([5] * 8, recent_share=1.0)
    assert (replay.gather(replay.recent(1000), 0, 0).state[:, 0, 0] >= 6).all()


def test_every_step_of_an_episode_is_drawn_as_often() -> None:
    """Also the last one, which is followed by a row without an action."""
    replay = filled([3, 5], recent_share=0.25)
    drawn = torch.bincount(replay.recent(40_000), minlength=replay.newest)[acted_rows(replay)] / 40_000
    first, second = drawn[:3], drawn[3:]
    torch.testing.assert_close(first, first.mean().expand(3), atol=0.01, rtol=0)
    torch.testing.assert_close(second, second.mean().expand(5), atol=0.01, rtol=0)


def test_stratified_draws_are_weighted_back_to_all_steps() -> None:
    replay = filled([20, 20])
    replay.add(episode(2, 10, terminated=True))
    torch.manual_seed(0)
    rows, weight = replay.stratified(80_000, 0.25)
    ends = replay.store["terminated"][rows]
    assert ends.float().mean() == pytest.approx(0.25 + 0.75 / 50, abs=0.01)
    assert (weight * ends).mean() == pytest.approx(1 / 50, abs=1e-3)  # one of fifty steps terminates
    shares = torch.zeros(replay.newest).index_add_(0, rows, weight)[acted_rows(replay)] / 80_000
    torch.testing.assert_close(shares, torch.full((50,), 1 / 50), atol=2e-3, rtol=0)


def test_without_terminal_steps_stratified_draws_are_uniform() -> None:
    replay = filled([20, 20])
    rows, weight = replay.stratified(1000, 0.25)
    assert len(rows) == 1000
    assert set(rows.tolist()) == set(acted_rows(replay).tolist())
    assert (weight == 1).all()


@pytest.mark.parametrize("episodes", [1, 2, 3, 5])
def test_recent_reaches_every_step_of_few_episodes(episodes: int) -> None:
    replay = filled([4] * episodes)
    assert set(replay.recent(4000).tolist()) == set(acted_rows(replay).tolist())


def test_recent_leaves_evicted_rows_alone() -> None:
    replay = filled([5] * 30, capacity=40)
    number = replay.recent(2000)
    assert replay.oldest > 0
    assert (number >= replay.oldest).all()
    assert (number < replay.newest).all()


def test_uniform_draws_every_segment_alike_across_episodes() -> None:
    replay = filled([3] * 12, capacity=20)
    assert replay.oldest > 0
    drawn = replay.uniform(30_000, 5) - replay.oldest
    size = replay.newest - replay.oldest - 4
    share = torch.bincount(drawn, minlength=size) / 30_000
    assert len(share) == size
    torch.testing.assert_close(share, torch.full((size,), 1 / size), atol=0.01, rtol=0)
    with pytest.raises(ConfigError, match="too few for segments of 200"):
        replay.uniform(1, 200)


def test_least_visited_evens_out_the_visits() -> None:
    replay = filled([10] * 10, visit_counters=("decoder",))
    visits, size = replay.visits["decoder"], replay.newest
    visits[: size // 2] = 60  # seen 60 times before the other half came
    for _ in range(size):
        replay.least_visited("decoder", 50)
    now = visits[:size].float()
    even = visits[:size].sum() / size
    assert (now[: size // 2].mean() - even).abs() < 8
    assert (now[size // 2 :].mean() - even).abs() < 8


def test_least_visited_draws_with_a_softmax_of_the_visits() -> None:
    replay = filled([1], visit_counters=("x",))
    replay.visits["x"][:2] = torch.tensor([100_000, 100_020], dtype=torch.int32)
    drawn = torch.cat([replay.least_visited("x", 1) for _ in range(20)])  # few: visits change the odds
    assert (drawn == 1).sum() < (drawn == 0).sum()
    replay.visits["x"][:2] = torch.tensor([100_000, 100_020], dtype=torch.int32)
    before = replay.visits["x"].clone()
    drawn = replay.least_visited("x", 20_000)
    odds = (drawn == 0).sum() / (drawn == 1).sum()
    torch.testing.assert_close(odds, torch.tensor(1.0).exp(), atol=0.1, rtol=0)
    assert torch.equal(replay.visits["x"] - before, torch.bincount(drawn, minlength=replay.rows).int())


def test_visits_of_one_sampler_do_not_touch_the_other_and_start_anew_with_new_rows() -> None:
    replay = filled([5] * 4, capacity=20, visit_counters=("decoder", "reward"))
    replay.least_visited("decoder", 500)
    assert not replay.visits["reward"].any()
    replay.add(episode(9, 5))
    where = torch.arange(replay.newest - 6, replay.newest) % replay.rows
    assert not replay.visits["decoder"][where].any()


def test_segments_to_draw_must_fit() -> None:
    replay = filled([4], visit_counters=("reward",))
    assert (replay.least_visited("reward", 50, length=4) <= 1).all()
    with pytest.raises(ConfigError, match="holds 4 steps, too few for segments of 6"):
        replay.least_visited("reward", 1, length=6)


# -- eviction ---------------------------------------------------------------------------------------------------------


def test_whole_episodes_are_evicted_the_oldest_first() -> None:
    replay = filled([6, 4, 5, 3], capacity=13)
    assert list(replay.lengths) == [5, 6, 4]
    assert replay.steps == 12
    assert replay.oldest == 7
    kept = replay.segments(torch.arange(replay.oldest, replay.newest), 1).state[:, 0, 0]
    assert kept.unique().tolist() == [1, 2, 3]


def test_capacity_counts_steps_and_is_used_to_the_last() -> None:
    assert filled([10] * 9, capacity=80).steps == 80
    assert filled([40, 40], capacity=80).steps == 80
    assert filled([40, 40, 1], capacity=80).steps == 41  # though there are rows to spare


@pytest.mark.parametrize("length", [1, 2, 10, 21])
def test_five_thousand_steps_are_five_thousand_however_short_the_episodes(length: int) -> None:
    replay = Replay(ReplayConfig(capacity=5_000), replace(SPEC, episode_limit=1000), "cpu")
    for number in range(6_000 // length):
        replay.add(episode(number, length))
    assert replay.steps == 5_000 // length * length
    assert replay.rows <= 10_000


def test_long_episodes_take_no_room_for_ends_that_are_not_there() -> None:
    assert filled([10] * 30, capacity=100).rows == 110


lengths_of_episodes = st.lists(st.integers(1, 12), min_size=1, max_size=60)


@given(lengths=lengths_of_episodes, capacity=st.integers(12, 90), limit=st.sampled_from([None, 1, 12, 1000]))
@settings(deadline=None, max_examples=60)
def test_what_is_kept_is_the_longest_run_of_newest_episodes(
    lengths: list[int], capacity: int, limit: int | None
) -> None:
    """Also after a restart in the middle, whose chunks and visits are those of the run that was not cut off."""
    spec = replace(SPEC, episode_limit=limit)
    replay = Replay(ReplayConfig(capacity=capacity), spec, "cpu", ("v",))
    chunks = []
    for number, length in enumerate(lengths):
        replay.add(episode(number, length))
        kept = list(range(number + 1))
        while sum(lengths[n] for n in kept) > capacity:
            kept.pop(0)
        assert replay.steps == sum(lengths[n] for n in kept)
        rows = replay.segments(torch.arange(replay.oldest, replay.newest), 1)
        assert rows.state[:, 0].tolist() == [[n, t] for n in kept for t in range(lengths[n] + 1)]
        assert torch.equal(rows.reward[:, 0], (rows.state[:, 0, 1] + 100 * rows.state[:, 0, 0]) * rows.acted[:, 0])
        assert rows.acted.sum() == replay.steps
        replay.least_visited("v", 5)
        if number % 3 == 2:
            chunks.append(replay.chunk())
    chunks.append(replay.chunk() or {})
    other = Replay(replay.config, spec, "cpu", ("v",))
    other.restore(replay.checkpoint(), [chunk for chunk in chunks if chunk][replay.first_chunk :])
    assert_same(replay, other)
    for again in (replay, other):
        for length in (1, 1, 1, 7):
            again.add(episode(99, length))
    assert_same(replay, other)


def test_growing_needs_memory_that_is_there() -> None:
    replay = Replay(ReplayConfig(capacity=40), replace(SPEC, episode_limit=40), "cpu")
    for number in range(20):
        replay.add(episode(number, 1))
        if replay.newest == replay.rows:
            break
    before = replay.steps, replay.newest, replay.rows
    with (
        patch("dima.runtime.device.free_memory", return_value=10),
        pytest.raises(ConfigError, match=r"replay\.capacity = 40 needs .* GiB"),
    ):
        replay.add(episode(99, 1))
    assert (replay.steps, replay.newest, replay.rows) == before


def test_an_episode_longer_than_the_store_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"replay\.capacity = 5 cannot hold an episode of 6 steps: raise it"):
        filled([6], capacity=5)


def test_too_little_memory_is_an_error_with_a_number_that_fits() -> None:
    with patch("dima.runtime.device.free_memory", return_value=2**20), pytest.raises(ConfigError) as raised:
        Replay(ReplayConfig(capacity=10**6), SPEC, "cpu")
    message = str(raised.value)
    assert message.startswith("replay.capacity = 1000000 needs 0.1 GiB on cpu, which has 0.0 GiB free: lower it to ")
    fits = int(message.split("lower it to ")[1].split()[0])
    with patch("dima.runtime.device.free_memory", return_value=2**20):
        Replay(ReplayConfig(capacity=fits), SPEC, "cpu")


# -- saving -----------------------------------------------------------------------------------------------------------


def assert_same(one: Replay, other: Replay) -> None:
    """Equal in what they hold and in what they draw."""
    assert (one.oldest, one.newest, one.steps) == (other.oldest, other.newest, other.steps)
    assert one.lengths == other.lengths
    assert one.chunk_ends == other.chunk_ends
    number = torch.arange(one.oldest, one.newest)
    here, there = number % one.rows, number % other.rows
    for name in one.store:
        assert torch.equal(one.store[name][here], other.store[name][there]), name
    assert torch.equal(one.first[here], other.first[there])
    assert torch.equal(one.last[here], other.last[there])
    length = min(3, len(number))
    for replay in (one, other):
        torch.manual_seed(1)
        replay.drawn = [replay.recent(100), replay.least_visited("v", 100, length)]  # type: ignore[attr-defined]
    for a, b in zip(one.drawn, other.drawn, strict=True):  # type: ignore[attr-defined]
        assert torch.equal(a, b)
    windows = [replay.gather(replay.drawn[0], 3, 3) for replay in (one, other)]  # type: ignore[attr-defined]
    assert torch.equal(windows[0].state, windows[1].state)
    assert torch.equal(windows[0].valid, windows[1].valid)
    assert torch.equal(one.visits["v"][here], other.visits["v"][there])


@pytest.mark.parametrize("capacity", [1000, 30])
def test_a_replay_comes_back_from_its_chunks_and_checkpoint(capacity: int) -> None:
    replay = filled([], capacity=capacity, visit_counters=("v",))
    chunks = []
    for n in range(12):
        for k in range(n % 3):
            replay.add(episode(3 * n + k, 3 + (5 * n + k) % 7, terminated=bool(k)))
        chunk = replay.chunk()
        assert (chunk is None) == (n % 3 == 0)
        if chunk is not None:
            chunks.append(chunk)
            replay.least_visited("v", 40)
    other = Replay(replay.config, SPEC, "cpu", ("v",))
    other.restore(replay.checkpoint(), chunks[replay.first_chunk :])
    assert (replay.first_chunk > 0) == (capacity == 30)
    assert_same(replay, other)
    for again in (replay, other):  # and both go on alike
        again.add(episode(99, 8))
    assert_same(replay, other)


def test_what_was_chunked_is_not_chunked_again() -> None:
    replay = filled([3, 4])
    first = replay.chunk()
    assert first is not None
    assert first["start"] == 0
    assert len(first["last"]) == 9
    assert replay.chunk() is None
    replay.add(episode(2, 2))
    second = replay.chunk()
    assert second is not None
    assert second["start"] == 9
    assert second["state"][:, 0].tolist() == [2, 2, 2]


def test_a_checkpoint_of_before_ends_ceased_to_count_still_loads() -> None:
    """Such a replay kept fewer steps: rows, not steps, were bounded."""
    old = filled([2] * 30, capacity=1000, visit_counters=("v",))
    while old.newest - old.oldest > 24:  # of a capacity of 20 with one row in ten for ends
        old.oldest += old.lengths.popleft()
    chunk = old.chunk()
    assert chunk is not None
    new = filled([], capacity=20, visit_counters=("v",))
    new.restore(old.checkpoint(), [chunk])
    assert_same(old, new)
    new.add(episode(30, 2))
    assert new.steps == 18
    new.add(episode(31, 2))
    new.add(episode(32, 2))
    assert new.steps == 20


@pytest.mark.parametrize("several", [True, False])
def test_a_smaller_capacity_keeps_the_newest_episodes_that_fit(several: bool) -> None:
    replay, chunks = filled([], visit_counters=("v",)), []
    for number, length in enumerate([9, 9, 9, 2]):
        replay.add(episode(number, length))
        if several or number == 3:
            chunks.append(replay.chunk())
    replay.least_visited("v", 200)
    smaller = filled([], capacity=20, visit_counters=("v",))
    smaller.restore(replay.checkpoint(), chunks)  # type: ignore[arg-type]
    assert (list(smaller.lengths), smaller.steps, smaller.newest) == ([10, 10, 3], 20, replay.newest)
    rows = torch.arange(smaller.oldest, smaller.newest)
    for name, values in vars(smaller.segments(rows[:1], len(rows))).items():
        assert torch.equal(values, getattr(replay.segments(rows[:1], len(rows)), name)), name
    assert torch.equal(smaller.visits["v"][rows % smaller.rows], replay.visits["v"][rows % replay.rows])
    assert smaller.first_chunk == (1 if several else 0)
    tiny = filled([], capacity=1, visit_counters=("v",))
    with pytest.raises(ConfigError, match=r"replay\.capacity = 1 cannot hold an episode of 2 steps: raise it"):
        tiny.restore(replay.checkpoint(), chunks)  # type: ignore[arg-type]


def test_a_missing_chunk_is_an_error() -> None:
    replay = filled([3])
    first = replay.chunk()
    replay.add(episode(1, 3))
    replay.chunk()
    assert first is not None
    with pytest.raises(ConfigError, match="the replay ends at row 4, its checkpoint at 8"):
        filled([]).restore(replay.checkpoint(), [first])
