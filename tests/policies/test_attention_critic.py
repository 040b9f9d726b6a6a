"""Critic with a value per agent: who sees whom, padding, units."""

from __future__ import annotations

import pytest
import torch

from dima.data import EnvSpec
from dima.policies.attention_critic import AttentionCritic, AttentionCriticConfig

SPEC = EnvSpec(("a", "b", "c"), 4, (5, 5, 5), (2, 2, 2), discrete=False)
SMALL = AttentionCriticConfig(width=16, heads=2, hidden=(16,))


def observations(spec: EnvSpec, *lead: int) -> torch.Tensor:
    return torch.randn(*lead, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [(), (16,), (16, 16)])
def test_a_value_for_each_agent(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    critic = AttentionCritic(SMALL.override({"hidden": list(hidden)}), SPEC)
    obs = observations(SPEC, 4, 6)
    value = critic(obs.flatten(-2))
    assert value.shape == (4, 6, 3)
    torch.testing.assert_close(critic(obs[2, 3].flatten()[None]), value[2, 3][None])


@torch.no_grad()
def test_every_agent_sees_the_others_and_knows_who_it_is() -> None:
    torch.manual_seed(0)
    critic, obs = AttentionCritic(SMALL, SPEC), observations(SPEC, 4)
    value = critic(obs.flatten(1))
    changed = obs.clone()
    changed[:, 1] += torch.randn(5)
    assert ((critic(changed.flatten(1)) - value).abs() > 1e-4).all()
    swapped = critic(obs[:, [1, 0, 2]].flatten(1))
    assert not torch.allclose(swapped, value[:, [1, 0, 2]], atol=1e-3)
    critic.agent.zero_()
    torch.testing.assert_close(critic(obs[:, [1, 0, 2]].flatten(1)), critic(obs.flatten(1))[:, [1, 0, 2]])


@torch.no_grad()
def test_padding_has_no_effect() -> None:
    uneven = EnvSpec(("a", "b"), 4, (2, 5), (1, 1), discrete=False)
    critic, obs = AttentionCritic(SMALL, uneven), torch.randn(4, 2, 5)
    other = obs.clone()
    other[:, 0, 2:] = 9
    assert torch.equal(critic(other.flatten(1)), critic(obs.flatten(1)))


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
def test_standardised_observations_have_no_unit(normalize: bool) -> None:
    torch.manual_seed(0)
    obs, unit, values = observations(SPEC, 50), torch.tensor([1.0, 1e-3, 100.0, 1.0, 5.0]), []
    for scale in (1.0, unit):
        torch.manual_seed(1)
        critic = AttentionCritic(SMALL.override({"normalize_obs": normalize}), SPEC)
        critic.update_statistics(obs * scale)
        values.append(critic((obs * scale).flatten(1)))
    assert torch.allclose(values[0], values[1], atol=1e-4) == normalize
