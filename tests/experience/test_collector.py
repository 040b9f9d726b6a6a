"""Real experience: seeds, returns, endings, many environments as one, unfinished episodes across a restart."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from dima.data import Act, Episode, Rollout, View
from dima.envs import make_env
from dima.envs.toy import ToyConfig, tasks
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector, PolicySnapshot
from dima.experience.episodes import episode_seed, play, random_policy
from dima.policies.base import Policy
from dima.runtime.progress import Progress
from dima.runtime.signals import Interrupted, Stop
from dima.storage.serialization import decode, encode

TOYS = [task.name for task in tasks()]
pytestmark = pytest.mark.usefixtures("one_thread")


def environments(task: str, n: int = 1, limit: int = 12) -> VectorEnv:
    return VectorEnv(partial(make_env, task, ToyConfig(n_agents=3, episode_limit=limit)), n)


def by_rule(discrete: bool) -> Act:
    """A deterministic policy: a sine of the observation, or the last allowed choice."""

    def act(view: View) -> tuple[Tensor, Tensor]:
        if discrete:
            allowed = view.action_mask.float() * torch.arange(1, view.action_mask.shape[-1] + 1)
            action = torch.nn.functional.one_hot(allowed.argmax(-1), view.action_mask.shape[-1]).float()
        else:
            action = torch.sin(3 * view.obs[..., :1] + torch.arange(view.action_mask.shape[-1])) * view.action_mask
        return action, torch.zeros(action.shape[:-1])

    return act


class Scripted(Policy):
    """A policy without weights."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.chosen = act

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        return self.chosen(view)


def by_chance(discrete: bool, seed: int) -> Act:
    """A random policy that respects masks, with a generator of its own."""
    generator = torch.Generator().manual_seed(seed)

    def act(view: View) -> tuple[Tensor, Tensor]:
        draw = torch.rand(view.action_mask.shape, generator=generator)
        if discrete:
            choice = (draw * view.action_mask).argmax(-1)
            action = torch.nn.functional.one_hot(choice, draw.shape[-1]).float()
        else:
            action = (4 * draw - 2) * view.action_mask  # beyond [-1, 1], as a Gaussian's
        return action, draw.sum(-1)

    return act


def assert_same(one: Episode | Rollout, other: Episode | Rollout) -> None:
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_episode_seeds_of_evaluation_are_never_training_s() -> None:
    training = {episode_seed(run, i) for run in range(5) for i in range(2_000)}
    evaluation = {episode_seed(run, i, "evaluation") for run in range(5) for i in range(2_000)}
    assert not training & evaluation
    assert all(0 <= seed < 2**31 for seed in training | evaluation)


def test_an_episode_s_seed_follows_from_the_run_s_seed_and_its_number_alone() -> None:
    assert episode_seed(3, 7) == episode_seed(3, 7)
    assert len({episode_seed(run, i) for run in range(20) for i in range(20)}) == 400


# -- whole episodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TOYS)
def test_three_environments_play_what_one_plays(task: str) -> None:
    """Episodes of different lengths, more seeds than environments: order and content do not depend on the number."""
    seeds = [episode_seed(0, i) for i in range(8)]
    with environments(task, 1) as one, environments(task, 3) as three:
        act = by_rule(one.spec.discrete)
        alone, together = play(one, act, seeds), play(three, act, seeds)
    assert len(alone) == len(together) == 8
    for a, b in zip(alone, together, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("task", ["toy/walk", "toy/switches", "toy/uneven"])
def test_random_actions_are_allowed_varied_and_zero_on_padding(task: str) -> None:
    torch.manual_seed(0)
    with environments(task, n=4) as envs:
        spec = envs.spec
        episodes = play(envs, random_policy(spec), range(8))
    action = torch.cat([e.action for e in episodes])
    mask = torch.cat([e.action_mask[:-1] for e in episodes])
    assert not action[~mask].any()
    if spec.discrete:
        assert torch.equal(action.sum(-1), torch.ones(action.shape[:-1]))
        assert action.any(0).sum() > spec.n_agents  # more than one choice was made
    else:
        assert action.abs().max() <= 1
        assert action[:, torch.from_numpy(spec.action_valid)].std() > 0.4


def test_a_return_is_the_sum_of_the_mean_reward_of_the_agents() -> None:
    """Against PettingZoo itself, on a team whose agents have different sizes and rewards."""
    with environments("toy/uneven") as envs:
        episode = play(envs, by_rule(False), [5])[0]
    env = make_env("toy/uneven", ToyConfig(n_agents=3, episode_limit=12))
    world = env.parallel_env
    world.reset(seed=5)
    rewards = []
    for joint in episode.action.numpy():
        actions = {a: joint[i, :size] for i, (a, size) in enumerate(zip(world.agents, (1, 3, 2), strict=True))}
        rewards.append(list(world.step(actions)[1].values()))
    each = np.array(rewards)
    assert np.ptp(each.sum(0)) > 0.1  # the agents' own returns differ
    assert episode.team_return == pytest.approx(each.mean(1).sum(), rel=1e-6)


def test_padding_is_zero_in_what_is_stored() -> None:
    with environments("toy/uneven") as envs:
        episode, spec = play(envs, by_rule(False), [0])[0], envs.spec
    assert (episode.obs[:, ~torch.from_numpy(spec.obs_valid)] == 0).all()
    assert (episode.action[:, ~torch.from_numpy(spec.action_valid)] == 0).all()


def test_a_time_limit_is_not_a_termination() -> None:
    def finish(view: View) -> tuple[Tensor, Tensor]:
        """Whose turn it is switches on, the others wait."""
        turn = view.obs[..., -1].long()
        return torch.nn.functional.one_hot(turn, 3).float(), turn.float()

    def wait(view: View) -> tuple[Tensor, Tensor]:
        action = torch.zeros_like(view.action_mask, dtype=torch.float32)
        action[..., 0] = 1
        return action, action.sum(-1)

    with environments("toy/switches", 2) as envs:
        finished, cut = play(envs, finish, [0, 1, 2]), play(envs, wait, [0, 1, 2])
    for episode in finished:
        assert 1 <= len(episode) <= 3
        assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True]
        assert not episode.truncated.any()
    for episode in cut:
        assert len(episode) == 12
        assert episode.truncated.tolist() == [False] * 11 + [True]
        assert not episode.terminated.any()


