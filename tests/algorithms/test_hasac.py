"""HASAC: samples and densities, targets, turns, temperatures (model-free section 11)."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.hasac import Hasac, HasacConfig
from dima.data import EnvSpec
from dima.envs import make_env
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.experience.collector import Collector
from dima.experience.evaluation import evaluate
from dima.experience.transitions import NStepBatch
from dima.policies.soft_actors import GumbelSoftmax, SoftActors, TanhGaussian
from dima.runtime.progress import Progress

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


def stretch(spec: EnvSpec = SPEC, rows: int = 40) -> NStepBatch:
    def seen() -> tuple[Tensor, Tensor]:
        obs = torch.randn(rows, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
        mask = torch.from_numpy(spec.action_valid).expand(rows, -1, -1).clone()
        if spec.masks_actions:
            mask[..., 1:] &= torch.rand(mask[..., 1:].shape) < 0.7
        return obs, mask

    (obs, mask), (next_obs, next_mask) = seen(), seen()
    action, _ = SoftActors((8,), spec).sample(obs, mask)
    state, next_state = torch.randn(2, rows, spec.state_dim)
    return NStepBatch(
        obs, state, mask, action.detach(), torch.randn(rows), torch.rand(rows), next_obs, next_state, next_mask
    )


# -- samples ----------------------------------------------------------------------------------------------------------


class Fixed(TanhGaussian):
    """With given moments."""

    def __init__(self, mean: float, log_std: float, dims: int = 1) -> None:
        super().__init__((4,), 3, dims)
        self.given = mean, log_std, dims

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, dims = self.given
        return torch.full((len(obs), dims), mean), torch.full((len(obs), dims), log_std)


def test_the_density_is_the_change_of_variables(monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.5))
    action, log_prob = Fixed(0.0, 0.0).sample(torch.zeros(1, 3), torch.ones(1, 1, dtype=torch.bool))
    assert float(log_prob) == pytest.approx(-0.8037095, abs=1e-6)
    assert float(action) == pytest.approx(math.tanh(0.5))
    u = torch.tensor([0.3, -1.2], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(torch.tanh, u)
    monkeypatch.setattr(torch, "randn_like", lambda x: (u.float() - 0.1) / math.exp(-0.4) + 0 * x)
    _, log_prob = Fixed(0.1, -0.4, 2).sample(torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool))
    plain = torch.distributions.Normal(0.1, math.exp(-0.4)).log_prob(u).sum()
    assert float(log_prob) == pytest.approx(float(plain - jacobian.det().abs().log()), abs=1e-5)


def test_the_density_integrates_to_one_and_stays_finite(monkeypatch) -> None:
    grid = torch.linspace(-0.9999, 0.9999, 20_001)
    before = torch.atanh(grid.double()).float()[:, None]
    monkeypatch.setattr(torch, "randn_like", lambda x: before)
    _, log_prob = Fixed(0.0, 0.0).sample(torch.zeros(len(grid), 3), torch.ones(len(grid), 1, dtype=torch.bool))
    assert float(torch.trapezoid(log_prob.exp(), grid)) == pytest.approx(1, abs=2e-3)
    for u in (50.0, -50.0):
        monkeypatch.setattr(torch, "randn_like", lambda x, u=u: torch.full_like(x, u))
        action, log_prob = Fixed(0.0, 0.0).sample(torch.zeros(1, 3), torch.ones(1, 1, dtype=torch.bool))
        assert torch.isfinite(log_prob).all()
        assert action.abs() <= 1


def test_actions_stay_in_bounds_and_the_mode_is_noiseless() -> None:
    actor = TanhGaussian((8, 8), 5, 2)
    obs, mask = 10 * torch.randn(500, 5), torch.ones(500, 2, dtype=torch.bool)
    assert (actor.sample(obs, mask)[0].abs() <= 1).all()
    assert torch.equal(actor.mode(obs, mask), actor._moments(obs)[0].tanh())
    assert (actor.net[:-1](obs).abs() <= 1).all()  # the last hidden layer is squashed


def test_a_choice_is_one_hot_forward_and_soft_backward() -> None:
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
def test_padding_is_zero_and_forbidden_choices_are_not_taken(spec: EnvSpec) -> None:
    team, seen = SoftActors((8,), spec), stretch(spec)
    for action in (team.sample(seen.obs, seen.action_mask)[0], team.mode(seen.obs, seen.action_mask)):
        assert action.shape == seen.action.shape
        assert not action[:, ~torch.from_numpy(spec.action_valid)].any()
        if spec.discrete:
            assert (seen.action_mask | (action == 0)).all()
    garbage = torch.where(torch.from_numpy(spec.obs_valid), seen.obs, torch.tensor(9.0))
    assert torch.equal(team.mode(garbage, seen.action_mask), team.mode(seen.obs, seen.action_mask))


# -- critics ----------------------------------------------------------------------------------------------------------


def test_the_target_is_the_lower_of_two_less_the_entropy_s_price() -> None:
    team, seen = make(alpha=0.3), stretch()
    torch.manual_seed(1)
    told = team.target_value(seen)
    torch.manual_seed(1)
    action, log_prob = team.actors.sample(seen.next_obs, seen.next_mask)
    twins = team.target(seen.next_state, action)
    expected = seen.ret + seen.discount * (torch.minimum(*twins) - 0.3 * log_prob.sum(-1))
    torch.testing.assert_close(told, expected)
    free = make(alpha=0.0)
    free.load_state_dict(team.state_dict())
    torch.manual_seed(1)
    without = free.target_value(seen)
    torch.testing.assert_close(without - told, seen.discount * 0.3 * log_prob.sum(-1))
    assert (without <= (seen.ret + seen.discount * twins).amin(0) + 1e-6).all()


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_the_lower_value_and_its_gradient_are_autograd_s(spec: EnvSpec) -> None:
    critic, seen = make(spec).critic, stretch(spec)
    action, weight = seen.action.clone().requires_grad_(), torch.randn(len(seen.ret))
    twins = critic(seen.state, action)
    assert 0 < float((twins[0] < twins[1]).float().mean()) < 1
    (twins.amin(0) * weight).sum().backward()
    expected, action.grad = action.grad, None
    critic.zero_grad(set_to_none=True)
    told = critic.min_value(seen.state, action)
    torch.testing.assert_close(told, twins.amin(0))
    (told * weight).sum().backward()
    torch.testing.assert_close(action.grad, expected)
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_the_critics_step_moves_the_critics_alone() -> None:
    team, seen = make(), stretch()
    before = {name: value.clone() for name, value in team.named_parameters()}
    team.critic_step(seen)
    moved = {name.split(".")[0] for name, value in team.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"critic"}
    assert all(value.grad is None for value in team.target.parameters())


def test_targets_follow_slowly() -> None:
    team = make()
    assert all(torch.equal(a, b) for a, b in zip(team.target.parameters(), team.critic.parameters(), strict=True))
    with torch.no_grad():
        for parameter in team.critic.parameters():
            parameter += 1
    for _ in range(7):
        team.polyak_update()
    for slow, fast in zip(team.target.parameters(), team.critic.parameters(), strict=True):
        torch.testing.assert_close(fast - slow, torch.full_like(slow, 0.995**7), rtol=1e-4, atol=1e-5)


# -- actors -----------------------------------------------------------------------------------------------------------


def test_the_actors_steps_leave_the_critics_alone() -> None:
    team, seen = make(), stretch()
    before = {name: value.clone() for name, value in team.named_parameters()}
    team.actor_steps(seen)
    moved = {name.split(".")[0] for name, value in team.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"actors", "log_alpha"}
    assert all(value.grad is None and value.requires_grad for value in team.critic.parameters())


def test_an_agent_sees_what_those_before_it_have_become(monkeypatch) -> None:
    team, seen = make(PAIR, fixed_order=True, lr=0.5, alpha=0.0), stretch(PAIR)
    joints = []
    judge = team.critic.min_value

    def note(state: Tensor, action: Tensor) -> Tensor:
        joints.append(action.detach().clone())
        return judge(state, action)

    monkeypatch.setattr(team.critic, "min_value", note)
    old = team.actors.mode(seen.obs, seen.action_mask)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # draws are modes
    team.actor_steps(seen)
    new = team.actors.mode(seen.obs, seen.action_mask)
    assert (new - old).abs().amax() > 0.1
    first, second = joints
    torch.testing.assert_close(first, old)
    torch.testing.assert_close(second[:, 0], new[:, 0])
    torch.testing.assert_close(second[:, 1], old[:, 1])


def test_every_order_comes_up(monkeypatch) -> None:
    team, seen, orders = make(), stretch(), set()
    turns: list[int] = []
    draw = team.actors.sample_agent

    def note(agent: int, obs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        turns.append(agent)
        return draw(agent, obs, mask)

    monkeypatch.setattr(team.actors, "sample_agent", note)
    for _ in range(60):
        turns.clear()
        team.actor_steps(seen)
        assert turns[:3] == [0, 1, 2]  # everybody's sample; then each agent but the last shows what it has become
        orders.add((*turns[3:], *{0, 1, 2}.difference(turns[3:])))
    assert orders == set(itertools.permutations(range(3)))


def test_temperatures_seek_the_entropy_they_are_given() -> None:
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


def test_it_waits_then_updates_once_a_step(monkeypatch) -> None:
    with environments("toy/walk", 5) as envs:
        team, done = SMALL.build(envs.spec, "cpu"), []
        monkeypatch.setattr(team, "update", lambda updates, progress: done.append(updates) or {})
        collector = Collector(envs, seed=0)
        for _ in range(4):
            team.iteration(collector, Progress(), 0.0)
    assert done == [10, 10, 10]
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
            team.iteration(collector, Progress(), 0.0)
        after = evaluate(test_envs, act, 20, seed=0).mean
    assert better(before, after), (before, after)


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_one_restored_from_a_checkpoint_goes_on_exactly(spec: EnvSpec) -> None:
    team, seen = make(spec), stretch(spec)
    for _ in range(2):
        team.critic_step(seen)
        team.actor_steps(seen)
        team.polyak_update()
    other = make(spec)
    other.restore(team.checkpoint(), None)
    for one in (team, other):
        torch.manual_seed(3)
        one.critic_step(seen)
        one.actor_steps(seen)
        one.polyak_update()
    assert all(torch.equal(a, b) for a, b in zip(team.parameters(), other.parameters(), strict=True))
