"""PPO on features: returns and advantages of each agent, minibatches, entropy's decay, hand-worked losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.feature_ppo import FeaturePPO, FeaturePPOConfig
from dima.algorithms.mamba import MambaConfig
from dima.algorithms.objectives import lambda_returns
from dima.data import EnvSpec, Rollout
from dima.errors import ConfigError
from dima.policies.actors import ActorConfig
from dima.policies.team_critic import TeamCriticConfig

SPEC = EnvSpec(("a", "b"), state_dim=12, obs_sizes=(6, 6), action_sizes=(3, 2), discrete=True, obs_has_id=True)


def build(**changes: Any) -> FeaturePPO:
    torch.manual_seed(0)
    small = {"actor": ActorConfig(hidden=(8,), norm=False), "critic": TeamCriticConfig(width=8, heads=2)}
    return FeaturePPO(FeaturePPOConfig(**(small | changes)), SPEC)


def rollout(ppo: FeaturePPO, batch: int = 6, steps: int = 5) -> Rollout:
    obs = torch.randn(batch, steps + 1, 2, 6)
    mask = torch.tensor([[True, True, False], [True, True, False]]).expand(batch, steps, 2, 3)
    with torch.no_grad():
        chosen = ppo.actor(obs[:, :-1], mask)
        action = chosen.sample()
        log_prob = chosen.log_prob(action)
    state, boundary = obs.flatten(2), torch.zeros(batch, steps, dtype=torch.bool)
    boundary[:, -1] = True
    return Rollout(
        obs=obs[:, :-1],
        state=state[:, :-1],
        action_mask=mask,
        previous_action=torch.zeros(batch, steps, 2, 3),
        action=action,
        log_prob=log_prob,
        reward=torch.randn(batch, steps),
        continuation=0.5 + 0.5 * torch.rand(batch, steps),
        boundary=boundary,
        next_state=state[:, 1:],
    )


@pytest.mark.parametrize(("lam", "expected"), [(0.95, [4.371866, 3.553606, 2.98])])
def test_returns_of_a_known_case(lam: float, expected: list[float]) -> None:
    reward, continuation, boundary = torch.ones(1, 3), torch.tensor([[1.0, 0.9, 1.0]]), torch.zeros(1, 3).bool()
    found = lambda_returns(reward, continuation, boundary, torch.tensor([[0.6, 0.7, 2.0]]), 0.99, lam)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_every_agent_has_a_return_of_its_own_value() -> None:
    ppo = build()
    given = rollout(ppo)
    batch, _ = ppo.prepare(given)
    with torch.no_grad():
        value, after = ppo.critic(given.state), ppo.critic(given.next_state)
    for agent in range(2):
        alone = lambda_returns(given.reward, given.continuation, given.boundary, after[..., agent], 0.99, 0.95)
        torch.testing.assert_close(batch.target[:, agent], alone.flatten())
    advantage = batch.target - value.flatten(0, 1)
    expected = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-4)
    torch.testing.assert_close(batch.advantage, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(batch.advantage[:, 0], batch.advantage[:, 1], atol=0.01)


def test_the_first_gradient_step_has_ratio_one() -> None:
    ppo = build(entropy=0.3)
    batch, _ = ppo.prepare(rollout(ppo))
    rows = batch[:7]
    loss, metrics = (part.detach() if isinstance(part, Tensor) else part for part in ppo.actor_loss(rows))
    entropy = ppo.actor(rows.obs, rows.action_mask).entropy()
    assert float(loss) == pytest.approx(float(-rows.advantage.mean() - 0.3 * entropy.mean()), abs=1e-5)
    assert float(metrics["approx_kl"]) == pytest.approx(0, abs=1e-6)


def test_masked_choices_have_no_probability_and_no_part_in_the_entropy() -> None:
    ppo = build()
    obs, mask = torch.randn(4, 2, 6), torch.tensor([True, False, True]).expand(4, 2, 3)
    policy = ppo.actor(obs, mask)
    allowed = mask & (ppo.actor.action_valid > 0)  # type: ignore[operator]
    probability = policy.log_probs.exp()  # type: ignore[attr-defined]
    assert (probability[~allowed] == 0).all()
    alone = [torch.distributions.Categorical(probability[n, 0][allowed[n, 0]]).entropy() for n in range(4)]
    torch.testing.assert_close(policy.entropy()[:, 0], torch.stack(alone))


def test_values_are_fitted_by_half_the_squared_error() -> None:
    ppo = build()
    batch, _ = ppo.prepare(rollout(ppo))
    value = ppo.critic(batch.state)
    torch.testing.assert_close(ppo.critic_loss(batch), (0.5 * (batch.target - value).square()).mean())


def test_normalised_values_are_learnt_in_any_unit() -> None:
    advantages, losses = [], []
    for unit in (1.0, 1e-5):
        ppo = build(normalize_values=True, value_norm_floor=0.0)
        given = rollout(ppo)
        given.reward *= unit
        batch, _ = ppo.prepare(given)
        advantages.append(batch.advantage)
        losses.append(ppo.critic_loss(batch).detach())
    torch.testing.assert_close(advantages[1], advantages[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(losses[1], losses[0], atol=1e-3, rtol=1e-3)


def test_published_counts() -> None:
    """40 windows of 20 rows: 720 starts, 14 steps each, 6 minibatches a pass, 120 steps of the actor an episode."""
    config = MambaConfig()
    starts = config.imagination_batch * (config.world_model.window - 2)
    assert (starts, starts * config.horizon) == (720, 10_080)
    ppo = build(minibatch_rows=config.ppo.minibatch_rows)
    batch, _ = ppo.prepare(rollout(ppo, 720, 14))
    sizes = [len(rows) for rows in ppo.minibatches(batch)]  # type: ignore[arg-type]
    assert sizes == [2000, 2000, 2000, 2000, 2000, 80] * 5
    assert len(sizes) * config.imaginations == 120


def test_the_entropy_bonus_decays_with_every_gradient_step_across_a_restart() -> None:
    ppo = build(entropy=0.5, entropy_decay=0.9, minibatch_rows=10, epochs=2)
    assert float(ppo.entropy_weight) == 0.5
    for number in range(1, 3):
        ppo.update(rollout(ppo))  # 30 rows: 6 gradient steps
        assert float(ppo.entropy_weight) == pytest.approx(0.5 * 0.9 ** (6 * number))
    again = build(entropy=0.5, entropy_decay=0.9, minibatch_rows=10, epochs=2)
    again.restore(ppo.checkpoint())
    assert float(again.entropy_weight) == float(ppo.entropy_weight)


def test_weight_decay_is_the_actors() -> None:
    ppo = build(weight_decay=0.1)
    assert [one.param_groups[0]["weight_decay"] for one in (ppo.actor_optimizer, ppo.critic_optimizer)] == [0.1, 0]


def test_an_update_moves_policy_and_values() -> None:
    ppo = build(lr=0.01, critic_lr=0.01, epochs=30, entropy=0.0)
    given = rollout(ppo, 30)
    before, _ = ppo.prepare(given)
    ppo.update(given)
    policy = ppo.actor(before.obs, before.action_mask)
    change: Tensor = (policy.log_prob(before.action) - before.log_prob).detach()
    assert change[before.advantage > 0.5].mean() > change[before.advantage < -0.5].mean() + 0.05
    assert float(ppo.critic_loss(before)) < 0.8 * float((0.5 * (before.target - before.value).square()).mean())


def test_what_needs_observations_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"replay_value = 0.5 is not for mamba"):
        MambaConfig(replay_value=0.5)
    with pytest.raises(ConfigError, match=r"set world_model\.normalize_obs"):
        MambaConfig().override({"ppo": {"actor": {"normalize_obs": True}}})


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="heads = 3 does not divide width = 8"):
        TeamCriticConfig(width=8, heads=3)
    with pytest.raises(ConfigError, match="heads = 8 does not divide hidden = 20"):
        MambaConfig().override({"world_model": {"hidden": 20}})
