"""Distributions, actor, critic and value scale (model-free sections 2, 3 and 11)."""

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.policies import Actor, ActorConfig, Beta, Categorical, Critic, CriticConfig, Gaussian, ValueNorm

EVEN = EnvSpec(("a", "b"), state_dim=6, obs_sizes=(5, 5), action_sizes=(3, 3), discrete=False)
UNEVEN = EnvSpec(("a", "b", "c"), state_dim=6, obs_sizes=(5, 3, 4), action_sizes=(2, 4, 1), discrete=False)
CHOICES = EnvSpec(("a", "b", "c"), state_dim=6, obs_sizes=(5, 3, 4), action_sizes=(2, 4, 3), discrete=True)
M = TypeVar("M", bound=nn.Module)
KINDS = [
    (UNEVEN, ActorConfig(hidden=(16, 16), normalize_obs=True)),
    (UNEVEN, ActorConfig(hidden=(16, 16), distribution="beta")),
    (CHOICES, ActorConfig(hidden=(16, 16))),
]
ONES = torch.ones(1, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def inputs(spec: EnvSpec, batch: int = 8) -> tuple[Tensor, Tensor]:
    obs = torch.randn(batch, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
    return obs, torch.from_numpy(spec.action_valid).expand(batch, -1, -1)


def shaken(module: M) -> M:
    """Weights far from their careful start, so that every path matters."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


# -- distributions ----------------------------------------------------------------------------------------------------


def test_gaussian_agrees_with_torch() -> None:
    mean, std, action = torch.randn(4, 2, 3), torch.rand(3) + 0.1, torch.randn(4, 2, 3)
    ours, theirs = Gaussian(mean, std, torch.ones(2, 3)), torch.distributions.Normal(mean, std)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    assert torch.equal(ours.mode(), mean)
    draws = Gaussian(mean.expand(20000, -1, -1, -1), std, torch.ones(2, 3)).sample()
    torch.testing.assert_close(draws.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), std.expand(4, 2, 3), atol=0.05, rtol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0001, 1.0001), (1.7, 1.7), (3.0, 1.2), (40.0, 25.0)])
def test_beta_density_integrates_to_one(alpha: float, beta: float) -> None:
    action = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 100_000 - 1
    density = Beta(alpha * ONES, beta * ONES, ONES).log_prob(action[:, None, None]).exp()
    assert float(density.mean() * 2) == pytest.approx(1, abs=1e-4)


def test_beta_agrees_with_torch() -> None:
    alpha, beta = 1 + torch.rand(4, 2, 3) * 5, 1 + torch.rand(4, 2, 3) * 5
    ours, theirs = Beta(alpha, beta, torch.ones(2, 3)), torch.distributions.Beta(alpha, beta)
    action = ours.sample()
    assert action.abs().max() < 1 and not action.requires_grad
    expected = (theirs.log_prob((action + 1) / 2) - math.log(2)).sum(-1)
    torch.testing.assert_close(ours.log_prob(action), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.entropy(), (theirs.entropy() + math.log(2)).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.mode(), 2 * theirs.mode - 1, atol=1e-4, rtol=1e-4)
    assert (ours.log_prob(ours.mode()) >= ours.log_prob(action)).all()
    draws = Beta(alpha.expand(20000, -1, -1, -1), beta, torch.ones(2, 3)).sample()
    torch.testing.assert_close(draws.mean(0), 2 * theirs.mean - 1, atol=0.02, rtol=0)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_beta_stays_finite_at_the_ends(action: float) -> None:
    policy = Beta(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 1.0]]), torch.ones(1, 2))
    assert policy.log_prob(torch.full((1, 2), action)).isfinite().all()
    assert policy.mode().isfinite().all() and policy.mode().abs().max() < 1


def test_categorical_never_chooses_what_is_forbidden() -> None:
    allowed = torch.tensor([[True, False, True, False], [False, False, False, True]])
    policy = Categorical(torch.tensor([0.0, 9.0, 1.0, 99.0]).expand(5000, 2, 4), allowed, torch.ones(2, 4))
    draws = policy.sample()
    assert torch.equal(draws.sum(-1), torch.ones(5000, 2)) and not draws[:, ~allowed].any()
    assert float(draws[:, 0, 2].mean()) == pytest.approx(math.e / (1 + math.e), abs=0.03)
    assert torch.equal(policy.mode()[0], torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]]))
    probability = policy.log_prob(draws).exp()
    torch.testing.assert_close(probability[:, 1], torch.ones(5000))
    expected = torch.distributions.Categorical(logits=torch.tensor([0.0, 1.0])).entropy()
    torch.testing.assert_close(policy.entropy()[0], torch.stack([expected, torch.zeros(())]))


def test_categorical_gradient_is_finite_with_forbidden_choices() -> None:
    logits = torch.randn(6, 2, 4, requires_grad=True)
    allowed = torch.tensor([True, False, True, False])
    policy = Categorical(logits, allowed, torch.ones(2, 4))
    (policy.log_prob(policy.sample()).sum() + policy.entropy().sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[..., ~allowed].any()


# -- actor ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_actor_shapes(spec: EnvSpec, config: ActorConfig) -> None:
    obs, mask = inputs(spec)
    policy = Actor(config, spec)(obs, mask)
    action = policy.sample()
    assert action.shape == policy.mode().shape == (8, spec.n_agents, spec.action_dim)
    assert policy.log_prob(action).shape == policy.entropy().shape == (8, spec.n_agents)
    assert not action.requires_grad and not policy.mode().requires_grad
    assert policy.log_prob(action).requires_grad and policy.entropy().requires_grad


def test_initial_spread() -> None:
    policy = Actor(ActorConfig(), EVEN)(*inputs(EVEN))
    assert isinstance(policy, Gaussian)
    torch.testing.assert_close(policy.std, torch.full((3,), 0.3655293))
    torch.testing.assert_close(policy.entropy(), torch.full((8, 2), 3 * 0.412530))
    assert policy.mode().abs().max() < 0.1


def test_spread_is_bounded() -> None:
    actor = Actor(ActorConfig(), EVEN)
    nn.init.constant_(actor.log_std, 50.0)
    policy = actor(*inputs(EVEN))
    assert isinstance(policy, Gaussian) and policy.std.max() <= 0.5


def test_initial_weights() -> None:
    for net, head in ((Actor(ActorConfig(), EVEN).net, 0.01), (Critic(CriticConfig(), EVEN).net, 1.0)):
        linears = [layer for layer in net if isinstance(layer, nn.Linear)]
        for layer in linears[:-1]:
            w = layer.weight
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-4, rtol=0)
        last = linears[-1].weight
        torch.testing.assert_close(last @ last.T, head**2 * torch.eye(len(last)), atol=1e-5 * head**2, rtol=0)
        assert not any(layer.bias.any() for layer in linears)


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_padding_has_no_effect(spec: EnvSpec, config: ActorConfig) -> None:
    actor = shaken(Actor(config, spec))
    obs, mask = inputs(spec)
    if actor.obs_scale is not None:
        actor.obs_scale.update(3 * obs + 1)
    policy = actor(obs, mask)
    action = policy.sample()
    real = torch.from_numpy(spec.action_valid)
    assert not action[:, ~real].any() and not policy.mode()[:, ~real].any()
    noisy_obs = torch.where(torch.from_numpy(spec.obs_valid), obs, 7.0)
    noisy = actor(noisy_obs, torch.ones_like(mask))
    noisy_action = torch.where(real, action, 7.0)
    torch.testing.assert_close(noisy.mode(), policy.mode())
    torch.testing.assert_close(noisy.entropy(), policy.entropy())
    torch.testing.assert_close(noisy.log_prob(noisy_action), policy.log_prob(action))


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_padding_adds_nothing_to_density_and_entropy(spec: EnvSpec, config: ActorConfig) -> None:
    """Each agent's numbers are those of its real entries alone, as if the action had no padding."""
    policy = shaken(Actor(config, spec))(*inputs(spec))
    action = policy.sample()
    for agent, size in enumerate(spec.action_sizes):
        part = (slice(None), slice(agent, agent + 1), slice(0, size))
        alone: Gaussian | Beta | Categorical
        if isinstance(policy, Gaussian):
            alone = Gaussian(policy.mean[part], policy.std[:size], torch.ones(1, size))
        elif isinstance(policy, Beta):
            alone = Beta(policy.alpha[part], policy.beta[part], torch.ones(1, size))
        else:
            alone = Categorical(policy.log_probs[part], torch.ones(1, size, dtype=torch.bool), torch.ones(1, size))
        torch.testing.assert_close(policy.log_prob(action)[:, [agent]], alone.log_prob(action[part]))
        torch.testing.assert_close(policy.entropy()[:, [agent]], alone.entropy())


def test_action_mask_rules_out_choices() -> None:
    obs, mask = inputs(CHOICES, 500)
    mask = mask.clone()
    mask[:, 1, :3] = False
    action = shaken(Actor(ActorConfig(hidden=(16,)), CHOICES))(obs, mask).sample()
    assert (action[:, 1, 3] == 1).all() and not action[~mask].any()


@pytest.mark.parametrize(
    ("choice", "has_id", "told_apart"),
    [("auto", False, True), ("auto", True, False), ("always", True, True), ("never", False, False)],
)
def test_agent_id(choice: str, has_id: bool, told_apart: bool) -> None:
    spec = EnvSpec(("a", "b"), 6, (5, 5), (3, 3), discrete=False, obs_has_id=has_id)
    actor = shaken(Actor(ActorConfig(hidden=(16,)).override({"agent_id": choice}), spec))
    obs, mask = inputs(spec)
    mode = actor(obs[:, :1].expand_as(obs), mask).mode()
    assert torch.equal(mode[:, 0], mode[:, 1]) != told_apart


def test_agents_act_on_their_own_observation() -> None:
    actor = shaken(Actor(ActorConfig(), EVEN))
    obs, mask = inputs(EVEN)
    other = obs.clone()
    other[:, 1] += 1 + torch.rand(5)
    before, after = actor(obs, mask).mode(), actor(other, mask).mode()
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_running_normaliser_of_observations() -> None:
    config = ActorConfig(hidden=(16,), normalize_obs=True, agent_id="never")
    plain = shaken(Actor(config.override({"normalize_obs": False}), EVEN))
    actor = Actor(config, EVEN)
    actor.load_state_dict(plain.state_dict(), strict=False)
    obs, mask = inputs(EVEN, 64)
    assert actor.obs_scale is not None
    actor.obs_scale.update(obs)
    scaled = (obs - obs.mean(0)) / obs.std(0, correction=0)
    torch.testing.assert_close(actor(obs, mask).mode(), plain(scaled, mask).mode(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_a_batch_equals_its_parts(spec: EnvSpec, config: ActorConfig) -> None:
    actor, critic = shaken(Actor(config, spec)), shaken(Critic(CriticConfig(hidden=(16,)), spec))
    obs, mask = inputs(spec)
    whole = actor(obs, mask)
    action, state = whole.sample(), torch.randn(8, 6)
    halves = [actor(o, m) for o, m in zip(obs.split(4), mask.split(4), strict=True)]
    torch.testing.assert_close(torch.cat([part.mode() for part in halves]), whole.mode())
    log_probs = [part.log_prob(a) for part, a in zip(halves, action.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(log_probs), whole.log_prob(action))
    values = [critic(s, a) for s, a in zip(state.split(4), action.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(values), critic(state, action))
    grid = actor(obs.unflatten(0, (2, 4)), mask.unflatten(0, (2, 4))).mode()
    torch.testing.assert_close(grid.flatten(0, 1), whole.mode())


# -- critic -----------------------------------------------------------------------------------------------------------


def test_critic_sees_state_and_the_executed_previous_action() -> None:
    critic = shaken(Critic(CriticConfig(hidden=(16,)), UNEVEN))
    state, action = torch.randn(4, 5, 6), torch.rand(4, 5, 3, 4) - 0.5
    value = critic(state, action)
    assert value.shape == (4, 5)
    real = torch.from_numpy(UNEVEN.action_valid)
    torch.testing.assert_close(critic(state, torch.where(real, action, 7.0)), value)
    assert (critic(state, action + 0.3) != value).all() and (critic(state + 0.3, action) != value).all()
    torch.testing.assert_close(critic(state, 9 * action), critic(state, (9 * action).clamp(-1, 1)))


def test_critic_without_actions_ignores_who_is_who() -> None:
    critic = shaken(Critic(CriticConfig(hidden=(16,), previous_action=False), EVEN))
    state, action = torch.randn(4, 6), torch.rand(4, 2, 3)
    assert torch.equal(critic(state, action), critic(state, action.flip(1)))


def test_critic_normalises_the_state() -> None:
    critic, twin = (Critic(CriticConfig(hidden=(16,)), EVEN) for _ in range(2))
    twin.load_state_dict(critic.state_dict())
    state, action = 100 + 50 * torch.randn(200, 6), torch.zeros(200, 2, 3)
    critic.state_scale.update(state)
    scaled = (state - state.mean(0)) / state.std(0, correction=0)
    torch.testing.assert_close(critic(state, action), twin(scaled, action), atol=1e-4, rtol=1e-4)


# -- value scale ------------------------------------------------------------------------------------------------------


def test_value_norm_is_debiased() -> None:
    x = 3 + 2 * torch.randn(50)
    norm = ValueNorm()
    for _ in range(3):
        norm.update(x)
        mean, std = norm.moments()
        torch.testing.assert_close(mean, x.double().mean())
        torch.testing.assert_close(std, x.double().std(correction=0))
    torch.testing.assert_close(norm.denormalize(norm.normalize(x)), x)
    assert norm.normalize(x).dtype == norm.denormalize(x).dtype == torch.float32


def test_value_norm_beta_sets_how_fast_it_forgets() -> None:
    slow, fast = ValueNorm(), ValueNorm(beta=0.5)
    for norm in (slow, fast):
        norm.update(torch.zeros(10))
        norm.update(torch.ones(10))
    assert float(slow.moments()[0]) == pytest.approx(0.5, abs=1e-4)
    assert float(fast.moments()[0]) == pytest.approx(2 / 3)


def test_value_norm_floor_and_untouched_scale() -> None:
    norm = ValueNorm()
    torch.testing.assert_close(norm.denormalize(torch.ones(1)), torch.tensor([0.1]))
    norm.update(torch.full((10,), 5.0))
    assert float(norm.moments()[1]) == pytest.approx(0.1)


def test_value_norm_keeps_the_variance_beside_a_large_offset() -> None:
    x = 1e5 + torch.randint(0, 10, (1000,)).float()
    norm = ValueNorm()
    for _ in range(20):
        norm.update(x)
    assert float(norm.moments()[1] ** 2) == pytest.approx(float(x.double().var(correction=0)), rel=1e-4)
