"""Steps kept for off-policy learning: stretches, their ends, the ring, and what is saved (model-free section 11)."""

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
from dima.experience.collector import Collector, random_policy
from dima.experience.transitions import NStepBatch, Transitions
from dima.storage.serialization import decode, encode

SPEC = EnvSpec(("a", "b"), state_dim=2, obs_sizes=(3, 2), action_sizes=(1, 2), discrete=False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def lived(
    rewards: list[list[float]], ends: dict[tuple[int, int], bool] | None = None, first: int = 0
) -> TransitionBatch:
    """Steps whose state tells (environment, moment); ``ends`` maps (environment, column) to whether the task ended."""
    reward = torch.tensor(rewards)
    envs, steps = reward.shape
    moment = torch.arange(first, first + steps).float().expand(envs, -1)
    state = torch.stack([torch.arange(envs)[:, None].float().expand(-1, steps), moment], dim=-1)
    after = state + torch.tensor([0.0, 0.5])  # what really followed, as no row in store says
    boundary, terminated = torch.zeros(2, envs, steps, dtype=torch.bool)
    for place, task_ended in (ends or {}).items():
        boundary[place], terminated[place] = True, task_ended
    padded = torch.zeros(envs, steps, 2, 3)
    mask = torch.ones(envs, steps, 2, 2, dtype=torch.bool)
    action = moment[..., None, None].expand(-1, -1, 2, 2)
    return TransitionBatch(padded, state, mask, action, reward, terminated, boundary, padded, after, mask)


def all_stretches(store: Transitions, steps: int, gamma: float) -> dict[tuple[int, int], NStepBatch]:
    """Every stretch that can be drawn, by the (environment, moment) where it begins."""
    drawn = store.sample(2_000, steps, gamma)
    found = {}
    for n in range(2_000):
        env, moment = drawn.state[n].int().tolist()
        found[env, moment] = drawn[n]
    return found


def outcome(stretch: NStepBatch) -> tuple[float, float, float]:
    """Its sum of rewards, its discount, and the moment that it is bootstrapped from."""
    return float(stretch.returns), float(stretch.discount), float(stretch.next_state[1])


def test_rewards_are_discounted_and_summed() -> None:
    store = Transitions(100, SPEC, "cpu")
    store.add(lived([[1.0, 2.0, 3.0, 9.0]]))
    found = all_stretches(store, 3, 0.9)
    assert outcome(found[0, 0]) == pytest.approx((5.23, 0.729, 2.5))
    assert outcome(found[0, 2]) == pytest.approx((3 + 0.9 * 9, 0.81, 3.5))  # experience ends: bootstrapped from there
    assert outcome(found[0, 3]) == pytest.approx((9, 0.9, 3.5))
    assert set(found) == {(0, moment) for moment in range(4)}


@pytest.mark.parametrize("terminated", [True, False])
def test_no_stretch_crosses_an_end_and_only_the_task_s_own_cuts_the_bootstrap(terminated: bool) -> None:
    store = Transitions(100, SPEC, "cpu")
    store.add(lived([[1.0, 2.0, 3.0, 4.0]], {(0, 1): terminated}))
    found = all_stretches(store, 3, 0.9)
    assert outcome(found[0, 0]) == pytest.approx((2.8, 0 if terminated else 0.81, 1.5))
    assert outcome(found[0, 1]) == pytest.approx((2, 0 if terminated else 0.9, 1.5))
    assert outcome(found[0, 2]) == pytest.approx((3 + 0.9 * 4, 0.81, 3.5))


def test_it_holds_after_the_ring_has_wrapped_with_several_environments() -> None:
    store, rewards = Transitions(3 * 7, SPEC, "cpu"), torch.rand(3, 40).tolist()
    ends = {(0, 36): True, (2, 38): False}
    for begin in range(0, 40, 5):
        here = {(env, t - begin): end for (env, t), end in ends.items() if begin <= t < begin + 5}
        store.add(lived([row[begin : begin + 5] for row in rewards], here, begin))
    assert len(store) == 21
    found = all_stretches(store, 4, 0.8)
    assert set(found) == {(env, moment) for env in range(3) for moment in range(33, 40)}
    for (env, moment), stretch in found.items():
        last = min(moment + 3, 39, *(t for (e, t) in ends if e == env and t >= moment))
        ret = sum(0.8 ** (t - moment) * rewards[env][t] for t in range(moment, last + 1))
        discount = 0.0 if ends.get((env, last)) else 0.8 ** (last - moment + 1)
        assert outcome(stretch) == pytest.approx((ret, discount, last + 0.5), abs=1e-5)
        assert stretch.next_state[0] == env
        assert (stretch.action == moment).all()


def test_it_comes_back_from_its_chunks() -> None:
    store, chunks = Transitions(2 * 6, SPEC, "cpu"), []
    for begin in range(0, 15, 5):
        store.add(lived(torch.rand(2, 5).tolist(), {(1, 3): True}, begin))
        chunk = store.chunk()
        assert chunk is not None
        text, tensors = encode(chunk)
        chunks.append(decode(text, {name: value.clone() for name, value in tensors.items()}))
    assert store.chunk() is None
    assert store.first_chunk == 1  # moments 9 to 14 are kept; the first chunk ended at 5
    other = Transitions(2 * 6, SPEC, "cpu")
    other.restore(store.checkpoint(), chunks[store.first_chunk :])
    for one in (store, other):
        torch.manual_seed(1)
        one.drawn = one.sample(50, 3, 0.9)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(vars(store.drawn).values(), vars(other.drawn).values(), strict=True))
    assert other.first_chunk == store.first_chunk
    assert other.chunk() is None


