"""Replay of single transitions: n-step returns, episode ends, the ring, checkpoints."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec, TransitionBatch
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError
from dima.experience.collector import Collector
from dima.experience.episodes import random_policy
from dima.experience.transitions import NStepBatch, Transitions
from dima.storage.serialization import decode, encode

SPEC = EnvSpec(("a", "b"), state_dim=2, obs_sizes=(3, 2), action_sizes=(1, 2), discrete=False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def steps_of(
    rewards: list[list[float]], ends: dict[tuple[int, int], bool] | None = None, first: int = 0
) -> TransitionBatch:
    """Steps whose state is (environment, time); ``ends`` maps (environment, column) to whether it is a termination."""
    reward = torch.tensor(rewards)
    envs, steps = reward.shape
    time = torch.arange(first, first + steps).float().expand(envs, -1)
    state = torch.stack([torch.arange(envs)[:, None].float().expand(-1, steps), time], dim=-1)
    after = state + torch.tensor([0.0, 0.5])  # the true next state, which no other row holds
    boundary, terminated = torch.zeros(2, envs, steps, dtype=torch.bool)
    for place, task_ended in (ends or {}).items():
        boundary[place], terminated[place] = True, task_ended
    padded = torch.zeros(envs, steps, 2, 3)
    mask = torch.ones(envs, steps, 2, 2, dtype=torch.bool)
    action = time[..., None, None].expand(-1, -1, 2, 2)
    return TransitionBatch(padded, state, mask, action, reward, terminated, boundary, padded, after, mask)


def all_segments(store: Transitions, steps: int, gamma: float) -> dict[tuple[int, int], NStepBatch]:
    """Every n-step segment that can be drawn, by the (environment, time) where it starts."""
    drawn = store.sample(2_000, steps, gamma)
    found = {}
    for n in range(2_000):
        env, time = drawn.state[n].int().tolist()
        found[env, time] = drawn[n]
    return found


def outcome(segment: NStepBatch) -> tuple[float, float, float]:
    """Return, discount, and the time it is bootstrapped from."""
    return float(segment.returns), float(segment.discount), float(segment.next_state[1])


def test_rewards_are_discounted_and_summed() -> None:
    store = Transitions(100, SPEC, "cpu")
    store.add(steps_of([[1.0, 2.0, 3.0, 9.0]]))
    found = all_segments(store, 3, 0.9)
    assert outcome(found[0, 0]) == pytest.approx((5.23, 0.729, 2.5))
    assert outcome(found[0, 2]) == pytest.approx((3 + 0.9 * 9, 0.81, 3.5))  # experience ends: bootstrapped from there
    assert outcome(found[0, 3]) == pytest.approx((9, 0.9, 3.5))
    assert set(found) == {(0, time) for time in range(4)}


@pytest.mark.parametrize("terminated", [True, False])
def test_no_segment_crosses_a_boundary_and_only_a_termination_stops_the_bootstrap(terminated: bool) -> None:
    store = Transitions(100, SPEC, "cpu")
    store.add(steps_of([[1.0, 2.0, 3.0, 4.0]], {(0, 1): terminated}))
    found = all_segments(store, 3, 0.9)
    assert outcome(found[0, 0]) == pytest.approx((2.8, 0 if terminated else 0.81, 1.5))
    assert outcome(found[0, 1]) == pytest.approx((2, 0 if terminated else 0.9, 1.5))
    assert outcome(found[0, 2]) == pytest.approx((3 + 0.9 * 4, 0.81, 3.5))


def test_it_holds_after_the_ring_has_wrapped_with_several_environments() -> None:
    store, rewards = Transitions(3 * 7, SPEC, "cpu"), torch.rand(3, 40).tolist()
    ends = {(0, 36): True, (2, 38): False}
    for begin in range(0, 40, 5):
        here = {(env, t - begin): end for (env, t), end in ends.items() if begin <= t < begin + 5}
        store.add(steps_of([row[begin : begin + 5] for row in rewards], here, begin))
    assert len(store) == 21
    found = all_segments(store, 4, 0.8)
    assert set(found) == {(env, time) for env in range(3) for time in range(33, 40)}
    for (env, time), segment in found.items():
        last = min(time + 3, 39, *(t for (e, t) in ends if e == env and t >= time))
        ret = sum(0.8 ** (t - time) * rewards[env][t] for t in range(time, last + 1))
        discount = 0.0 if ends.get((env, last)) else 0.8 ** (last - time + 1)
        assert outcome(segment) == pytest.approx((ret, discount, last + 0.5), abs=1e-5)
        assert segment.next_state[0] == env
        assert (segment.action == time).all()


def test_it_comes_back_from_its_chunks() -> None:
    store, chunks = Transitions(2 * 6, SPEC, "cpu"), []
    for begin in range(0, 15, 5):
        store.add(steps_of(torch.rand(2, 5).tolist(), {(1, 3): True}, begin))
        chunk = store.chunk()
        assert chunk is not None
        text, tensors = encode(chunk)
        chunks.append(decode(text, {name: value.clone() for name, value in tensors.items()}))
    assert store.chunk() is None
    assert store.first_chunk == 1  # times 9 to 14 are kept; the first chunk ended at 5
    other = Transitions(2 * 6, SPEC, "cpu")
    other.restore(store.checkpoint(), chunks[store.first_chunk :])
    for one in (store, other):
        torch.manual_seed(1)
        one.drawn = one.sample(50, 3, 0.9)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(vars(store.drawn).values(), vars(other.drawn).values(), strict=True))
    assert other.first_chunk == store.first_chunk
    assert other.chunk() is None


@pytest.mark.parametrize(("capacity", "kept"), [(4, 2), (12, 6), (40, 10)])
def test_another_capacity_keeps_the_newest_of_what_was_saved(capacity: int, kept: int) -> None:
    """A larger one does not serve what was dropped."""
    store, chunks = Transitions(2 * 6, SPEC, "cpu"), []
    for begin in range(0, 15, 5):
        store.add(steps_of(torch.rand(2, 5).tolist(), first=begin))
        chunks.append(store.chunk())
    other = Transitions(capacity, SPEC, "cpu")
    other.restore(store.checkpoint(), chunks[store.first_chunk :])  # type: ignore[arg-type]
    assert other.kept == kept
    times = {time for _, time in all_segments(other, 1, 1.0)}
    assert times == set(range(15 - kept, 15))


def test_more_at_once_than_there_is_room_for_keeps_the_newest() -> None:
    """As in a long warm-up before a small store."""
    store = Transitions(2 * 6, SPEC, "cpu")
    store.add(steps_of(torch.rand(2, 4).tolist()))
    store.add(steps_of(torch.rand(2, 15).tolist(), first=4))
    assert len(store) == 12
    assert set(all_segments(store, 1, 1.0)) == {(env, time) for env in range(2) for time in range(13, 19)}


def test_an_empty_store_comes_back_too() -> None:
    other = Transitions(10, SPEC, "cpu")
    other.restore(Transitions(10, SPEC, "cpu").checkpoint(), [])
    assert len(other) == 0


def test_a_capacity_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="capacity = 1 is less than one step of 2 environments"):
        Transitions(1, SPEC, "cpu").add(steps_of([[1.0], [2.0]]))
    with pytest.raises(ConfigError, match=r"capacity = 1000000000000 needs .* GiB free: lower it to \d+ or less"):
        Transitions(10**12, SPEC, "cpu").add(steps_of([[1.0]]))


def test_transitions_hold_the_true_next_state() -> None:
    """At a time limit the next row is of another episode, but the next state is the old episode's last."""
    with VectorEnv(partial(make_env, "toy/walk", ToyConfig(episode_limit=4)), 2) as envs:
        collector = Collector(envs, seed=0)
        batch, returns = collector.transitions(random_policy(envs.spec), 9)
    assert batch.boundary.nonzero()[:, 1].tolist() == [3, 7, 3, 7]
    assert not batch.terminated.any()
    assert len(returns) == 4
    inside = ~batch.boundary[:, :-1]
    assert torch.equal(batch.next_state[:, :-1][inside], batch.state[:, 1:][inside])
    assert torch.equal(batch.next_obs[:, :-1][inside], batch.obs[:, 1:][inside])
    ended: Tensor = batch.boundary[:, :-1]
    assert not torch.isclose(batch.next_state[:, :-1][ended], batch.state[:, 1:][ended]).all()
