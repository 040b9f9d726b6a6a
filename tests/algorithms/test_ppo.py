"""PPO of a team: ratios, targets, minibatches, clipping, checkpoints, learning."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms.objectives import clipped_value_loss, lambda_returns
from dima.algorithms.ppo import PPO, PPOConfig
from dima.data import EnvSpec, Rollout, View
from dima.policies.actors import ActorConfig
from dima.policies.critics import CriticConfig
from dima.runtime.fork import one_thread
from dima.storage.serialization import decode, encode

SPEC = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(5, 5), action_sizes=(2, 2), discrete=False)
UNEVEN = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(5, 3), action_sizes=(1, 2), discrete=False)
CHOICES = EnvSpec(("a", "b"), state_dim=4, obs_sizes=(5, 3), action_sizes=(2, 4), discrete=True)
SMALL = PPOConfig(actor=ActorConfig(hidden=(16,)), critic=CriticConfig(hidden=(16,)))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(spec: EnvSpec = SPEC, **changes: Any) -> PPO:
    return SMALL.override(changes).build(spec)


def act(ppo: PPO, obs: Tensor, mask: Tensor, mode: bool = False) -> tuple[Tensor, Tensor]:
    """Actions of the policy; it sees observations and action masks only."""
    nothing = torch.empty(*obs.shape[:-2], 0)
    return ppo.actor.act(View(obs, nothing, mask, nothing), mode)


def collect(ppo: PPO, batch: int = 12, length: int = 5, reward: Tensor | None = None) -> Rollout:
    """Random observations with the team's own actions."""
    spec, lead = ppo.spec, (batch, length)
    obs = torch.randn(*lead, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
    mask = torch.from_numpy(spec.action_valid).expand(*lead, -1, -1)
    action, log_prob = act(ppo, obs, mask)
    terminated = torch.rand(lead) < 0.1
    return Rollout(
        obs=obs,
        state=torch.randn(*lead, spec.state_dim),
        action_mask=mask,
        previous_action=act(ppo, obs.flip(0), mask)[0],
        action=action,
        log_prob=log_prob,
        reward=torch.randn(lead) if reward is None else reward,
        continuation=1 - terminated.float(),
        boundary=terminated | (torch.rand(lead) < 0.1),
        next_state=torch.randn(*lead, spec.state_dim),
    )


def serialized(ppo: PPO) -> tuple[str, dict[str, Tensor]]:
    """A serialised checkpoint: its text and a copy of its tensors."""
    text, tensors = encode(ppo.checkpoint())
    return text, {name: value.clone() for name, value in tensors.items()}


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("spec", [SPEC, UNEVEN, CHOICES])
def test_first_step_has_ratio_one(spec: EnvSpec) -> None:
    ppo = make(spec, epochs=1)
    rollout = collect(ppo)
    batch, _ = ppo.prepare(rollout)
    loss, metrics = ppo.actor_loss(batch)
    assert float(metrics["approx_kl"]) == pytest.approx(0, abs=1e-6) and not metrics["clip_fraction"]
    assert float(metrics["policy_loss"]) == pytest.approx(-float(batch.advantage.mean()), abs=1e-6)
    assert float(loss) == pytest.approx(-0.001 * float(metrics["entropy"]), abs=1e-5)


def test_targets_and_advantages() -> None:
    ppo = make()
    ppo.value_norm.update(50 + 10 * torch.randn(100))
    rollout = collect(ppo)
    with torch.no_grad():
        value = ppo.value_norm.denormalize(ppo.critic(rollout.state, rollout.previous_action))
        after = ppo.value_norm.denormalize(ppo.critic(rollout.next_state, rollout.action.clamp(-1, 1)))
    returns = lambda_returns(rollout.reward, rollout.continuation, rollout.boundary, after, 0.99, 0.95)
    batch, metrics = ppo.prepare(rollout)
    advantage = returns - value
    expected = (advantage - advantage.mean()) / advantage.std(correction=0)
    torch.testing.assert_close(batch.advantage, expected.flatten(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ppo.value_norm.denormalize(batch.target), returns.flatten(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.value, ppo.critic(batch.state, batch.previous_action).detach())
    torch.testing.assert_close(metrics["return"], returns.mean())
    explained = 1 - advantage.var(correction=0) / returns.var(correction=0)
    torch.testing.assert_close(metrics["explained_variance"], explained)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_without_a_floor_rewards_of_any_size_are_learnt_alike(size: float) -> None:
    found = []
    for factor in (1.0, size):
        torch.manual_seed(0)
        ppo = make(epochs=2, minibatches=3, value_norm_floor=0.0)
        metrics = [ppo.update(collect(ppo, reward=factor * torch.randn(12, 5))) for _ in range(3)]
        found.append((weights(ppo.actor), weights(ppo.critic), [one["explained_variance"] for one in metrics]))
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=0)


def test_published_epsilons_are_in_the_reward_s_units() -> None:
    deviations = []
    for floor in (0.01, 0.0):
        ppo = make(value_norm_floor=floor)
        nn.init.zeros_(ppo.critic.net[-1].weight)
        batch, _ = ppo.prepare(collect(ppo, reward=1e-6 * torch.randn(12, 5)))
        deviations.append(float(batch.advantage.std(correction=0)))
    assert deviations[0] < 0.3 and deviations[1] == pytest.approx(1, abs=1e-3)


def test_value_norm_is_updated_once_per_update() -> None:
    ppo = make(epochs=3, minibatches=2, value_norm_beta=0.9)
    ppo.update(collect(ppo))
    assert float(ppo.value_norm.weight) == pytest.approx(0.1)


def test_values_are_clipped_around_the_critic_s_raw_outputs() -> None:
    ppo = make(value_clip=0.05)
    batch, _ = ppo.prepare(collect(ppo, reward=torch.full((12, 5), 100.0)))
    value = ppo.critic(batch.state, batch.previous_action) + 0.3 * torch.randn(60)
    batch = replace(batch, value=value.detach())
    now = ppo.critic(batch.state, batch.previous_action)
    torch.testing.assert_close(ppo.critic_loss(batch), clipped_value_loss(now, batch.value, batch.target, 0.05, 10.0))


def test_the_critic_learns_while_value_norm_changes() -> None:
    ppo = make(gamma=0.0, epochs=60, critic_lr=1e-2, clip=0.3)
    for offset in (100.0, 1000.0):
        rollout = collect(ppo, 64, 4)
        rollout = replace(rollout, reward=offset + 10 * rollout.state[..., 0])
        before = ppo.critic(rollout.state, rollout.previous_action)
        ppo.update(rollout)
        after, target = ppo.critic(rollout.state, rollout.previous_action), ppo.value_norm.normalize(rollout.reward)
        assert (after - target).square().mean() < 0.8 * (before - target).square().mean()


def test_every_row_is_used_once_per_epoch() -> None:
    ppo = make(epochs=3, minibatches=4)
    batch, _ = ppo.prepare(collect(ppo, 12, 5))
    batch = replace(batch, advantage=torch.arange(60.0))
    parts = [batch[rows] for rows in ppo.minibatches(batch)]
    assert [len(part.advantage) for part in parts] == [15] * 12
    orders = []
    for epoch in range(3):
        order = torch.cat([part.advantage for part in parts[4 * epoch : 4 * epoch + 4]])
        assert torch.equal(order.sort().values, batch.advantage)
        orders.append(order)
    assert not torch.equal(orders[0], orders[1])
    for part in parts:
        assert torch.equal(part.obs, batch.obs[part.advantage.long()])


def test_accumulated_chunks_equal_one_step_on_the_whole_batch(monkeypatch) -> None:
    whole, chunked = make(epochs=1, entropy=0.1), make(epochs=1, entropy=0.1)
    chunked.load_state_dict(whole.state_dict())
    batch, _ = whole.prepare(collect(whole, 12, 5))
    batch.log_prob = batch.log_prob + 0.2 * torch.randn_like(batch.log_prob)  # some ratios are clipped
    expected = whole.actor_step(batch)
    monkeypatch.setattr("dima.algorithms.ppo.CPU_CHUNK_ROWS", 34)  # chunks of 17 rows, the last of 9
    metrics = chunked.actor_step(batch)
    assert 0 < expected["clip_fraction"] < 1
    torch.testing.assert_close(metrics, expected, atol=1e-6, rtol=1e-5)
    gradients = [[p.grad for p in team.actor.parameters()] for team in (chunked, whole)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)
    assert {int(entry["step"]) for entry in chunked.actor_optimizer.state.values()} == {1}


def test_the_critic_s_clip_defaults_to_the_actor_s() -> None:
    losses = [make(clip=clip, value_clip=own) for clip, own in ((0.05, None), (0.3, 0.05), (0.3, None))]
    batch, _ = losses[0].prepare(collect(losses[0]))
    batch = replace(batch, value=batch.value - 0.2, target=batch.value + 1)
    for other in losses[1:]:
        other.load_state_dict(losses[0].state_dict())
    narrow, own, wide = (float(ppo.critic_loss(batch)) for ppo in losses)
    assert narrow == own > wide


@pytest.mark.parametrize(("epochs", "minibatches"), [(3, 1), (2, 4)])
def test_optimiser_steps(epochs: int, minibatches: int) -> None:
    ppo = make(epochs=epochs, minibatches=minibatches)
    ppo.update(collect(ppo))
    for optimizer in (ppo.actor_optimizer, ppo.critic_optimizer):
        assert {int(entry["step"]) for entry in optimizer.state.values()} == {epochs * minibatches}


def test_a_rollout_may_have_fewer_rows_than_minibatches() -> None:
    ppo = make(epochs=2, minibatches=9)
    metrics = ppo.update(collect(ppo, 1, 3))
    assert all(value.isfinite() for value in metrics.values())
    assert {int(entry["step"]) for entry in ppo.actor_optimizer.state.values()} == {6}


def test_two_identical_agents_update_like_one_agent_on_the_tiled_batch() -> None:
    plain = {"actor": {"agent_id": "never"}, "critic": {"previous_action": False}, "lr": 1e-3}
    team = make(SPEC, **plain)
    alone = make(EnvSpec(("a",), 4, (5,), (2,), discrete=False), **plain)
    alone.load_state_dict(team.state_dict())
    rollout = collect(team)
    agents = [
        replace(
            rollout,
            **{
                name: getattr(rollout, name)[:, :, agent : agent + 1]
                for name in ("obs", "action_mask", "previous_action", "action", "log_prob")
            },
        )
        for agent in (0, 1)
    ]
    names = rollout.__dataclass_fields__
    team.update(rollout)
    alone.update(Rollout(**{name: torch.cat([getattr(agent, name) for agent in agents]) for name in names}))
    torch.testing.assert_close(weights(alone), weights(team), atol=2e-5, rtol=1e-4)


def test_values_do_not_depend_on_the_order_of_agents() -> None:
    ppo = make(critic={"previous_action": False})
    rollout = collect(ppo)
    names = ("obs", "action", "previous_action", "log_prob")
    flipped = replace(rollout, **{name: getattr(rollout, name).flip(2) for name in names})
    torch.testing.assert_close(ppo.prepare(flipped)[0].value, ppo.prepare(rollout)[0].value)


@pytest.mark.parametrize("spec", [UNEVEN, CHOICES])
def test_padding_reaches_no_gradient(spec: EnvSpec) -> None:
    ppo, other = make(spec, minibatches=2), make(spec, minibatches=2)
    other.load_state_dict(ppo.state_dict())
    rollout = collect(ppo)
    real = torch.from_numpy(spec.action_valid)
    noisy = replace(
        rollout,
        obs=torch.where(torch.from_numpy(spec.obs_valid), rollout.obs, 9.0),
        action=torch.where(real, rollout.action, 9.0),
        previous_action=torch.where(real, rollout.previous_action, 9.0),
        action_mask=torch.ones_like(rollout.action_mask),
    )
    for team, data in ((ppo, rollout), (other, noisy)):
        torch.manual_seed(1)
        team.update(data)
    torch.testing.assert_close(weights(other), weights(ppo))


def test_learning_rates_decay() -> None:
    ppo = make(linear_lr_decay=True, critic_lr=1e-3)
    ppo.update(collect(ppo), progress=0.75)
    assert ppo.actor_optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * 5e-4)
    assert ppo.critic_optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * 1e-3)
    before = weights(ppo.actor)
    ppo.update(collect(ppo), progress=1.0)
    torch.testing.assert_close(weights(ppo.actor), before, atol=0, rtol=0)


