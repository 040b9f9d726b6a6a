"""The ensemble: independent members, a known environment learnt, one member per rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dima.data import EnvSpec, Episode
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.progress import Progress
from dima.world_models.base import PartialReset, SequentialReveal
from dima.world_models.ensemble import Dynamics, EnsembleModelConfig, EnsembleWorldModel, Members
from dima.world_models.fitting import WorldModelFitter

NOISE = torch.tensor([0.3, 0.1, 0.2, 0.05])  # standard deviations of the known environment's steps


def build(spec: EnvSpec, **changes: Any) -> EnsembleWorldModel:
    small = {"members": 3, "hidden": [32], "decoder": {"hidden": [16]}}
    small |= {name: {"updates": 3, "batch": 8} for name in ("dynamics_fit", "decoder_fit")}
    return EnsembleModelConfig().override(small).override(changes).build(spec).eval()


def store(model: EnsembleWorldModel, played: list[Episode]) -> Replay:
    replay = Replay(ReplayConfig(capacity=10_000, recent_share=0.25), model.spec, "cpu", model.visit_counters)
    for episode in played:
        replay.add(episode)
    return replay


def begin(model: EnsembleWorldModel, played: list[Episode], *anchors: int) -> Any:
    return model.start(store(model, played).gather(torch.tensor(anchors), model.context - 1, 0))


def test_members_are_independent_networks() -> None:
    members, x = Members(3, (4, 8, 2)), torch.randn(3, 5, 4)
    out = members(x)
    for m in range(3):
        hidden = x[m] @ members.weight[0][m] + members.bias[0][m]
        alone = torch.nn.functional.silu(hidden) @ members.weight[1][m] + members.bias[1][m]
        torch.testing.assert_close(out[m], alone)
    assert not torch.equal(members.weight[0][0], members.weight[0][1])
    with torch.no_grad():
        members.weight[0][1] += 1
    assert [torch.equal(a, b) for a, b in zip(members(x), out, strict=True)] == [True, False, True]


def test_uncertainty_is_the_members_disagreement_in_units_of_the_reward(any_spec: EnvSpec, actions, episodes) -> None:
    model, played = build(any_spec, draw="member"), episodes(any_spec, (30, 30))
    model.update_statistics(played)
    latent, action = begin(model, played, 4, 40), actions(any_spec, 2)
    found = model.uncertainty(latent, action)
    for bound in (model.dynamics.lowest, model.dynamics.highest):
        bound.data.fill_(-40.0)  # draws are means
    changes = []
    for member in range(3):
        after = model.step(replace(latent, member=torch.full((2,), member)), action).latent.state
        changes.append((after - latent.state) * model.state_scale.scale / model.change_scale.scale)
    expected = torch.stack(changes).std(0).mean(-1) * model.reward_scale.scale
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for part in (model.dynamics.members.weight, model.dynamics.members.bias):
        for weights in part:
            weights.data[1:] = weights.data[:1]
    torch.testing.assert_close(model.uncertainty(latent, action), torch.zeros(2), rtol=0, atol=1e-5)


def test_variances_stay_within_the_learnt_bounds(any_spec: EnvSpec, actions) -> None:
    dynamics = Dynamics(EnsembleModelConfig(members=2, hidden=(8,)), any_spec)
    with torch.no_grad():
        dynamics.members.bias[-1] += 100 * torch.randn_like(dynamics.members.bias[-1])
    predicted = dynamics(100 * torch.randn(2, 9, any_spec.state_dim), torch.stack([actions(any_spec, 9)] * 2))
    assert (predicted.log_var <= dynamics.highest + 1e-3).all()
    assert (predicted.log_var >= dynamics.lowest - 1e-3).all()
    assert (predicted.mask_logits is not None) == any_spec.masks_actions


def known_environment(spec: EnvSpec, actions, lengths: list[int]) -> list[Episode]:
    """s' = 0.9 s + the summed actions + noise; the reward is s_0; an episode terminates when s_1 exceeds 0.5."""
    played = []
    for length in lengths:
        state, action = torch.zeros(length + 1, spec.state_dim), actions(spec, length)
        for t in range(length):
            pushed = action[t].sum(0)[0]
            state[t + 1] = 0.9 * state[t] + pushed + NOISE * torch.randn(spec.state_dim)
        over = state[1:, 1] > 0.5
        end = int(over.nonzero()[0]) + 1 if over.any() else length
        last = torch.arange(end) == end - 1
        played.append(
            Episode(
                obs=state[: end + 1, None, :1].expand(-1, spec.n_agents, spec.obs_dim)
                * torch.from_numpy(spec.obs_valid),
                state=state[: end + 1],
                action_mask=torch.from_numpy(spec.action_valid).expand(end + 1, -1, -1),
                action=action[:end],
                reward=state[:end, 0],
                terminated=last & bool(over.any()),
                truncated=last & (not bool(over.any())),
            )
        )
    return played


