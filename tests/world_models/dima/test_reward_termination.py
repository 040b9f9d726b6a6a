"""Reward and termination: masks, steps along a memory, padding, learning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.nn.optim import FitConfig, Fitter
from dima.world_models.dima.reward_mlp import RewardMLP
from dima.world_models.dima.reward_termination import (
    Memory,
    Prediction,
    RewardTermination,
    RewardTerminationConfig,
    Segments,
)
from dima.world_models.dima.reward_transformer import RewardTransformer, block_causal_mask

SMALL = RewardTerminationConfig(dim=16, layers=2, heads=2, dropout=0.1, segment=6, action_layers=1, action_heads=2)

EMPTY = Memory()


def build(spec: EnvSpec, **changes: Any) -> RewardTransformer:
    return RewardTransformer(SMALL.override(changes), spec)


def build_mlp(spec: EnvSpec, **changes: Any) -> RewardMLP:
    return RewardMLP(SMALL.override({"backbone": "mlp", "hidden": [16, 16]} | changes), spec)


def predict_segments(
    model: RewardTermination, state: Tensor, action: Tensor, episode: Tensor, next_state: Tensor | None = None
) -> Prediction:
    return model.forward(state, action, episode, torch.zeros_like(state) if next_state is None else next_state)


@pytest.fixture
def model(any_spec: EnvSpec, alive) -> RewardTermination:
    return alive(build(any_spec))


def fields(prediction: Prediction) -> list[Tensor]:
    return [field for field in prediction if field is not None]


def rollout(
    model: RewardTermination,
    state: Tensor,
    action: Tensor,
    next_state: Tensor | None = None,
    memory: Memory = EMPTY,
) -> tuple[list[Prediction], Memory]:
    """Step by step along (B, T, ...)."""
    predictions = []
    for t in range(state.shape[1]):
        reached = torch.zeros_like(state[:, t]) if next_state is None else next_state[:, t]
        prediction, memory = model.step(memory, state[:, t], action[:, t], reached)
        predictions.append(prediction)
    return predictions, memory


def test_the_mask_is_causal_within_each_episode() -> None:
    mask = block_causal_mask(torch.tensor([[3, 3, 8]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_no_prediction_depends_on_another_episode_or_the_future(model, any_spec, actions) -> None:
    state, action = torch.randn(4, 6, any_spec.state_dim), actions(any_spec, 4, 6)
    episode = torch.tensor([0, 0, 0, 7, 7, 7]).expand(4, -1)
    before = predict_segments(model, state, action, episode)
    for changed in range(6):
        other, pushed = state.clone(), action.clone()
        other[:, changed] += 1
        pushed[:, changed] = pushed[:, changed].flip(-1) + 0.3
        end = 3 if changed < 3 else 6
        for s, a in ((other, action), (state, pushed)):
            for one, two in zip(fields(before), fields(predict_segments(model, s, a, episode)), strict=True):
                moved = (one - two).abs().flatten(2).amax((0, 2)) if one.dim() > 2 else (one - two).abs().amax(0)
                assert (moved[changed:end] > 1e-6).all()
                assert (moved[:changed] == 0).all()
                assert (moved[end:] == 0).all()


def test_steps_equal_the_full_pass(model, any_spec, actions) -> None:
    state, action = torch.randn(3, 6, any_spec.state_dim), actions(any_spec, 3, 6)
    whole = predict_segments(model, state, action, torch.zeros(3, 6, dtype=torch.long))
    memory = Memory()
    for t in range(6):
        step, memory = model.step(memory, state[:, t], action[:, t], torch.zeros_like(state[:, t]))
        for one, two in zip(fields(step), fields(whole), strict=True):
            torch.testing.assert_close(one, two[:, t])


@pytest.mark.parametrize("next_state", [False, True])
def test_batched_predictions_equal_step_by_step(any_spec: EnvSpec, next_state, alive, actions) -> None:
    """Also for a rollout longer than the memory, which is then emptied."""
    model = alive(build(any_spec, next_state=next_state, normalize_reward=True))
    state, action = torch.randn(3, 9, any_spec.state_dim), actions(any_spec, 3, 8)
    steps = rollout(model, state[:, :-1], action, state[:, 1:])[0]
    reward, continuation = model.predict(state, action)
    torch.testing.assert_close(reward, torch.stack([step.reward for step in steps], dim=1))
    torch.testing.assert_close(continuation, torch.stack([step.continuation for step in steps], dim=1))


def test_a_full_memory_is_emptied(model, any_spec, actions) -> None:
    state, action = torch.randn(3, 8, any_spec.state_dim), actions(any_spec, 3, 8)
    steps, _ = rollout(model, state, action)
    again = predict_segments(model, state[:, 6:], action[:, 6:], torch.zeros(3, 2, dtype=torch.long))
    torch.testing.assert_close(torch.stack([steps[6].reward, steps[7].reward], dim=1), again.reward)


def test_a_batch_equals_its_halves(model, any_spec, actions) -> None:
    state, action = torch.randn(6, 6, any_spec.state_dim), actions(any_spec, 6, 6)
    episode = torch.arange(6).expand(6, -1) // 4
    parts = [
        predict_segments(model, s, a, e)
        for s, a, e in zip(state.split(3), action.split(3), episode.split(3), strict=True)
    ]
    for whole, *halves in zip(*map(fields, (predict_segments(model, state, action, episode), *parts)), strict=True):
        torch.testing.assert_close(torch.cat(halves), whole)


def segments(spec: EnvSpec, actions, batch: int = 8) -> Segments:
    return Segments(
        state=torch.randn(batch, 6, spec.state_dim),
        action=actions(spec, batch, 6),
        next_state=torch.randn(batch, 6, spec.state_dim),
        reward=torch.randn(batch, 6),
        terminated=torch.tensor([False, False, True, False, False, False]).expand(batch, -1).clone(),
        next_mask=(torch.rand(batch, 6, spec.n_agents, spec.action_dim) < 0.5) & torch.from_numpy(spec.action_valid),
        episode=torch.tensor([0, 0, 0, 0, 1, 1]).expand(batch, -1),
        weight=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]).expand(batch, -1),
    )


def test_rows_without_an_action_and_padded_choices_do_not_enter_the_loss(model, any_spec, actions) -> None:
    batch = segments(any_spec, actions)
    loss, parts = model.loss(batch)
    reward, end, mask = batch.reward.clone(), batch.terminated.clone(), batch.next_mask.clone()
    state, action = batch.state.clone(), batch.action.clone()
    reward[:, 3], end[:, 3], state[:, 3], action[:, 3] = 99, True, 9, 0.5
    mask[:, 3] = True
    mask |= ~torch.from_numpy(any_spec.action_valid)
    other = replace(batch, reward=reward, terminated=end, next_mask=mask, state=state, action=action)
    torch.testing.assert_close(model.loss(other)[0], loss, rtol=0, atol=0)
    assert set(parts) == {f"reward_model/{n}" for n in ("reward", "continuation", "mask")[: 2 + any_spec.masks_actions]}
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(), loss)


def test_losses_are_smooth_l1_and_cross_entropy(model, any_spec, actions) -> None:
    batch = segments(any_spec, actions)
    predicted, parts = predict_segments(model, batch.state, batch.action, batch.episode), model.loss(batch)[1]
    gap = (predicted.reward - batch.reward).abs()[batch.weight > 0]
    smooth = torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()
    torch.testing.assert_close(parts["reward_model/reward"], smooth)
    chance = torch.where(batch.terminated, 1 - predicted.continuation, predicted.continuation)[batch.weight > 0]
    torch.testing.assert_close(parts["reward_model/continuation"], -chance.log().mean())


def test_rewards_can_be_normalised(spec: EnvSpec, alive, actions) -> None:
    plain, scaled = alive(build(spec)), build(spec, normalize_reward=True)
    scaled.load_state_dict(plain.state_dict())
    scaled.eval().reward_scale.update(torch.tensor([100.0, 300.0]))  # mean 200, deviation 100
    batch = segments(spec, actions)
    one, two = (predict_segments(m, batch.state, batch.action, batch.episode).reward for m in (plain, scaled))
    torch.testing.assert_close(two, 200 + 100 * one)
    big = replace(batch, reward=200 + 100 * batch.reward)
    torch.testing.assert_close(scaled.loss(big)[0], plain.loss(batch)[0])


def test_it_learns_rewards_and_terminations(spec: EnvSpec, actions) -> None:
    model = build(spec, dropout=0.0, dim=32)
    fitter = Fitter(model, FitConfig(lr=3e-3, max_grad_norm=10.0))
    first: dict[str, Tensor] = {}
    for _ in range(120):
        batch = segments(spec, actions, 32)
        batch.reward = batch.state[..., 0] + batch.action.sum((-1, -2)) / 2
        batch.terminated = batch.state[..., 1] > 0.5
        loss, parts = model.loss(batch)
        first = first or parts
        fitter.step(loss)
    assert parts["reward_model/reward"] < 0.25 * first["reward_model/reward"]
    assert parts["reward_model/continuation"] < 0.5 * first["reward_model/continuation"]


def test_a_reset_row_equals_a_new_episode(any_spec: EnvSpec, alive, actions) -> None:
    """Except for its position in the sequence, which is arbitrary in training segments, too."""
    model = alive(build(any_spec))
    state, action = torch.randn(3, 5, any_spec.state_dim), actions(any_spec, 3, 5)
    rows = torch.tensor([False, True, False])
    _, memory = rollout(model, state[:, :2], action[:, :2])
    reset = memory.reset_rows(rows)
    predictions, after = rollout(model, state[:, 2:], action[:, 2:], memory=reset)
    episode = torch.tensor([[0] * 5, [0, 0, 1, 1, 1], [0] * 5])
    expected = predict_segments(model, state, action, episode)
    for t, now in enumerate(predictions, start=2):
        torch.testing.assert_close(now.reward, expected.reward[:, t])
        torch.testing.assert_close(now.continuation, expected.continuation[:, t])
    assert reset.begin.tolist() == after.begin.tolist() == [0, 4, 0]
    assert memory.begin is None  # a memory is a value


def test_a_full_memory_loses_its_reset_rows(spec: EnvSpec, alive, actions) -> None:
    model = alive(build(spec))
    state, action, memory = torch.randn(2, spec.state_dim), actions(spec, 2), Memory()
    for _ in range(model.config.segment):
        _, memory = model.step(memory, state, action, state)
    fresh, _ = model.step(Memory(), state, action, state)
    prediction, memory = model.step(memory.reset_rows(torch.tensor([True, False])), state, action, state)
    torch.testing.assert_close(prediction.reward, fresh.reward)
    assert memory.tokens == 2
    assert memory.begin is None


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="dim = 30 must be divisible by heads = 4 and action_heads = 8"):
        RewardTerminationConfig(dim=30)


def test_predictions_can_depend_on_the_reached_state(spec: EnvSpec, alive, actions) -> None:
    model, blind = alive(build(spec, next_state=True)).eval(), alive(build(spec)).eval()
    batch = segments(spec, actions)
    whole = predict_segments(model, batch.state, batch.action, batch.episode, batch.next_state)
    other = batch.next_state.clone()
    other[:, 2] += 1
    for one, two in zip(
        fields(whole), fields(predict_segments(model, batch.state, batch.action, batch.episode, other)), strict=True
    ):
        assert torch.equal(one[:, [0, 1, 3, 4, 5]], two[:, [0, 1, 3, 4, 5]])
        assert (one[:, 2] != two[:, 2]).all()
    assert model.loss(replace(batch, next_state=other))[0] != model.loss(batch)[0]
    assert torch.equal(blind.loss(replace(batch, next_state=other))[0], blind.loss(batch)[0])

    together = torch.zeros(8, 6, dtype=torch.long)
    whole, memory = predict_segments(model, batch.state, batch.action, together, batch.next_state), Memory()
    for t in range(6):
        step, memory = model.step(memory, batch.state[:, t], batch.action[:, t], batch.next_state[:, t])
        for one, two in zip(fields(step), fields(whole), strict=True):
            torch.testing.assert_close(one, two[:, t], atol=1e-5, rtol=1e-5)


# -- the MLP of a transition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("termination", ["shared", "readout", "additive"])
def test_the_mlp_predicts_alike_in_whole_rollouts_and_step_by_step(any_spec, termination, alive, actions) -> None:
    model = alive(build_mlp(any_spec, termination=termination, normalize_reward=True))
    state, action = torch.randn(3, 9, any_spec.state_dim), actions(any_spec, 3, 8)
    steps, memory = rollout(model, state[:, :-1], action, state[:, 1:])
    reward, continuation = model.predict(state, action)
    torch.testing.assert_close(reward, torch.stack([step.reward for step in steps], dim=1))
    torch.testing.assert_close(continuation, torch.stack([step.continuation for step in steps], dim=1))
    assert memory == Memory()


def test_additive_termination_depends_on_the_reached_state_alone(any_spec, alive, actions) -> None:
    model, batch = alive(build_mlp(any_spec, termination="additive")), segments(any_spec, actions)
    changes = {"state": batch.state + 1, "action": actions(any_spec, 8, 6), "next_state": batch.next_state + 0.5}

    def reward_and_logit(batch: Segments) -> tuple[Tensor, Tensor]:
        features = model.features(batch.state, batch.action, batch.episode, batch.next_state)
        return model.reward_head(features), model.continuation_logit(features, batch.next_state)

    reward, logit = reward_and_logit(batch)
    for name, value in changes.items():
        other_reward, other_logit = reward_and_logit(replace(batch, **{name: value}))
        assert (other_reward != reward).any()
        assert torch.equal(other_logit, logit) == (name != "next_state")


def test_rows_weigh_in_every_loss(any_spec, alive, actions) -> None:
    """A row of weight 3 counts as three of weight 1."""
    model, batch = alive(build_mlp(any_spec, termination="additive")), segments(any_spec, actions, 4)
    rows = {name: x for name, x in vars(batch).items() if x is not None}
    tripled = replace(batch, **{name: torch.cat([x, x[:1], x[:1]]) for name, x in rows.items()})
    weighted = replace(batch, weight=batch.weight * torch.tensor([3.0, 1, 1, 1])[:, None])
    for one, two in zip(model.loss(weighted)[1].values(), model.loss(tripled)[1].values(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("termination", ["shared", "readout"])
def test_a_readout_leaves_the_features_to_the_reward(spec: EnvSpec, termination, alive, actions) -> None:
    model, batch = alive(build_mlp(spec, termination=termination)), segments(spec, actions)
    features = model.features(batch.state, batch.action, batch.episode, batch.next_state)
    model.continuation_logit(features, batch.next_state).sum().backward()
    assert (next(model.trunk.parameters()).grad is None) == (termination == "readout")
    assert all(weights.grad is not None for weights in model.continuation_head.parameters())


def test_a_readout_learns_terminations_that_depend_on_what_rewards_do(spec: EnvSpec, actions) -> None:
    model = build_mlp(spec, termination="readout", hidden=[32, 32])
    fitter = Fitter(model, FitConfig(lr=3e-3))
    for _ in range(400):
        batch = segments(spec, actions, 64)
        batch.reward = (batch.next_state[..., :2] - batch.state[..., :2]).norm(dim=-1)
        batch.terminated = batch.reward > 2.0
        fitter.step(model.loss(batch)[0])
    predicted = 1 - model(batch.state, batch.action, batch.episode, batch.next_state).continuation
    assert predicted[batch.terminated].mean() > 0.7 > 0.3 > predicted[~batch.terminated].mean()


def test_the_lasso_silences_inputs_that_say_nothing(spec: EnvSpec, actions) -> None:
    """Two of 126 inputs matter, examples are few: held-out predictions are better for it."""
    wide = replace(spec, state_dim=60)
    torch.manual_seed(0)
    train, held_out = segments(wide, actions, 40), segments(wide, actions, 200)
    for batch in (train, held_out):
        batch.reward = batch.next_state[..., 0] + batch.next_state[..., 1].abs()
    errors, weights = {}, {}
    for lasso in (0.0, 3e-3):
        model = build_mlp(wide, input_lasso=lasso, hidden=[32, 32])
        fitter = Fitter(model, FitConfig(lr=3e-3))
        for _ in range(400):
            fitter.step(model.loss(train)[0])
        errors[lasso] = model.loss(held_out)[1]["reward_model/reward"]
        weights[lasso] = next(model.trunk.parameters()).norm(dim=0)
    assert errors[3e-3] < 0.3 * errors[0.0]
    before = wide.state_dim + wide.n_agents * wide.action_dim
    assert sorted(weights[3e-3].topk(2).indices.tolist()) == [before, before + 1]
