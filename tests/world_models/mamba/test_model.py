"""Windows, resets, communication, losses and rollouts of the recurrent world model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.experience.replay import Replay, Rows
from dima.world_models.mamba import model as module
from dima.world_models.mamba.latent import features, mode
from dima.world_models.mamba.losses import information_loss, masked_mean, reconstruction_loss
from dima.world_models.mamba.model import MambaWorldModel, first_rows
from dima.world_models.rollout import imagine


def filtered(model: MambaWorldModel, rows: Rows, **options: Any) -> Any:
    torch.manual_seed(5)
    return model.filter(rows, rows.obs, first_rows(rows), **options)


class Spy(torch.nn.Module):
    """A network whose inputs are remembered."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[tuple[Tensor, ...]]()

    def forward(self, *inputs: Tensor) -> Any:
        self.seen.append(inputs)
        return self.network(*inputs)


@torch.no_grad()
def test_a_latent_is_paired_with_what_its_step_brought(build, counting, spec: EnvSpec) -> None:
    """z of observation t + 1 comes from action t; its reward and end are those of step t + 1."""
    model, replay = build(spec), counting(spec)
    networks = model.dynamics.filter
    networks.encoder, networks.transition = Spy(networks.encoder), Spy(networks.transition)
    for head, constant in ((model.dynamics.reward, 0.0), (model.dynamics.continuation, 10.0)):
        head[-1].weight.zero_()
        head[-1].bias.fill_(constant)
    metrics = model.loss(replay.segments(torch.tensor([3]), 6))[1]  # t = 3
    assert networks.encoder.seen[0][0][0, :, 0, 0].tolist() == [4, 5, 6, 7]  # L - 2 pairs
    actions = torch.stack([inputs[0][0, 0, 0] for inputs in networks.transition.seen])
    torch.testing.assert_close(100 * actions, torch.tensor([3.0, 4, 5, 6, 7]))
    assert float(metrics["dynamics/reward"]) == pytest.approx(5.5 - 0.5)  # smooth L1 from 0 to 4, 5, 6, 7
    assert float(metrics["dynamics/continuation"]) == pytest.approx(0, abs=1e-3)
    metrics = model.loss(replay.segments(torch.tensor([15]), 6))[1]  # steps 16 to 19, the last of which terminates
    assert float(metrics["dynamics/continuation"]) == pytest.approx(10 / 4, abs=1e-3)


@torch.no_grad()
def test_reward_and_end_are_learnt_from_the_state_that_the_action_leads_to(build, episodes, spec: EnvSpec) -> None:
    model, rows = build(spec), Replay.of(episodes(spec, (12,)), spec, "cpu").segments(torch.tensor([2]), 6)
    found, net = filtered(model, rows), model.dynamics
    net.reward, net.continuation, net.trunk = (Spy(part) for part in (net.reward, net.continuation, net.trunk))
    torch.manual_seed(5)
    model.loss(rows)
    reached = features(found.stochastic, found.deterministic[:, 1:])
    assert torch.equal(net.reward.seen[0][0], reached)
    assert torch.equal(net.continuation.seen[0][0], reached)
    assert torch.equal(net.trunk.seen[0][0], features(found.stochastic, found.deterministic[:, :-1]))


def test_windows_reach_from_the_oldest_row_to_the_newest(build, counting, spec: EnvSpec) -> None:
    model, replay = build(spec), counting(spec)
    rows = model.imagination_rows(replay, 400)
    assert set(rows.obs[:, 0, 0, 0].tolist()) == set(range(16))
    assert rows.valid.all()


def test_a_replay_shorter_than_a_window_is_one_line(build, episodes, spec: EnvSpec) -> None:
    with pytest.raises(ConfigError, match=r"holds 4 steps, too few for a window of 6"):
        build(spec).rows(Replay.of(episodes(spec, (4,)), spec, "cpu"))


