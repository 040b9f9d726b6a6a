"""HAPPO: sequential updates, the correction factor, equality with MAPPO for one agent."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.happo import AgentBatch, HappoConfig, SequentialPPO
from dima.algorithms.ppo import PPO, Batch, PPOConfig
from dima.data import EnvSpec, Rollout, View
from dima.policies.actors import ActorConfig
from dima.policies.critics import CriticConfig

SPEC = EnvSpec(("a", "b", "c"), state_dim=4, obs_sizes=(5, 3, 4), action_sizes=(1, 2, 2), discrete=False)
CHOICES = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(5, 3), action_sizes=(2, 4), discrete=True, masks_actions=True)
ALONE = EnvSpec(("a",), state_dim=4, obs_sizes=(5,), action_sizes=(2,), discrete=False)
SMALL = PPOConfig(actor=ActorConfig(hidden=(16,)), critic=CriticConfig(hidden=(16,), previous_action=False))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(spec: EnvSpec = SPEC, fixed_order: bool = False, **changes: Any) -> SequentialPPO:
    return HappoConfig(ppo=SMALL.override(changes), fixed_order=fixed_order).build_ppo(spec)


def collect(team: PPO, lead: tuple[int, int] = (12, 5)) -> Rollout:
    """Random observations with the team's own actions."""
    spec = team.spec
    obs = torch.randn(*lead, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
    mask = torch.from_numpy(spec.action_valid).expand(*lead, -1, -1).clone()
    if spec.masks_actions:
        mask[..., 1:] &= torch.rand(mask[..., 1:].shape) < 0.7
    nothing = torch.empty(*lead, 0)  # the policy sees observations and masks only
    action, log_prob = team.actor.act(View(obs, nothing, mask, nothing))
    ends = torch.rand(lead) < 0.1
    return Rollout(
        obs=obs,
        state=torch.randn(*lead, spec.state_dim),
        action_mask=mask,
        previous_action=torch.zeros_like(action),
        action=action,
        log_prob=log_prob,
        reward=torch.randn(lead),
        continuation=1 - ends.float(),
        boundary=ends,
        next_state=torch.randn(*lead, spec.state_dim),
    )


def batch_of(team: PPO) -> Batch:
    return team.prepare(collect(team))[0]


def record_steps(team: SequentialPPO, monkeypatch) -> list[tuple[int, AgentBatch]]:
    """Record the agent and the batch of every agent step."""
    steps: list[tuple[int, AgentBatch]] = []
    agent_step = team.agent_step

    def record(agent: int, batch: AgentBatch) -> dict[str, Tensor]:
        steps.append((agent, batch))
        return agent_step(agent, batch)

    monkeypatch.setattr(team, "agent_step", record)
    return steps


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_each_agent_has_its_own_network(spec: EnvSpec) -> None:
    team = make(spec)
    rollout = collect(team)
    assert not rollout.action[..., ~torch.from_numpy(spec.action_valid)].any()
    policy = team.actor(rollout.obs, rollout.action_mask)
    torch.testing.assert_close(policy.log_prob(rollout.action), rollout.log_prob)
    before = policy.log_prob(rollout.action)
    with torch.no_grad():
        for parameter in team.actor.members[0].parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    after = team.actor(rollout.obs, rollout.action_mask).log_prob(rollout.action)
    assert not torch.allclose(after[..., 0], before[..., 0])
    assert torch.equal(after[..., 1:], before[..., 1:])
    if spec.masks_actions:
        assert (rollout.action_mask | (rollout.action == 0)).all()


def test_the_factor_is_the_ratio_of_the_earlier_agents_policies(monkeypatch) -> None:
    """Recomputed from old and new policies, for the joint action of all earlier agents."""
    team = make(fixed_order=True, epochs=3, lr=1e-2)
    batch, steps = batch_of(team), record_steps(team, monkeypatch)
    old = team.actor(batch.obs, batch.action_mask).log_prob(batch.action).detach()
    team.run_epochs(batch)
    new = team.actor(batch.obs, batch.action_mask).log_prob(batch.action).detach()
    assert [agent for agent, _ in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for agent, agent_batch in steps:
        expected = (new - old)[:, :agent].sum(-1).exp()
        torch.testing.assert_close(agent_batch.factor, expected, rtol=1e-4, atol=1e-5)
        assert not agent_batch.factor.requires_grad
    assert (steps[-1][1].factor - 1).abs().max() > 0.01


def test_the_factor_is_indexed_with_its_rows(monkeypatch) -> None:
    team = make(fixed_order=True, epochs=2, minibatches=3, lr=1e-2)
    batch, steps = batch_of(team), record_steps(team, monkeypatch)
    team.run_epochs(batch)
    by_row: dict[tuple[int, ...], set[float]] = {}
    for agent, agent_batch in steps:
        if agent == 2:
            for state, factor in zip(agent_batch.state.tolist(), agent_batch.factor.tolist(), strict=True):
                by_row.setdefault(tuple(state), set()).add(factor)
    assert len(by_row) == len(batch.state)
    assert all(len(factors) == 1 for factors in by_row.values())  # the same in both epochs
    assert len({next(iter(factors)) for factors in by_row.values()}) > 10


def test_without_learning_every_factor_is_one(monkeypatch) -> None:
    team = make(lr=1e-30)
    steps = record_steps(team, monkeypatch)
    metrics = team.run_epochs(batch_of(team))
    assert all(torch.equal(batch.factor, torch.ones_like(batch.factor)) for _, batch in steps)
    assert metrics["factor_deviation"] == 0


def test_every_order_of_the_agents_occurs(monkeypatch) -> None:
    team, orders = make(epochs=1), set()
    batch, steps = batch_of(team), record_steps(team, monkeypatch)
    for _ in range(60):
        steps.clear()
        team.run_epochs(batch)
        orders.add(tuple(agent for agent, _ in steps))
    assert orders == set(itertools.permutations(range(3)))


def test_one_agent_updates_as_under_mappo() -> None:
    alone = make(ALONE, epochs=3)
    other = SMALL.override({"epochs": 3}).build(ALONE)
    other.actor.load_state_dict(alone.actor.members[0].state_dict())
    other.critic.load_state_dict(alone.critic.state_dict())
    rollout = collect(alone)
    alone.update(rollout)
    other.update(rollout)
    pairs = zip(alone.actor.parameters(), other.actor.parameters(), strict=True)
    for one, two in [*pairs, *zip(alone.critic.parameters(), other.critic.parameters(), strict=True)]:
        torch.testing.assert_close(one, two)


def test_the_factor_scales_the_policy_loss_only() -> None:
    team = make(entropy=0.5)
    batch = batch_of(team)
    batch.log_prob = batch.log_prob + 0.3 * torch.randn_like(batch.log_prob)  # some ratios are clipped
    ones = torch.ones_like(batch.advantage)
    single = team.agent_step(1, AgentBatch(**vars(batch), factor=ones))
    again = make(entropy=0.5)
    again.load_state_dict(team.state_dict())
    plain = again.agent_step(1, AgentBatch(**vars(batch), factor=ones))
    third = make(entropy=0.5)
    third.load_state_dict(team.state_dict())
    threefold = third.agent_step(1, AgentBatch(**vars(batch), factor=3 * ones))
    assert single["clip_fraction"] > 0
    torch.testing.assert_close(threefold["policy_loss"], 3 * plain["policy_loss"])
    assert threefold["entropy"] == plain["entropy"]
    assert threefold["clip_fraction"] == plain["clip_fraction"]


def test_each_step_changes_one_network_and_actors_come_before_the_critic(monkeypatch) -> None:
    team = make(epochs=2, minibatches=2)
    batch, events = batch_of(team), []
    frozen = {name: value.clone() for name, value in team.named_parameters()}

    def changed_networks() -> set[str]:
        return {
            name.split(".")[0:3][-1] if "members" in name else name.split(".")[0]
            for name, value in team.named_parameters()
            if not torch.equal(value, frozen[name])
        }

    for method, agent_of in (("agent_step", lambda args: args[0]), ("critic_step", lambda args: "critic")):
        original = getattr(team, method)

        def record(*args: Any, original=original, agent_of=agent_of) -> dict[str, Tensor]:
            for name, value in team.named_parameters():
                frozen[name] = value.detach().clone()
            metrics = original(*args)
            events.append((str(agent_of(args)), changed_networks()))
            return metrics

        monkeypatch.setattr(team, method, record)
    team.run_epochs(batch)
    assert [who for who, _ in events[-4:]] == ["critic"] * 4
    assert "critic" not in {who for who, _ in events[:-4]}
    assert len(events) == 3 * 4 + 4
    assert all(changed == {who} for who, changed in events)


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_a_restored_team_continues_exactly(spec: EnvSpec) -> None:
    team = make(spec, minibatches=2)
    team.update_statistics(collect(team).obs, collect(team).state)
    team.update(collect(team))
    other = make(spec, minibatches=2)
    other.restore(team.checkpoint())
    rollout = collect(team)
    for one in (team, other):
        torch.manual_seed(1)
        one.update(rollout)
    assert all(torch.equal(a, b) for a, b in zip(team.parameters(), other.parameters(), strict=True))


def test_normalisers_use_each_agent_s_own_observations() -> None:
    team = make(actor={"normalize_obs": True})
    rollout = collect(team)
    team.update_statistics(rollout.obs + 3, rollout.state)
    for agent, member in enumerate(team.actor.members):
        scale = member.obs_scale
        assert scale.mean.shape == (1, SPEC.obs_sizes[agent])
        expected = (rollout.obs + 3)[..., agent, : SPEC.obs_sizes[agent]].double().mean((0, 1))
        torch.testing.assert_close(scale.mean[0], expected)
