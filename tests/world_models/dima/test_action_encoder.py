"""Hidden actions have no influence on the condition, visible ones do."""

from __future__ import annotations

import pytest
import torch

from dima.world_models.dima.action_encoder import ActionEncoder, ActionEncoderConfig

SMALL = ActionEncoderConfig(token_dim=16, latents=4, latent_dim=16, depth=2, heads=2, head_dim=8)


@pytest.fixture
def encoder(any_spec, alive):
    return alive(ActionEncoder(SMALL, any_spec, 3, 8))


def test_a_hidden_agents_newest_action_has_no_influence(encoder, any_spec, actions) -> None:
    action, other = actions(any_spec, 6, 3), actions(any_spec, 6, 3)
    for agent in range(any_spec.n_agents):
        visible = torch.ones(6, 3, any_spec.n_agents, dtype=torch.bool)
        visible[:, -1, agent] = False
        changed = action.clone()
        changed[:, -1, agent] = 1 - other[:, -1, agent]
        torch.testing.assert_close(encoder(changed, visible), encoder(action, visible), rtol=0, atol=0)


def test_the_revealed_agents_newest_action_has_influence(encoder, any_spec, actions) -> None:
    action = actions(any_spec, 6, 3)
    for agent in range(any_spec.n_agents):
        visible = torch.ones(6, 3, any_spec.n_agents, dtype=torch.bool)
        visible[:, -1] = torch.arange(any_spec.n_agents) == agent
        changed = action.clone()
        changed[:, -1, agent] = action[:, -1, agent].flip(-1) + 0.3
        assert ((encoder(changed, visible) - encoder(action, visible)).abs().amax(-1) > 1e-4).all()


def test_the_condition_depends_on_agent_and_time_step(encoder, any_spec, actions) -> None:
    action = actions(any_spec, 1, 3)
    visible = torch.ones(1, 3, any_spec.n_agents, dtype=torch.bool)
    assert not torch.allclose(encoder(action.flip(1), visible), encoder(action, visible), atol=1e-4)
    assert not torch.allclose(encoder(action.flip(2), visible), encoder(action, visible), atol=1e-4)


def test_a_batch_equals_its_halves(encoder, any_spec, actions) -> None:
    action = actions(any_spec, 6, 3)
    visible = torch.rand(6, 3, any_spec.n_agents) < 0.7
    visible[:, -1, 0] = True
    halves = [encoder(a, v) for a, v in zip(action.split(3), visible.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(halves), encoder(action, visible))