@torch.no_grad()
def test_latents_of_an_episode_do_not_depend_on_the_one_before(build, episodes, any_spec: EnvSpec) -> None:
    model, played = build(any_spec), episodes(any_spec, (5, 9))
    rows = Replay.of(played, any_spec, "cpu").segments(torch.tensor([3]), 6)  # two rows of the first, four of the next
    one = filtered(model, rows)
    before = (rows.episode == rows.episode[:, :1]).float()
    assert before.sum() == 3
    other = replace(
        rows,
        obs=rows.obs + before[..., None, None],
        action=torch.where(before[..., None, None] > 0, rows.action.roll(1, -1) * 0.5 + 0.1, rows.action),
    )
    two = filtered(model, other)
    assert not torch.equal(one.deterministic[:, 1], two.deterministic[:, 1])
    assert torch.equal(one.deterministic[:, 2:], two.deterministic[:, 2:])
    assert torch.equal(one.posterior[:, 2:], two.posterior[:, 2:])


@torch.no_grad()
def test_the_state_after_the_last_action_of_an_episode_is_not_reset(build, episodes, spec: EnvSpec) -> None:
    model, played = build(spec), episodes(spec, (5, 9))
    rows = Replay.of(played, spec, "cpu").segments(torch.tensor([2]), 6)  # rows 2 ... 7; row 5 is the final observation
    found = filtered(model, rows)
    following = model.dynamics.filter.transition(rows.action[:, 2], found.stochastic[:, 1], found.deterministic[:, 1])
    assert torch.equal(found.deterministic[:, 2], following)


@torch.no_grad()
def test_agents_hear_of_each_other_unless_they_may_not(build, episodes, spec: EnvSpec) -> None:
    model = build(spec)
    rows = Replay.of(episodes(spec, (12,)), spec, "cpu").segments(torch.tensor([1]), 6)
    changed = replace(rows, action=rows.action.clone())
    changed.action[:, 2, 1] += 0.3  # of agent 1
    for mask, hears in ((None, True), (torch.eye(3, dtype=torch.bool), False)):
        one, two = (filtered(model, some, communication=mask) for some in (rows, changed))
        assert not torch.equal(one.deterministic[:, 2, 1], two.deterministic[:, 2, 1])
        assert torch.equal(one.deterministic[:, 2, 0], two.deterministic[:, 2, 0]) != hears


@torch.no_grad()
def test_agents_are_told_apart_by_their_number_alone(build, spec: EnvSpec) -> None:
    transition, order = build(spec).dynamics.filter.transition, torch.tensor([2, 0, 1])
    given = torch.randn(4, 3, 2), torch.randn(4, 3, 12), torch.randn(4, 3, 8)

    def equivariant() -> bool:
        ordered = transition(*(one[:, order] for one in given))
        return torch.allclose(ordered, transition(*given)[:, order], atol=1e-6)

    assert not equivariant()
    transition.attention.places.zero_()
    assert equivariant()


@torch.no_grad()
def test_a_step_predicts_reward_from_the_state_that_it_reaches(build, episodes, actions, spec: EnvSpec) -> None:
    model = build(spec)
    latent = model.start(Replay.of(episodes(spec, (12,)), spec, "cpu").gather(torch.tensor([4, 9]), 4, 0))
    action = actions(spec, 2)
    after = model.step(latent, action)
    repeated = model.dynamics.filter.transition(action, latent.stochastic, latent.deterministic)
    assert torch.equal(after.latent.deterministic, repeated)
    reward = model.dynamics.reward(features(latent.stochastic, repeated))[..., 0].mean(-1)
    assert torch.equal(after.reward, reward)


