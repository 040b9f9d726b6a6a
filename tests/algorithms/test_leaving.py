"""An agent that has left changes nothing: whatever stands in its rows, updates are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms.happo import HappoConfig, SequentialPPO
from dima.algorithms.hasac import Hasac, HasacConfig
from dima.algorithms.ppo import PPO, PPOConfig
from dima.data import EnvSpec, Rollout, TransitionBatch, View, blank, choose
from dima.experience.transitions import NStepBatch
from dima.policies.actors import ActorConfig
from dima.policies.critics import CriticConfig

AGENTS = ("a", "b", "c")
SPECS = {
    "continuous": EnvSpec(AGENTS, 4 + 3, (5, 3, 4), (1, 2, 2), discrete=False, agents_leave=True),
    "choices": EnvSpec(AGENTS, 4 + 3, (5, 3, 4), (2, 4, 3), discrete=True, masks_actions=True, agents_leave=True),
}
SMALL = PPOConfig(actor=ActorConfig(hidden=(16,), normalize_obs=True), critic=CriticConfig(hidden=(16,)), entropy=0.05)
BUILD: dict[str, Callable[[EnvSpec], PPO]] = {
    "mappo": SMALL.build,
    "minibatches, survival weights": SMALL.override({"minibatches": 3, "survival_weights": True}).build,
    "beta": lambda spec: SMALL.override({"actor": {"distribution": "beta"}}).build(spec),
    "happo": HappoConfig(ppo=SMALL).build_ppo,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> EnvSpec:
    return SPECS[request.param]


def states(spec: EnvSpec, alive: Tensor) -> Tensor:
    """Random states (..., S) with flags of who is there, (..., N)."""
    return torch.cat([torch.randn(*alive.shape[:-1], spec.state_dim - spec.n_agents), alive.float()], dim=-1)


def observed(spec: EnvSpec, *lead: int) -> tuple[Tensor, Tensor]:
    obs = torch.randn(*lead, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
    mask = torch.from_numpy(spec.action_valid).expand(*lead, -1, -1).clone()
    if spec.masks_actions:
        mask[..., 1:] &= torch.rand(mask[..., 1:].shape) < 0.7
    return obs, mask


def collect(team: PPO, alive: Tensor) -> Rollout:
    """Random observations with the team's own actions; ``alive`` (B, T + 1, N) says who is there."""
    spec, (batch, length) = team.spec, (alive.shape[0], alive.shape[1] - 1)
    (obs, mask), state = observed(spec, batch, length), states(spec, alive)
    obs = blank(obs, alive[:, :-1])
    nothing = torch.empty(batch, length, 0)
    action, log_prob = choose(team.actor.act, View(obs, state[:, :-1], mask, nothing), spec)
    terminated = ~alive[:, 1:].any(-1)
    boundary = terminated.clone()
    boundary[:, -1] = True
    return Rollout(
        obs=obs,
        state=state[:, :-1],
        action_mask=mask,
        previous_action=torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], dim=1),
        action=action,
        log_prob=log_prob,
        reward=torch.randn(batch, length),
        continuation=1 - terminated.float(),
        boundary=boundary,
        next_state=state[:, 1:],
    )


def leaving(batch: int = 12, length: int = 8) -> Tensor:
    """(B, T + 1, N) agents that leave at random steps; at least one stays to the end."""
    last = torch.randint(1, length + 4, (batch, len(AGENTS)))
    last[:, 0] = length + 1
    return torch.arange(length + 1)[:, None] < last[:, None, :]


def spoil(record: Any, alive: Tensor, names: tuple[str, ...]) -> Any:
    """The record with garbage where agents have left."""
    changed = {}
    for name in names:
        values = getattr(record, name).clone()
        flat = values[~alive]  # (K, ...)
        garbage: Tensor = torch.full_like(flat, False if flat.dtype == torch.bool else torch.nan)
        if flat.dtype != torch.bool and len(flat):
            garbage[::2], garbage[1::3] = torch.inf, 1e30
        values[~alive] = garbage
        changed[name] = values
    return replace(record, **changed)


def everything(learner: nn.Module) -> dict[str, Tensor]:
    """Weights, buffers and optimiser states."""
    found = dict(learner.state_dict())
    for name, optimizer in vars(learner).items():
        if isinstance(optimizer, torch.optim.Adam):
            for number, state in optimizer.state_dict()["state"].items():
                found |= {f"{name}/{number}/{key}": value for key, value in state.items()}
    return {name: value.clone() for name, value in found.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, other[name]), name