def test_a_limit_truncates_episodes_where_they_would_have_gone_on() -> None:
    with environments("toy/walk", 2) as envs:
        act = random_policy(envs.spec)
        torch.manual_seed(0)
        whole = play(envs, act, [1, 2])
        torch.manual_seed(0)
        cut = play(envs, act, [1, 2], limit=5)
    for before, after in zip(whole, cut, strict=True):
        assert torch.equal(before.state[: len(after) + 1], after.state)
        assert len(after) == min(5, len(before))
        assert after.truncated[-1] == (len(before) > 5 or bool(before.truncated[-1]))
        assert not (after.terminated[-1] and after.truncated[-1])


def test_playing_counts_whole_episodes_until_there_are_enough_steps() -> None:
    with environments("toy/walk", 2) as envs:
        collector = Collector(envs, seed=4)
        episodes = collector.play(Scripted(by_rule(False)), 30)
        assert [len(e) for e in episodes] == [12] * 4  # two at a time: 24 steps are too few
        assert (collector.steps, collector.episodes) == (48, 4)
        more = collector.play(Scripted(by_rule(False)), 1)
        assert (collector.steps, collector.episodes) == (72, 6)
        again = play(envs, by_rule(False), [episode_seed(4, i) for i in range(6)])
    for a, b in zip([*episodes, *more], again, strict=True):
        assert_same(a, b)


# -- rollouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TOYS)
def test_rollouts_equal_the_episodes(task: str) -> None:
    """One environment's rollouts, cut up at their boundaries, are the episodes of the same seeds."""
    with environments(task) as envs, environments(task) as others:
        act = by_rule(envs.spec.discrete)
        collector = Collector(envs, seed=1)
        pieces = [collector.roll(act, steps) for steps in (7, 20, 13)]
        episodes = play(others, act, [episode_seed(1, i) for i in range(collector.episodes)])
    assert collector.steps == 40
    joined = {name: torch.cat([getattr(r, name)[0] for r, _ in pieces]) for name in vars(pieces[0][0])}
    for name in ("obs", "state", "action_mask"):
        expected = torch.cat([getattr(e, name)[:-1] for e in episodes])[:40]
        assert torch.equal(joined[name], expected), name
    assert torch.equal(joined["action"], torch.cat([e.action for e in episodes])[:40])
    assert torch.equal(joined["reward"], torch.cat([e.reward for e in episodes])[:40])
    assert torch.equal(joined["next_state"], torch.cat([e.state[1:] for e in episodes])[:40])
    assert torch.equal(joined["continuation"], 1 - torch.cat([e.terminated for e in episodes])[:40].float())
    assert torch.equal(joined["boundary"], torch.cat([e.terminated | e.truncated for e in episodes])[:40])
    before = [torch.cat([torch.zeros_like(e.action[:1]), e.action[:-1]]) for e in episodes]
    assert torch.equal(joined["previous_action"], torch.cat(before)[:40])
    ended = [r for _, returns in pieces for r in returns]
    assert ended == pytest.approx([e.team_return for e in episodes][: len(ended)])
    assert len(ended) == int(joined["boundary"].sum())