def test_gradients_are_clipped_before_the_step() -> None:
    ppo = make(max_grad_norm=1e-3, epochs=1)
    metrics = ppo.update(collect(ppo))
    assert metrics["critic_grad_norm"] > 1e-3
    for module in (ppo.actor, ppo.critic):
        norms = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None])
        assert norms.norm() <= 1.01e-3
    free = make(max_grad_norm=0, epochs=1)
    metrics = free.update(collect(free))
    norms = torch.stack([p.grad.norm() for p in free.critic.parameters() if p.grad is not None])
    torch.testing.assert_close(norms.norm(), metrics["critic_grad_norm"])


def test_normalisers_change_in_update_statistics_only() -> None:
    ppo = make(actor={"normalize_obs": True})
    rollout = collect(ppo)
    ppo.update(rollout)
    assert ppo.actor.obs_scale is not None
    assert ppo.actor.obs_scale.count == ppo.critic.state_scale.count == 0
    ppo.update_statistics(rollout.obs, rollout.state)
    assert ppo.actor.obs_scale.count == ppo.critic.state_scale.count == 60


@pytest.mark.parametrize("spec", [SPEC, CHOICES])
def test_a_restored_team_continues_exactly(spec: EnvSpec) -> None:
    changes = {"minibatches": 3, "actor": {"normalize_obs": True}}
    ppo, other = make(spec, **changes), make(spec, **changes)
    for _ in range(2):
        rollout = collect(ppo)
        ppo.update(rollout)
        ppo.update_statistics(rollout.obs, rollout.state)
    other.restore(decode(*encode(ppo.checkpoint())))
    rollout = collect(ppo)
    for team in (ppo, other):
        torch.manual_seed(2)
        team.update(rollout)
    torch.testing.assert_close(weights(other), weights(ppo), atol=0, rtol=0)
    (text, tensors), (other_text, other_tensors) = serialized(ppo), serialized(other)
    assert other_text == text
    torch.testing.assert_close(other_tensors, tensors, atol=0, rtol=0)