def test_more_at_once_than_there_is_room_for_keeps_the_newest() -> None:
    """As in a long warm-up before a small store."""
    store = Transitions(2 * 6, SPEC, "cpu")
    store.add(lived(torch.rand(2, 4).tolist()))
    store.add(lived(torch.rand(2, 15).tolist(), first=4))
    assert len(store) == 12
    assert set(all_stretches(store, 1, 1.0)) == {(env, moment) for env in range(2) for moment in range(13, 19)}


def test_one_that_never_lived_comes_back_too() -> None:
    other = Transitions(10, SPEC, "cpu")
    other.restore(Transitions(10, SPEC, "cpu").checkpoint(), [])
    assert len(other) == 0


def test_a_capacity_that_cannot_be_is_told() -> None:
    with pytest.raises(ConfigError, match="capacity = 1 is less than one step of 2 environments"):
        Transitions(1, SPEC, "cpu").add(lived([[1.0], [2.0]]))
    with pytest.raises(ConfigError, match=r"capacity = 1000000000000 needs .* GiB free: lower it to \d+ or less"):
        Transitions(10**12, SPEC, "cpu").add(lived([[1.0]]))


def test_the_collector_tells_what_really_followed() -> None:
    """At a time limit the next row begins another episode, yet what followed is the old one's last observation."""
    with VectorEnv(partial(make_env, "toy/walk", ToyConfig(episode_limit=4)), 2) as envs:
        collector = Collector(envs, seed=0)
        told, returns = collector.live(random_policy(envs.spec), 9)
    assert told.boundary.nonzero()[:, 1].tolist() == [3, 7, 3, 7]
    assert not told.terminated.any()
    assert len(returns) == 4
    inside = ~told.boundary[:, :-1]
    assert torch.equal(told.next_state[:, :-1][inside], told.state[:, 1:][inside])
    assert torch.equal(told.next_obs[:, :-1][inside], told.obs[:, 1:][inside])
    ended: Tensor = told.boundary[:, :-1]
    assert not torch.isclose(told.next_state[:, :-1][ended], told.state[:, 1:][ended]).all()