@pytest.mark.parametrize("task", TOYS)
def test_a_collector_restored_inside_episodes_goes_on_exactly(task: str) -> None:
    """Three environments at different steps of their episodes, one just reset; through JSON and back."""
    with environments(task, 3) as envs, environments(task, 3) as fresh:
        discrete = envs.spec.discrete
        collector = Collector(envs, seed=2)
        collector.roll(by_chance(discrete, 0), 17)
        text, tensors = encode(collector.checkpoint())
        saved = decode(text, {name: tensor.clone() for name, tensor in tensors.items()})
        expected, returns = collector.roll(by_chance(discrete, 1), 30)
        other = Collector(fresh, seed=2)
        other.restore(saved)
        got, got_returns = other.roll(by_chance(discrete, 1), 30)
    assert_same(got, expected)
    assert got_returns == returns
    assert (other.steps, other.episodes) == (collector.steps, collector.episodes)


def test_what_a_stop_left_of_a_rollout_is_checked() -> None:
    stop = Stop()

    def act(view: View) -> tuple[Tensor, Tensor]:
        stop.requested = len(made) == 3
        made.append(view)
        return by_rule(False)(view)

    made: list[View] = []
    with environments("toy/walk", 2) as envs, environments("toy/walk", 2) as fresh:
        collector = Collector(envs, seed=2, stop=stop)
        with pytest.raises(Interrupted):
            collector.roll(act, 10)
        saved = collector.checkpoint()
        other = Collector(fresh, seed=2)
        for wrong in ({"reward": torch.zeros(4, 3)}, {"terminated": torch.zeros(4, 2)}, {"more": torch.zeros(4, 2)}):
            with pytest.raises(ValueError, match=r"of a rollout that was interrupted|other columns"):
                other.restore(saved | {"columns": saved["columns"] | wrong})
        other.restore(saved)
        whole, _ = other.roll(by_rule(False), 10)
        assert_same(whole, Collector(envs, seed=2).roll(by_rule(False), 10)[0])


def test_a_collector_saved_at_the_end_of_episodes_goes_on_exactly() -> None:
    with environments("toy/walk", 2) as envs, environments("toy/walk", 2) as fresh:
        collector, other = Collector(envs, seed=2), Collector(fresh, seed=2)
        collector.roll(by_rule(False), 12)
        saved = collector.checkpoint()
        assert [len(slot["actions"]) for slot in saved["unfinished"]] == [0, 0]
        other.restore(saved)
        assert_same(other.roll(by_rule(False), 5)[0], collector.roll(by_rule(False), 5)[0])


def test_a_collector_between_whole_episodes_restores_its_counters() -> None:
    with environments("toy/walk") as envs, environments("toy/walk") as fresh:
        collector, other = Collector(envs, seed=2), Collector(fresh, seed=2)
        collector.play(Scripted(by_rule(False)), 20)
        other.restore(collector.checkpoint())
        assert_same(other.play(Scripted(by_rule(False)), 1)[0], collector.play(Scripted(by_rule(False)), 1)[0])


def test_an_episode_that_ends_early_when_replayed_is_started_again() -> None:
    """A non-deterministic environment costs the unfinished episode, not the run."""
    with environments("toy/walk", 2) as envs, environments("toy/walk", 2, limit=5) as shorter:
        collector, other = Collector(envs, seed=2), Collector(shorter, seed=2)
        collector.roll(by_rule(False), 8)
        other.restore(collector.checkpoint())
        assert other.episodes == 4
        rollout, _ = other.roll(by_rule(False), 5)
        assert (rollout.previous_action[:, 0] == 0).all()
        assert rollout.boundary.tolist() == [[False] * 4 + [True]] * 2


# -- in the background ------------------------------------------------------------------------------------------------


def test_episodes_played_in_the_background_are_those_of_the_foreground() -> None:
    """They are returned by the next call, survive a checkpoint, and counters change only then."""
    policy = Scripted(by_rule(False))
    with (
        environments("toy/walk", 2) as envs,
        environments("toy/walk", 2) as fresh,
        environments("toy/walk", 2) as third,
    ):
        collector, direct, restored = (Collector(e, seed=2) for e in (envs, fresh, third))
        with collector.in_background(policy, 30, 0, Progress()):
            assert (collector.steps, collector.episodes) == (0, 0)
        text, tensors = encode(collector.checkpoint())
        restored.restore(decode(text, tensors))
        expected = direct.play(policy, 30)
        for one in (collector, restored):
            for a, b in zip(one.play(policy, 1), expected, strict=True):
                assert_same(a, b)
            assert (one.steps, one.episodes) == (48, 4)
            assert len(one.play(policy, 1)) == 2  # collected once


def test_a_snapshot_of_a_policy_on_the_cpu_is_the_policy() -> None:
    policy = Scripted(by_rule(False))
    policy.weight = torch.nn.Parameter(torch.zeros(1))
    assert PolicySnapshot().of(policy) is policy