def test_a_restored_team_shares_no_tensors_with_the_original() -> None:
    ppo, other = make(), make()
    ppo.update(collect(ppo))
    other.restore(ppo.checkpoint())
    text, tensors = serialized(other)
    ppo.update(collect(ppo))
    assert serialized(other)[0] == text
    torch.testing.assert_close(serialized(other)[1], tensors, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "beta", "discrete"])
def test_learns_a_bandit(kind: str) -> None:
    spec = CHOICES if kind == "discrete" else SPEC
    actor = {} if kind == "discrete" else {"actor": {"distribution": kind}}
    ppo = make(spec, lr=5e-3, gamma=0.0, clip=0.2, **actor)
    goal = torch.zeros(spec.n_agents, spec.action_dim)
    goal[:, 1] = 1.0 if kind == "discrete" else 0.5

    def score(action: Tensor) -> Tensor:
        return -(action - goal).square().sum((-1, -2))

    start = collect(ppo, 64, 1)
    before = score(act(ppo, start.obs, start.action_mask, mode=True)[0]).mean()
    for _ in range(25):
        rollout = collect(ppo, 64, 1)
        metrics = ppo.update(replace(rollout, reward=score(rollout.action)))
        assert all(value.isfinite() and value.shape == () for value in metrics.values())
    after = score(act(ppo, start.obs, start.action_mask, mode=True)[0]).mean()
    assert after > before / 3


def test_actor_and_critic_in_parallel_learn_the_same(two_threads) -> None:
    serial, parallel = make(epochs=3, minibatches=2), make(epochs=3, minibatches=2)
    parallel.load_state_dict(serial.state_dict())
    rollout, metrics = collect(serial), []
    for ppo, workers in ((serial, 1), (parallel, 2)):
        torch.manual_seed(3)
        with one_thread() if workers == 1 else nullcontext():
            metrics.append([ppo.update(rollout, 0.0, workers) for _ in range(2)])
    for mine, other in zip(serial.parameters(), parallel.parameters(), strict=True):
        assert torch.equal(mine, other)
    for one, two in zip(*metrics, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value)
    for name in ("actor_optimizer", "critic_optimizer"):
        states = getattr(serial, name).state.values(), getattr(parallel, name).state.values()
        for mine, other in zip(*states, strict=True):
            assert torch.equal(mine["exp_avg"], other["exp_avg"])
            assert mine["step"] == other["step"]
