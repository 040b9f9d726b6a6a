"""HASAC: samples and densities, targets, sequential updates, temperatures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.hasac import Hasac, HasacConfig
from dima.algorithms.objectives import returns_so_far
from dima.data import EnvSpec, TransitionBatch
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector
from dima.experience.evaluation import evaluate
from dima.experience.transitions import NStepBatch
from dima.policies.soft_actors import GumbelSoftmax, SoftActors, TanhGaussian
from tests.algorithms.iteration import iterate

SPEC = EnvSpec(("a", "b", "c"), state_dim=4, obs_sizes=(5, 3, 4), action_sizes=(1, 2, 2), discrete=False)
CHOICES = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(5, 3), action_sizes=(2, 4), discrete=True, masks_actions=True)
PAIR = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(3, 3), action_sizes=(2, 2), discrete=False)
SMALL = HasacConfig(hidden=(16, 16), capacity=5_000, warmup=60, interval=10, batch=32, n_step=3)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(spec: EnvSpec = SPEC, **changes: Any) -> Hasac:
    return SMALL.override(changes).build(spec, "cpu")


def random_batch(spec: EnvSpec = SPEC, rows: int = 40) -> NStepBatch:
    def observed() -> tuple[Tensor, Tensor]:
        obs = torch.randn(rows, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
        mask = torch.from_numpy(spec.action_valid).expand(rows, -1, -1).clone()
        if spec.masks_actions:
            mask[..., 1:] &= torch.rand(mask[..., 1:].shape) < 0.7
        return obs, mask

    (obs, mask), (next_obs, next_mask) = observed(), observed()
    action, _ = SoftActors((8,), spec).sample(obs, mask)
    state, next_state = torch.randn(2, rows, spec.state_dim)
    return NStepBatch(
        obs, state, mask, action.detach(), torch.randn(rows), torch.rand(rows), next_obs, next_state, next_mask
    )


# -- samples ----------------------------------------------------------------------------------------------------------


class FixedMoments(TanhGaussian):
    """A tanh-Gaussian with given mean and log standard deviation."""

    def __init__(self, mean: float, log_std: float, dims: int = 1) -> None:
        super().__init__((4,), 3, dims)
        self.given = mean, log_std, dims

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, dims = self.given
        return torch.full((len(obs), dims), mean), torch.full((len(obs), dims), log_std)


def test_the_density_follows_from_the_change_of_variables(monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.5))
    action, log_prob = FixedMoments(0.0, 0.0).sample(torch.zeros(1, 3), torch.ones(1, 1, dtype=torch.bool))
    assert float(log_prob) == pytest.approx(-0.8037095, abs=1e-6)
    assert float(action) == pytest.approx(math.tanh(0.5))
    u = torch.tensor([0.3, -1.2], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(torch.tanh, u)
    monkeypatch.setattr(torch, "randn_like", lambda x: (u.float() - 0.1) / math.exp(-0.4) + 0 * x)
    _, log_prob = FixedMoments(0.1, -0.4, 2).sample(torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool))
    plain = torch.distributions.Normal(0.1, math.exp(-0.4)).log_prob(u).sum()
    assert float(log_prob) == pytest.approx(float(plain - jacobian.det().abs().log()), abs=1e-5)


def test_the_density_integrates_to_one_and_stays_finite(monkeypatch) -> None:
    grid = torch.linspace(-0.9999, 0.9999, 20_001)
    before = torch.atanh(grid.double()).float()[:, None]
    monkeypatch.setattr(torch, "randn_like", lambda x: before)
    _, log_prob = FixedMoments(0.0, 0.0).sample(torch.zeros(len(grid), 3), torch.ones(len(grid), 1, dtype=torch.bool))
    assert float(torch.trapezoid(log_prob.exp(), grid)) == pytest.approx(1, abs=2e-3)
    for u in (50.0, -50.0):
        monkeypatch.setattr(torch, "randn_like", lambda x, u=u: torch.full_like(x, u))
        action, log_prob = FixedMoments(0.0, 0.0).sample(torch.zeros(1, 3), torch.ones(1, 1, dtype=torch.bool))
        assert torch.isfinite(log_prob).all()
        assert action.abs() <= 1


def test_actions_stay_in_bounds_and_the_mode_is_noiseless() -> None:
    actor = TanhGaussian((8, 8), 5, 2)
    obs, mask = 10 * torch.randn(500, 5), torch.ones(500, 2, dtype=torch.bool)
    assert (actor.sample(obs, mask)[0].abs() <= 1).all()
    assert torch.equal(actor.mode(obs, mask), actor._moments(obs)[0].tanh())
    assert (actor.net[:-1](obs).abs() <= 1).all()  # the last hidden activation is a tanh


def test_gumbel_softmax_is_one_hot_forward_and_soft_backward() -> None:
    actor = GumbelSoftmax((8,), 5, 4)
    obs = torch.randn(3_000, 5)
    mask = torch.tensor([True, True, False, True]).expand(3_000, -1)
    action, log_prob = actor.sample(obs, mask)
    assert torch.equal(action.detach().sum(-1).round(decimals=5), torch.ones(3_000))
    assert set(action.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    assert not action[:, 2].any()
    (action * torch.randn(4)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in actor.net[-1].parameters())
    expected = torch.where(mask, actor.net(obs), -1e10).softmax(-1).mean(0)
    torch.testing.assert_close(action.detach().mean(0), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(log_prob.exp(), (action * torch.where(mask, actor.net(obs), -1e10).softmax(-1)).sum(-1))
    chosen = actor.mode(obs, mask).argmax(-1)
    assert torch.equal(chosen, torch.where(mask, actor.net(obs), -1e10).argmax(-1))


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_padding_is_zero_and_masked_choices_are_not_sampled(spec: EnvSpec) -> None:
    team, batch = SoftActors((8,), spec), random_batch(spec)
    for action in (team.sample(batch.obs, batch.action_mask)[0], team.mode(batch.obs, batch.action_mask)):
        assert action.shape == batch.action.shape
        assert not action[:, ~torch.from_numpy(spec.action_valid)].any()
        if spec.discrete:
            assert (batch.action_mask | (action == 0)).all()
    garbage = torch.where(torch.from_numpy(spec.obs_valid), batch.obs, torch.tensor(9.0))
    assert torch.equal(team.mode(garbage, batch.action_mask), team.mode(batch.obs, batch.action_mask))


# -- critics ----------------------------------------------------------------------------------------------------------


def test_the_target_is_the_smaller_value_with_the_entropy_bonus() -> None:
    team, batch = make(alpha=0.3), random_batch()
    torch.manual_seed(1)
    target = team.target_value(batch)
    torch.manual_seed(1)
    action, log_prob = team.actors.sample(batch.next_obs, batch.next_mask)
    twins = team.target(batch.next_state, action)
    expected = batch.returns + batch.discount * (torch.minimum(*twins) - 0.3 * log_prob.sum(-1))
    torch.testing.assert_close(target, expected)
    free = make(alpha=0.0)
    free.load_state_dict(team.state_dict())
    torch.manual_seed(1)
    without = free.target_value(batch)
    torch.testing.assert_close(without - target, batch.discount * 0.3 * log_prob.sum(-1))
    assert (without <= (batch.returns + batch.discount * twins).amin(0) + 1e-6).all()


@pytest.mark.parametrize("hidden", [(16, 16), (16,), ()])
@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_the_minimum_of_the_twins_and_its_gradient_equal_autograd_s(spec: EnvSpec, hidden: tuple[int, ...]) -> None:
    critic, batch = make(spec, hidden=hidden).critic, random_batch(spec)
    action, weight = batch.action.clone().requires_grad_(), torch.randn(len(batch.returns))
    twins = critic(batch.state, action)
    assert 0 < float((twins[0] < twins[1]).float().mean()) < 1
    (twins.amin(0) * weight).sum().backward()
    expected, action.grad = action.grad, None
    critic.zero_grad(set_to_none=True)
    value = critic.min_value(batch.state, action)
    torch.testing.assert_close(value, twins.amin(0))
    (value * weight).sum().backward()
    torch.testing.assert_close(action.grad, expected)
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_a_critic_step_changes_the_critics_only() -> None:
    team, batch = make(), random_batch()
    before = {name: value.clone() for name, value in team.named_parameters()}
    team.critic_step(batch)
    moved = {name.split(".")[0] for name, value in team.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"critic"}
    assert all(value.grad is None for value in team.target.parameters())


def test_target_critics_are_polyak_averages() -> None:
    team = make()
    assert all(torch.equal(a, b) for a, b in zip(team.target.parameters(), team.critic.parameters(), strict=True))
    with torch.no_grad():
        for parameter in team.critic.parameters():
            parameter += 1
    for _ in range(7):
        team.polyak_update()
    for target, weight in zip(team.target.parameters(), team.critic.parameters(), strict=True):
        torch.testing.assert_close(weight - target, torch.full_like(target, 0.995**7), rtol=1e-4, atol=1e-5)


# -- actors -----------------------------------------------------------------------------------------------------------


def test_actor_steps_leave_the_critics_unchanged() -> None:
    team, batch = make(), random_batch()
    before = {name: value.clone() for name, value in team.named_parameters()}
    team.actor_steps(batch)
    moved = {name.split(".")[0] for name, value in team.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"actors", "log_alpha"}
    assert all(value.grad is None and value.requires_grad for value in team.critic.parameters())


def test_an_agent_s_loss_uses_the_updated_policies_of_those_before_it(monkeypatch) -> None:
    team, batch = make(PAIR, fixed_order=True, lr=0.5, alpha=0.0), random_batch(PAIR)
    joints = []
    min_value = team.critic.min_value

    def record(state: Tensor, action: Tensor) -> Tensor:
        joints.append(action.detach().clone())
        return min_value(state, action)

    monkeypatch.setattr(team.critic, "min_value", record)
    old = team.actors.mode(batch.obs, batch.action_mask)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # samples are modes
    team.actor_steps(batch)
    new = team.actors.mode(batch.obs, batch.action_mask)
    assert (new - old).abs().amax() > 0.1
    first, second = joints
    torch.testing.assert_close(first, old)
    torch.testing.assert_close(second[:, 0], new[:, 0])
    torch.testing.assert_close(second[:, 1], old[:, 1])


def test_every_order_of_the_agents_occurs(monkeypatch) -> None:
    team, batch, orders = make(), random_batch(), set()
    sampled: list[int] = []
    sample_agent = team.actors.sample_agent

    def record(agent: int, obs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        sampled.append(agent)
        return sample_agent(agent, obs, mask)

    monkeypatch.setattr(team.actors, "sample_agent", record)
    for _ in range(60):
        sampled.clear()
        team.actor_steps(batch)
        assert sampled[:3] == [0, 1, 2]  # all agents; then each but the last, after its step
        orders.add((*sampled[3:], *{0, 1, 2}.difference(sampled[3:])))
    assert orders == set(itertools.permutations(range(3)))


def test_temperatures_move_towards_their_target_entropies() -> None:
    assert make().target_entropies == [-1.0, -2.0, -2.0]
    assert make(CHOICES).target_entropies == pytest.approx([0.98 * math.log(2), 0.98 * math.log(4)])
    assert make(CHOICES, choice_entropy=0.3).target_entropies == pytest.approx([0.3 * math.log(2), 0.3 * math.log(4)])
    team = make()
    assert [float(team.alpha(n)) for n in (0, 1, 2, -1)] == [1.0] * 4
    team.temperature_step(
        torch.tensor([1.5, 1.5, 2.0])
    )  # entropy below, above and at its target; the sum is at its target
    assert float(team.alpha(0)) > 1 > float(team.alpha(1))
    assert float(team.alpha(2)) == float(team.alpha(-1)) == 1
    fixed = make(alpha=0.2)
    fixed.temperature_step(torch.tensor([1.5, 1.5, 1.5]))
    assert float(fixed.alpha(0)) == pytest.approx(0.2)
    assert not fixed.log_alpha[0].detach().any()


# -- iterations ----------------------------------------------------------------------------------------------------


def environments(task: str, n: int, **changes: int) -> VectorEnv:
    return VectorEnv(partial(make_env, task, ToyConfig(**changes)), n)


def test_updates_start_after_the_warm_up(monkeypatch) -> None:
    with environments("toy/walk", 5) as envs:
        team, updates = SMALL.build(envs.spec, "cpu"), []
        for step in ("critic_step", "actor_steps"):
            monkeypatch.setattr(team, step, lambda batch: updates.append(batch) or {})
        collector, counts = Collector(envs, seed=0), []
        for _ in range(4):
            metrics = iterate(team, collector)
            counts.append(len(updates))
    assert counts == [0, 20, 40, 60]  # of critic and actors, 10 each
    assert not any(name.startswith("policy/") for name in metrics)
    assert collector.steps == len(team.replay) == 60 + 3 * 10 * 5


@pytest.mark.parametrize(
    ("task", "alpha", "better"),
    [
        # untrained teams lose 9 to 15 on walk; a perfect one loses 1 to 2
        ("toy/walk", None, lambda before, after: after > 0.5 * before),
        # untrained teams wait (-3) or undo each other's work; the switches can be on after 1.5 steps on average
        ("toy/switches", 0.02, lambda before, after: after > 0.5),
    ],
)
def test_it_learns(task: str, alpha: float | None, better) -> None:
    config = SMALL.override({"hidden": [64, 64], "gamma": 0.8, "lr": 3e-3, "critic_lr": 3e-3, "batch": 128})
    config = config.override({"warmup": 400, "alpha_lr": 3e-3, "tau": 0.02, "alpha": alpha})
    with environments(task, 10) as envs, environments(task, 10) as test_envs:
        team = config.build(envs.spec, "cpu")
        act = partial(team.act, mode=True)
        before = evaluate(test_envs, act, 20, seed=0).mean
        collector = Collector(envs, seed=0)
        for _ in range(41):
            iterate(team, collector)
        after = evaluate(test_envs, act, 20, seed=0).mean
    assert better(before, after), (before, after)


def random_transitions(spec: EnvSpec, envs: int = 4, steps: int = 30) -> TransitionBatch:
    one = random_batch(spec, envs * steps)
    boundary = torch.rand(envs * steps) < 0.1
    rows = TransitionBatch(
        obs=one.obs,
        state=one.state,
        action_mask=one.action_mask,
        action=one.action,
        reward=one.returns,
        terminated=boundary & (torch.rand(envs * steps) < 0.5),
        boundary=boundary,
        next_obs=one.next_obs,
        next_state=one.next_state,
        next_mask=one.next_mask,
    )
    return TransitionBatch(**{name: value.unflatten(0, (envs, steps)) for name, value in vars(rows).items()})


def test_with_normalisation_units_have_no_effect() -> None:
    taught, transitions = [], random_transitions(PAIR)
    for unit, offset, factor in ((1.0, 0.0, 1.0), (1e-4, 0.01, 1e-6), (10.0, 300.0, 1e6)):
        torch.manual_seed(1)
        team, changed = make(PAIR, normalize_obs=True, normalize_reward=True), replace(transitions)
        for name in ("obs", "state", "next_obs", "next_state"):
            setattr(changed, name, unit * getattr(transitions, name) + offset)
        changed.reward = factor * transitions.reward
        team.replay.add(changed)
        team.update_statistics(changed)
        for _ in range(5):
            batch = team.sample()
            team.critic_step(batch)
            team.actor_steps(batch)
            team.polyak_update()
        taught.append([weight.detach() for weight in team.parameters()])
    torch.testing.assert_close(taught[1:], [taught[0]] * 2, atol=1e-3, rtol=0)


def test_rewards_are_divided_by_the_deviation_of_returns() -> None:
    team, transitions = make(PAIR, normalize_reward=True, n_step=1), random_transitions(PAIR)
    for part in (slice(0, 7), slice(7, 30)):
        piece = TransitionBatch(**{name: value[:, part] for name, value in vars(transitions).items()})
        team.replay.add(piece)
        team.update_statistics(piece)
    returns = returns_so_far(transitions.reward, transitions.boundary, 0.99)
    rewards = transitions.reward.flatten() / returns.std(correction=0)
    drawn = team.sample().returns
    assert ((drawn[:, None] - rewards).abs().amin(1) < 1e-5).all()


def test_an_unfinished_episode_s_return_is_restored() -> None:
    team, transitions = make(PAIR, normalize_reward=True, normalize_obs=True), random_transitions(PAIR)
    team.update_statistics(transitions)
    other = make(PAIR, normalize_reward=True, normalize_obs=True)
    other.restore(team.checkpoint(), None)
    for one in (team, other):
        one.update_statistics(transitions)
    torch.testing.assert_close(dict(other.state_dict()), dict(team.state_dict()), atol=0, rtol=0)


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_a_restored_algorithm_continues_exactly(spec: EnvSpec) -> None:
    team, batch = make(spec), random_batch(spec)
    for _ in range(2):
        team.critic_step(batch)
        team.actor_steps(batch)
        team.polyak_update()
    other = make(spec)
    other.restore(team.checkpoint(), None)
    for one in (team, other):
        torch.manual_seed(3)
        one.critic_step(batch)
        one.actor_steps(batch)
        one.polyak_update()
    assert all(torch.equal(a, b) for a, b in zip(team.parameters(), other.parameters(), strict=True))