def test_it_learns_mean_noise_reward_and_termination_of_a_known_environment(actions, one_thread) -> None:
    spec = EnvSpec(("a", "b"), 4, (1, 1), (1, 1), discrete=False)
    played = known_environment(spec, actions, [20] * 150)
    fits = {"dynamics_fit": {"updates": 600, "batch": 128, "lr": 3e-3}, "decoder_fit": {"updates": 300, "lr": 3e-3}}
    model = build(spec, **fits)
    model.update_statistics(played)
    WorldModelFitter(model).fit(store(model, played), Progress())
    starts = begin(model, played, *range(2, 9)).state.repeat(2_000, 1)
    state = model.state_scale.denormalize(starts)
    latent = begin(model, played, *range(2, 9))
    latent.state, latent.member = starts, torch.randint(3, (len(starts),))
    latent.action_mask = latent.action_mask[:1].expand(len(starts), -1, -1)
    action = actions(spec, 7).repeat(2_000, 1, 1)
    with torch.no_grad():
        step = model.step(latent, action)
        drawn = model.observe(step.latent).state.unflatten(0, (2_000, 7))
    expected = 0.9 * state[:7] + action[:7].sum(1)
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.std(0).mean(0), NOISE, atol=0.02, rtol=0.15)
    torch.testing.assert_close(step.reward.unflatten(0, (2_000, 7)).mean(0), state[:7, 0], atol=0.08, rtol=0)
    ends = (expected[:, 1] > 0.65, expected[:, 1] < 0.3)
    continuation = step.continuation.unflatten(0, (2_000, 7)).mean(0)
    assert ends[0].any()
    assert ends[1].any()
    assert (continuation[ends[0]] < 0.5).all()
    assert (continuation[ends[1]] > 0.5).all()
    assert continuation[ends[1]].mean() > 0.9
    seen = model.observe(step.latent).obs[:, 0, 0]
    assert (seen - model.observe(step.latent).state[:, 0]).abs().mean() < 0.1


def test_a_rollout_keeps_its_member(any_spec: EnvSpec, actions, alive, episodes) -> None:
    model, played = alive(build(any_spec)), episodes(any_spec, (30,))
    model.update_statistics(played)
    latent = begin(model, played, *[5] * 60)
    assert set(latent.member.tolist()) == {0, 1, 2}
    with torch.no_grad():
        model.dynamics.lowest.fill_(-60.0)
        model.dynamics.highest.fill_(-50.0)  # hardly any noise
        action = actions(any_spec, 1).expand(60, -1, -1)
        after = model.step(model.step(latent, action).latent, action).latent
    assert torch.equal(after.member, latent.member)
    futures = [after.state[latent.member == m] for m in range(3)]
    for future in futures:
        torch.testing.assert_close(future, future[:1].expand_as(future))
    assert not torch.allclose(futures[0][0], futures[1][0], atol=1e-3)


def test_the_mean_of_all_members_is_deterministic(any_spec: EnvSpec, actions, alive, episodes) -> None:
    model, played = alive(build(any_spec, draw="mean")), episodes(any_spec, (30,))
    model.update_statistics(played)
    latent, action = begin(model, played, *[5] * 9), actions(any_spec, 1).expand(9, -1, -1)
    with torch.no_grad():
        step = model.step(latent, action)
        everyone = model.dynamics(latent.state.expand(3, -1, -1), action.expand(3, -1, -1, -1)).mean.mean(0)
    change = model.observe(step.latent).state - model.observe(latent).state
    torch.testing.assert_close(change, model.change_scale.denormalize(everyone[:, :-1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.reward, model.reward_scale.denormalize(everyone[:, -1]))
    assert torch.equal(step.reward, step.reward[:1].expand(9))


def test_views_and_actions_match_the_spec(any_spec: EnvSpec, actions, alive, episodes) -> None:
    model, played = alive(build(any_spec)), episodes(any_spec, (30, 30))
    model.update_statistics(played)
    latent = begin(model, played, 0, 5, 9)
    assert torch.equal(latent.previous_action[0], torch.zeros_like(latent.previous_action[0]))
    torch.testing.assert_close(latent.previous_action[1], played[0].action[4])
    action = actions(any_spec, 3)
    if not any_spec.discrete:
        action = 3 * action
    with torch.no_grad():
        step = model.step(latent, action)
        view = model.observe(step.latent)
    clipped = action if any_spec.discrete else action.clamp(-1, 1)
    assert torch.equal(view.previous_action, clipped)
    assert not view.obs[:, ~torch.from_numpy(any_spec.obs_valid)].any()
    assert view.action_mask.any(-1).all()
    assert not view.action_mask[:, ~torch.from_numpy(any_spec.action_valid)].any()
    assert ((step.continuation > 0) & (step.continuation < 1)).all()
    torch.manual_seed(5)
    unclipped = model.step(latent, action).reward
    torch.manual_seed(5)
    assert torch.equal(model.step(latent, clipped).reward, unclipped)


def test_single_rows_can_be_reset(any_spec: EnvSpec, alive, episodes) -> None:
    model, played = alive(build(any_spec)), episodes(any_spec, (12, 12))
    model.update_statistics(played)
    assert isinstance(model, PartialReset)
    assert not isinstance(model, SequentialReveal)
    old, fresh, which = begin(model, played, 4, 5, 6), begin(model, played, 7, 8, 9), torch.tensor([True, False, True])
    renewed = model.reset_rows(old, fresh, which)
    for name in ("state", "member", "action_mask", "previous_action"):
        assert torch.equal(getattr(renewed, name)[which], getattr(fresh, name)[which])
        assert torch.equal(getattr(renewed, name)[~which], getattr(old, name)[~which])


def test_every_part_has_metrics(any_spec: EnvSpec, episodes) -> None:
    model, played = build(any_spec), episodes(any_spec, (12, 9, 15))
    model.update_statistics(played)
    before = {name: value.clone() for name, value in model.named_parameters()}
    metrics = WorldModelFitter(model).fit(store(model, played), Progress())
    wanted = {"decoder/error", "dynamics/likelihood", "dynamics/continuation", "dynamics/error"}
    assert wanted <= set(metrics)
    assert ("dynamics/mask" in metrics) == any_spec.masks_actions
    assert not model.training
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
