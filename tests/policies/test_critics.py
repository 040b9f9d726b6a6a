"""The centralised critic and ValueNorm."""

import pytest
import torch
from torch import nn

from dima.data import EnvSpec
from dima.policies.critics import Critic, CriticConfig, ValueNorm

EVEN = EnvSpec(("a", "b"), state_dim=6, obs_sizes=(5, 5), action_sizes=(3, 3), discrete=False)
UNEVEN = EnvSpec(("a", "b", "c"), state_dim=6, obs_sizes=(5, 3, 4), action_sizes=(2, 4, 1), discrete=False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(critic: Critic) -> Critic:
    """Large random weights, so that every path matters."""
    for parameter in critic.parameters():
        nn.init.normal_(parameter, std=0.5)
    return critic


def test_critic_sees_state_and_the_executed_previous_action() -> None:
    critic = shaken(Critic(CriticConfig(hidden=(16,)), UNEVEN))
    state, action = torch.randn(4, 5, 6), torch.rand(4, 5, 3, 4) - 0.5
    value = critic(state, action)
    assert value.shape == (4, 5)
    real = torch.from_numpy(UNEVEN.action_valid)
    torch.testing.assert_close(critic(state, torch.where(real, action, 7.0)), value)
    assert (critic(state, action + 0.3) != value).all() and (critic(state + 0.3, action) != value).all()
    torch.testing.assert_close(critic(state, 9 * action), critic(state, (9 * action).clamp(-1, 1)))


def test_critic_without_actions_is_invariant_to_the_order_of_agents() -> None:
    critic = shaken(Critic(CriticConfig(hidden=(16,), previous_action=False), EVEN))
    state, action = torch.randn(4, 6), torch.rand(4, 2, 3)
    assert torch.equal(critic(state, action), critic(state, action.flip(1)))


def test_critic_standardises_the_state() -> None:
    critic, twin = (Critic(CriticConfig(hidden=(16,)), EVEN) for _ in range(2))
    twin.load_state_dict(critic.state_dict())
    state, action = 100 + 50 * torch.randn(200, 6), torch.zeros(200, 2, 3)
    critic.update_statistics(state)
    scaled = (state - state.mean(0)) / state.std(0, correction=0)
    torch.testing.assert_close(critic(state, action), twin(scaled, action), atol=1e-4, rtol=1e-4)


def test_input_norm_is_a_layer_norm_across_the_state_alone() -> None:
    config = CriticConfig(hidden=(16,), input_norm=True)
    critic, plain = shaken(Critic(config, EVEN)), Critic(config.override({"input_norm": False}), EVEN)
    plain.net.load_state_dict(critic.net.state_dict())
    state, action = 100 + 50 * torch.randn(20, 6), torch.rand(20, 2, 3)
    norm = critic.input_norm
    assert norm is not None and plain.input_norm is None
    expected = nn.functional.layer_norm(state, (6,), norm.weight, norm.bias)
    torch.testing.assert_close(critic(state, action), plain(expected, action))
    torch.testing.assert_close(critic(3 * state + 7, action), critic(state, action), atol=1e-3, rtol=1e-4)
    value = critic(state, action)
    critic.update_statistics(state)
    assert torch.equal(critic(state, action), value)  # it has no running statistics


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


def test_value_norm_decays_by_beta() -> None:
    slow, fast = ValueNorm(), ValueNorm(beta=0.5)
    for norm in (slow, fast):
        norm.update(torch.zeros(10))
        norm.update(torch.ones(10))
    assert float(slow.moments()[0]) == pytest.approx(0.5, abs=1e-4)
    assert float(fast.moments()[0]) == pytest.approx(2 / 3)


def test_value_norm_floor_and_initial_scale() -> None:
    norm = ValueNorm()
    torch.testing.assert_close(norm.denormalize(torch.ones(1)), torch.tensor([0.1]))
    norm.update(torch.full((10,), 5.0))
    assert float(norm.moments()[1]) == pytest.approx(0.1)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_value_norm_without_a_floor_has_no_unit(unit: float) -> None:
    x, norm = unit * (3 + 2 * torch.randn(1000)), ValueNorm(floor=0.0)
    assert norm.denormalize(torch.ones(3)).max() < 1e-30  # nothing is known of the size of values
    norm.update(x)
    torch.testing.assert_close(norm.moments()[1], x.double().std(correction=0))
    torch.testing.assert_close(norm.normalize(x), ((x - x.mean()) / x.std(correction=0)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.denormalize(norm.normalize(x)), x, atol=1e-6 * unit, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-6, 7.0, -1e6])
def test_value_norm_of_constant_returns_is_zero(value: float) -> None:
    x, norm = torch.full((10,), value), ValueNorm(floor=0.0)
    norm.update(x)
    assert norm.normalize(x).abs().max() < 1e-6
    torch.testing.assert_close(norm.denormalize(torch.zeros(10)), x)


def test_value_norm_keeps_the_variance_at_a_large_offset() -> None:
    x = 1e5 + torch.randint(0, 10, (1000,)).float()
    norm = ValueNorm()
    for _ in range(20):
        norm.update(x)
    assert float(norm.moments()[1] ** 2) == pytest.approx(float(x.double().var(correction=0)), rel=1e-4)