PPO_ROWS = ("obs", "action", "log_prob", "action_mask")


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_ppo_does_not_see_the_rows_of_agents_that_have_left(spec: EnvSpec, build) -> None:
    if spec.discrete and build is BUILD["beta"]:
        pytest.skip("for continuous actions")
    taught = []
    for garbage in (False, True):
        torch.manual_seed(1)
        team, alive = build(spec), leaving()
        team.update_statistics(torch.randn(50, 3, 5), states(spec, torch.rand(50, 3) < 0.8))
        for _ in range(2):
            rollout = collect(team, alive)
            if garbage:
                rollout = spoil(rollout, alive[:, :-1], PPO_ROWS)
            metrics = team.update(rollout)
            team.update_statistics(rollout.obs, rollout.state)
            assert all(torch.isfinite(value).all() for value in metrics.values())
        taught.append(everything(team))
    assert_equal(*taught)


def test_a_living_agent_s_rows_are_seen(spec: EnvSpec) -> None:
    taught = []
    for changed in (0.0, 1.0):
        torch.manual_seed(1)
        team, alive = SMALL.build(spec), leaving()
        rollout = collect(team, alive)
        rollout.obs[:, :2, 0] += changed
        team.update(rollout)
        taught.append(team.actor.net[0].weight.clone())
    assert not torch.equal(*taught)


def test_the_loss_is_the_mean_over_those_who_act(spec: EnvSpec) -> None:
    team, alive = SMALL.build(spec), leaving()
    batch, _ = team.prepare(collect(team, alive))
    with torch.no_grad():
        for parameter in team.actor.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    acting = alive[:, :-1].flatten(0, 1)
    policy = team.actor(batch.obs, batch.action_mask)
    ratio = (policy.log_prob(batch.action) - batch.log_prob)[acting].exp()
    advantage = batch.advantage[:, None].expand(-1, 3)[acting]
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantage.std(correction=0)) == pytest.approx(1, abs=1e-3)
    clipped = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
    expected = -clipped.mean() - 0.05 * policy.entropy()[acting].mean()
    loss, metrics = team.actor_loss(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["entropy"], policy.entropy()[acting].mean())


def test_the_ratio_of_an_agent_that_has_left_counts_as_one(spec: EnvSpec, monkeypatch) -> None:
    team, alive = HappoConfig(ppo=SMALL, fixed_order=True).build_ppo(spec), leaving()
    alive[:, 2:, 0] = False
    alive[:, :, 2] = True
    factors = {}
    step = SequentialPPO.agent_step

    def record(agent, batch):
        factors[agent] = batch.factor
        return step(team, agent, batch)

    monkeypatch.setattr(team, "agent_step", record)
    team.update(collect(team, alive))
    there = alive[:, :-1, 0].flatten()
    assert (factors[1][~there] == 1).all()
    assert (factors[1][there] != 1).float().mean() > 0.5


def test_happo_leaves_an_agent_alone_that_was_never_there(spec: EnvSpec) -> None:
    team, alive = HappoConfig(ppo=SMALL).build_ppo(spec), leaving()
    team.update(collect(team, torch.ones_like(alive)))  # now there is momentum
    alive[..., 1] = False
    before = [{k: v.clone() for k, v in member.state_dict().items()} for member in team.actor.members]
    team.update(collect(team, alive))
    changed = [
        any(not torch.equal(value, old[name]) for name, value in member.state_dict().items())
        for member, old in zip(team.actor.members, before, strict=True)
    ]
    assert changed == [True, False, True]


# -- HASAC ------------------------------------------------------------------------------------------------------------

SOFT = HasacConfig(hidden=(16, 16), capacity=5_000, warmup=60, batch=32, n_step=3, normalize_obs=True)


def n_step_batch(team: Hasac, rows: int = 40) -> tuple[NStepBatch, Tensor, Tensor]:
    """A batch, who is there at its first steps and after its last."""
    spec, alive = team.spec, torch.rand(rows, 3) < 0.7
    alive[:, 0] = True
    after = alive & (torch.rand(rows, 3) < 0.7)
    (obs, mask), (next_obs, next_mask) = observed(spec, rows), observed(spec, rows)
    with torch.no_grad():
        action, _ = team.actors.sample(obs, mask)
    return (
        NStepBatch(
            obs=blank(obs, alive),
            state=states(spec, alive),
            action_mask=mask,
            action=blank(action, alive),
            returns=torch.randn(rows),
            discount=torch.rand(rows),
            next_obs=blank(next_obs, after),
            next_state=states(spec, after),
            next_mask=next_mask,
        ),
        alive,
        after,
    )