@torch.no_grad()
def test_a_temperature_sharpens_imagined_latents_and_no_filtered_ones(
    build, episodes, actions, spec: EnvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, drawn = Replay.of(episodes(spec, (12,)), spec, "cpu").segments(torch.tensor([2]), 6), {}
    for temperature in (1.0, 0.25):
        torch.manual_seed(1)
        model, seen = build(spec, temperature=temperature), []
        monkeypatch.setattr(module, "sample", lambda logits, seen=seen: seen.append(logits) or mode(logits))
        model.step(model.start(rows), actions(spec, 1, 1)[:, 0])
        drawn[temperature] = seen
    *filtered_at_one, prior = drawn[1.0]
    *filtered_below, sharper = drawn[0.25]
    torch.testing.assert_close(sharper, 4 * prior)
    assert all(torch.equal(a, b) for a, b in zip(filtered_below, filtered_at_one, strict=True))


def test_dropout_is_active_while_fitting_alone(build, episodes, spec: EnvSpec) -> None:
    model = build(spec, dropout=0.5)
    rows = Replay.of(episodes(spec, (12,)), spec, "cpu").segments(torch.tensor([1]), 6)
    assert torch.equal(filtered(model, rows).deterministic, filtered(model, rows).deterministic)
    model.dynamics.train()
    torch.manual_seed(0)
    one, other = (model.filter(rows, rows.obs, first_rows(rows)).deterministic[:, 0] for _ in range(2))
    assert not torch.equal(one, other)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_reconstruction_counts_rows_without_an_observation() -> None:
    obs, predicted, valid = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4), torch.ones(2, 4)
    everywhere = torch.ones(2, 3, 2)

    def loss(real: Tensor) -> float:
        return float(reconstruction_loss(predicted, obs, valid, real))

    assert loss(torch.zeros_like(everywhere)) == 0
    twice = reconstruction_loss(predicted.repeat(1, 1, 1, 2), obs.repeat(1, 1, 1, 2), valid.repeat(1, 2), everywhere)
    assert float(twice) == pytest.approx(2 * loss(everywhere), rel=1e-5)
    mean = reconstruction_loss(predicted, obs, valid, everywhere, "mean")
    assert float(mean) == pytest.approx(loss(everywhere) / 4, rel=1e-5)
    first = reconstruction_loss(predicted[:1], obs[:1], valid, everywhere[:1])
    half = everywhere.clone()
    half[1] = 0
    assert loss(half) == pytest.approx(float(first) / 2, rel=1e-5)  # the others are in the divisor


def test_padding_has_no_part_in_a_loss() -> None:
    obs, predicted, valid = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    predicted[..., 1, 2] = 7
    assert reconstruction_loss(predicted, obs, valid, torch.ones(1, 1, 2)) == 0
    logits, action = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]]), torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    one_choice = torch.tensor([[True, True], [True, False]])
    found = information_loss(logits, action, one_choice, torch.ones(1, 1, 1), discrete=True)
    assert float(found) == pytest.approx(-float(torch.tensor([1.0, 2.0]).log_softmax(-1)[1]) / 2, rel=1e-5)


def test_information_of_continuous_actions_is_half_the_squared_error() -> None:
    predicted, action, valid = torch.zeros(1, 2, 1, 2), torch.tensor([[[[3.0, 4.0]], [[1.0, 1.0]]]]), torch.ones(1, 2)
    known = torch.tensor([[[1.0], [0.0]]])
    assert float(information_loss(predicted, action, valid.bool(), known, discrete=False)) == pytest.approx(12.5 / 2)


def test_only_steps_have_a_reward() -> None:
    assert float(masked_mean(torch.tensor([[[1.0, 3.0], [100.0, 100.0]]]), torch.tensor([[1.0, 0.0]]))) == 2
    assert float(masked_mean(torch.ones(1, 1, 2), torch.zeros(1, 1))) == 0


@torch.no_grad()
def test_agents_that_have_left_have_no_observation_and_no_action(build, episodes) -> None:
    spec = EnvSpec(("a", "b", "c"), 4 + 3, (5, 5, 5), (2, 2, 2), discrete=False, agents_leave=True)
    (episode,) = episodes(spec, (12,))
    alive = torch.tensor([[1, 1, 1]] * 5 + [[1, 0, 1]] * 3 + [[0, 0, 1]] * 5).float()
    episode.state[:, -3:] = alive
    episode.obs *= 0
    model, rows = build(spec), Replay.of([episode], spec, "cpu").segments(torch.tensor([3]), 8)
    for head, constant in ((model.dynamics.decoder, 10.0), (model.dynamics.classifier[-1], 3.0)):
        head.weight.zero_()
        head.bias.fill_(constant)
    metrics = model.loss(replace(rows, action=rows.action * 0))[1]
    assert float(metrics["dynamics/reconstruction"]) == pytest.approx(5 * 9.5 * float(alive[4:10].mean()), rel=1e-5)
    assert float(metrics["dynamics/information"]) == pytest.approx(2 * 4.5 * float(alive[5:10].mean()), rel=1e-5)
    assert not model.policy_spec.agents_leave