def test_hasac_does_not_see_the_rows_of_agents_that_have_left(spec: EnvSpec) -> None:
    taught = []
    for garbage in (False, True):
        torch.manual_seed(1)
        team = SOFT.build(spec, "cpu")
        for _ in range(3):
            batch, alive, after = n_step_batch(team)
            team.actors.update_statistics(batch.obs, alive)
            if garbage:
                batch = spoil(batch, alive, ("obs", "action", "action_mask"))
                batch = spoil(batch, after, ("next_obs", "next_mask"))
                team.actors.update_statistics(batch.obs[:0], alive[:0])
            team.critic_step(batch)
            metrics = team.actor_steps(batch)
            team.polyak_update()
            assert all(torch.isfinite(value).all() for value in metrics.values())
        taught.append(everything(team))
    assert_equal(*taught)


def test_statistics_of_hasac_leave_out_those_who_have_left(spec: EnvSpec) -> None:
    team, alive = SOFT.build(spec, "cpu"), leaving(20, 9)[:, :-1]
    obs, _ = observed(spec, 20, 9)
    zeros = torch.zeros(20, 9)
    fixed = {f.name: zeros for f in fields(TransitionBatch)}
    spoilt = spoil(TransitionBatch(**fixed | {"obs": obs, "state": states(spec, alive)}), alive, ("obs",))
    spoilt.boundary = zeros.bool()
    team.update_statistics(spoilt)
    for agent, scale in enumerate(team.actors.obs_scales):
        own = obs[..., agent, : spec.obs_sizes[agent]][alive[..., agent]].double()
        torch.testing.assert_close(scale.mean, own.mean(0))
        torch.testing.assert_close(scale.var, own.var(0, correction=0))


class Ones:
    """A new tensor whose exponential draw is 1 everywhere."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def exponential_(self) -> Tensor:
        return torch.ones(self.like.shape)


def test_a_gradient_of_hasac_is_that_of_the_rows_in_which_the_agent_acts(spec: EnvSpec, monkeypatch) -> None:
    team = SOFT.override({"fixed_order": True, "alpha": 0.2}).build(spec, "cpu")
    batch, alive, _ = n_step_batch(team)
    alive[:, 1:] = True  # the first agent alone is absent from some rows
    alive[::2, 0] = False
    batch = replace(batch, state=states(spec, alive))
    acting = NStepBatch(**{f.name: getattr(batch, f.name)[alive[:, 0]] for f in fields(batch)})
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # no noise, which would differ between the two
    monkeypatch.setattr(torch, "empty_like", Ones)
    gradients: list[list[Tensor]] = []
    weights = list(team.actors.members[0].parameters())
    monkeypatch.setattr(
        team.actor_optimizer, "step", lambda: gradients.append([w.grad.clone() for w in weights if w.grad is not None])
    )
    for rows in (batch, acting):
        team.actor_steps(rows)
    torch.testing.assert_close(gradients[0], gradients[3], atol=1e-6, rtol=1e-4)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients[0])


def test_hasac_leaves_an_agent_alone_that_was_never_there(spec: EnvSpec) -> None:
    team = SOFT.build(spec, "cpu")
    batch, _, _ = n_step_batch(team)
    team.actor_steps(batch)  # now there is momentum
    alive = torch.tensor([True, False, True]).expand(40, -1)
    batch = replace(batch, state=states(spec, alive))
    before = [[value.clone() for value in member.parameters()] for member in team.actors.members]
    team.actor_steps(batch)
    kept = [
        all(torch.equal(a, b) for a, b in zip(member.parameters(), old, strict=True))
        for member, old in zip(team.actors.members, before, strict=True)
    ]
    assert kept == [False, True, False]


def test_nothing_is_blanked_where_nobody_leaves() -> None:
    values = torch.randn(3, 2, 4)
    assert blank(values, None) is values
    spec = EnvSpec(("a", "b"), 4, (4, 4), (1, 1), discrete=False)
    assert spec.alive(torch.zeros(5, 4)) is None
    assert spec.own_state(values) is values