def test_every_weight_that_is_fitted_has_a_gradient(build, episodes, any_spec: EnvSpec) -> None:
    model = build(any_spec)
    rows = Replay.of(episodes(any_spec, (5, 12)), any_spec, "cpu").segments(torch.tensor([0, 4, 8]), 6)
    loss, metrics = model.loss(rows)
    loss.backward()
    assert all(weight.grad is not None for weight in model.dynamics.parameters())
    assert ("dynamics/availability" in metrics) == any_spec.masks_actions
    torch.testing.assert_close(loss.detach(), torch.stack([*metrics.values()]).sum())
    assert "dynamics/information" not in build(any_spec, information=0.0).loss(rows)[1]


# -- rollouts ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_policies_are_trained_from_every_row_that_has_an_action(build, episodes, any_spec: EnvSpec, actions) -> None:
    model, replay = build(any_spec), Replay.of(episodes(any_spec, (5, 9)), any_spec, "cpu")
    rows = replay.segments(torch.tensor([3, 8]), 6)  # row 5 is a final observation
    torch.manual_seed(5)
    found = filtered(model, rows)
    torch.manual_seed(5)
    latent = model.starts(rows)
    assert latent.stochastic.shape[0] == 2 * 4
    kept = [0, *range(2, 8)]
    assert torch.equal(latent.stochastic[:7], found.stochastic.flatten(0, 1)[kept])
    assert torch.equal(latent.deterministic[:7], found.deterministic[:, :-1].flatten(0, 1)[kept])
    assert torch.equal(latent.stochastic[7], latent.stochastic[0])  # in place of the final observation
    assert torch.equal(latent.action_mask[:7], rows.action_mask[:, 1:-1].flatten(0, 1)[kept])
    view = model.policy_view(latent)
    assert view.obs.shape == (8, any_spec.n_agents, model.policy_spec.obs_dim)
    assert torch.equal(view.state, view.obs.flatten(1))

    def act(view: Any) -> tuple[Tensor, Tensor]:
        return actions(any_spec, len(view.obs)), torch.zeros(len(view.obs), any_spec.n_agents)

    assert imagine(model, act, rows, 3, every=True).reward.shape == (8, 3)


@torch.no_grad()
def test_the_newest_of_the_starts_is_the_start(build, episodes, spec: EnvSpec) -> None:
    model, replay = build(spec), Replay.of(episodes(spec, (20,)), spec, "cpu")
    torch.manual_seed(1)
    one = model.start(replay.gather(torch.tensor([9]), model.context - 1, 0))
    torch.manual_seed(1)
    starts = model.starts(replay.segments(torch.tensor([5]), model.config.window))
    for name, values in vars(starts).items():
        assert torch.equal(values[-1:], getattr(one, name)), name


@torch.no_grad()
def test_imagined_masks_always_allow_something(build, episodes, actions) -> None:
    spec = EnvSpec(("a", "b"), 3, (4, 2), (2, 4), discrete=True, masks_actions=True)
    model = build(spec)
    model.dynamics.availability[-1].bias.fill_(-100)
    latent = model.start(Replay.of(episodes(spec, (12,)), spec, "cpu").gather(torch.tensor([4, 9]), 4, 0))
    mask = model.step(latent, actions(spec, 2)).latent.action_mask
    assert torch.equal(mask.sum(-1), torch.ones(2, 2, dtype=torch.long))
    assert not mask[:, 0, 2:].any()


@torch.no_grad()
@pytest.mark.parametrize("scale", ["raw", "symlog", "normalized"])
def test_rewards_come_back_in_their_own_units(build, episodes, spec: EnvSpec, scale: str) -> None:
    model, reward = build(spec, reward=scale), torch.tensor([-300.0, -0.5, 0.0, 1e-3, 40.0])
    model.update_statistics(episodes(spec, (30,)))
    torch.testing.assert_close(model.reward_scale.invert(model.reward_scale(reward)), reward)
    shown = model.reward_scale(reward)
    assert (shown.abs().max() < 10) == (scale == "symlog")
