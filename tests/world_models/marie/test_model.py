"""MARIE as a world model: alignment and weights of the losses, rollouts that agree with full passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dima.algorithms.marie import MarieConfig
from dima.data import EnvSpec, Episode
from dima.experience.replay import Replay, Rows
from dima.presets import preset_changes
from dima.training.run_config import build_config
from dima.world_models.marie.model import Latent, MarieModelConfig, MarieWorldModel
from dima.world_models.rollout import forecast

DEBUG: MarieModelConfig = build_config("toy/walk", "marie", "debug").learner.world_model  # type: ignore[attr-defined]


def build(spec: EnvSpec, alive: Any, played: list[Episode], **changes: Any) -> MarieWorldModel:
    model = alive(DEBUG.override(changes).build(spec))
    model.update_statistics(played)
    return model


def rows_of(played: list[Episode], spec: EnvSpec, starts: tuple[int, ...], length: int) -> Rows:
    return Replay.of(played, spec, "cpu").segments(torch.tensor(starts), length)


# -- losses -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("segment_mean", [False, True])
def test_the_loss_is_the_plain_one(any_spec: EnvSpec, alive, episodes, segment_mean: bool) -> None:
    """Token by token in Python: each predicts the next one of its episode, an episode's first is not predicted."""
    played = episodes(any_spec, (3, 9, 12))
    model = build(any_spec, alive, played, segment_mean=segment_mean, normalize_reward=False)
    rows, net = rows_of(played, any_spec, (0, 2, 12, 9), 6), model.transformer
    assert (rows.episode[:3] != rows.episode[:3, :1]).any(1).tolist() == [True, True, True]
    tokens = model.perception.encode(rows.obs)
    features = net(tokens, model.action_tokens(rows.action.clamp(-1, 1)), rows.episode, model.tokenizer.codes)
    logits, size = net.obs_head(features), net.obs_tokens
    windows, every = [], []
    for b in range(4):
        for n in range(any_spec.n_agents):
            segments: dict[int, list[Tensor]] = {}
            for t in range(6):
                for k in range(size):
                    if k == 0 and (t == 0 or rows.episode[b, t] != rows.episode[b, t - 1]):
                        continue
                    before = logits[b, n, t, k - 1] if k else logits[b, n, t - 1, -1]
                    wrong = F.cross_entropy(before, tokens[b, t, n, k])
                    segments.setdefault(int(rows.episode[b, t]), []).append(wrong)
            windows.append(torch.stack([torch.stack(part).mean() for part in segments.values()]).mean())
            every += [wrong for part in segments.values() for wrong in part]
    expected = torch.stack(windows if segment_mean else every).mean()
    loss, parts = model.transformer_loss(rows)
    torch.testing.assert_close(parts["transformer/tokens"], expected)
    torch.testing.assert_close(loss, sum(parts.values()))

    predicted, acted = net.predict(features[..., -1, :].transpose(1, 2)), rows.acted
    ends = F.binary_cross_entropy_with_logits(
        predicted.continuation,
        (~rows.terminated).float()[..., None].expand_as(predicted.continuation),
        reduction="none",
    )
    torch.testing.assert_close(parts["transformer/continuation"], ends.mean(-1)[acted].mean())
    rewards = net.reward_loss(predicted.reward, rows.reward[..., None].expand_as(predicted.continuation))
    torch.testing.assert_close(parts["transformer/reward"], rewards.mean(-1)[acted].mean())


@torch.no_grad()
def test_without_ends_both_averages_of_the_token_loss_agree(spec: EnvSpec, alive, episodes) -> None:
    played = episodes(spec, (12,))
    rows, losses = rows_of(played, spec, (0, 3, 6), 6), []
    for segment_mean in (False, True):
        torch.manual_seed(0)
        losses.append(build(spec, alive, played, segment_mean=segment_mean).transformer_loss(rows)[0])
    torch.testing.assert_close(losses[0], losses[1])


@torch.no_grad()
def test_the_end_of_an_episode_that_was_cut_continues(spec: EnvSpec, alive, episodes) -> None:
    """Of two windows that differ in this alone, only the terminated one is labelled as an end."""
    played = episodes(spec, (6,))
    model = build(spec, alive, played)
    rows = rows_of(played, spec, (1,), 6)
    assert rows.terminated[0, 4]
    losses = {}
    for terminated in (True, False):
        rows.terminated[0, 4] = terminated
        losses[terminated] = model.transformer_loss(rows)[1]["transformer/continuation"]
    logit = model.transformer.predict(
        model.transformer(
            model.perception.encode(rows.obs),
            model.action_tokens(rows.action.clamp(-1, 1)),
            rows.episode,
            model.tokenizer.codes,
        )[:, :, 4, -1]
    ).continuation
    torch.testing.assert_close(5 * (losses[True] - losses[False]), logit.mean())


@torch.no_grad()
def test_what_no_step_says_reaches_no_loss(any_spec: EnvSpec, alive, episodes) -> None:
    """Reward, action and padding of the rows that hold a final observation only."""
    played = episodes(any_spec, (5, 9))
    model = build(any_spec, alive, played, normalize_reward=False)
    rows = rows_of(played, any_spec, (2, 4), 6)
    last = ~rows.acted
    assert last.any(1).all()
    expected = model.transformer_loss(rows)[0]
    rows.reward[last] = 77
    rows.action[last] = rows.action.flip(0)[last]
    torch.testing.assert_close(model.transformer_loss(rows)[0], expected)


def test_masks_are_labelled_by_the_next_row(alive, episodes) -> None:
    spec = EnvSpec(("a", "b"), 3, (4, 2), (2, 4), discrete=True, masks_actions=True)
    played = episodes(spec, (4, 9))
    model = build(spec, alive, played)
    rows = rows_of(played, spec, (2,), 6)
    now = model.transformer_loss(rows)[1]["transformer/mask"]
    for row, matters in ((0, False), (1, True), (2, True), (3, False), (4, True)):  # row 2 is the first episode's last
        changed = rows[:]
        changed.action_mask = rows.action_mask.clone()
        changed.action_mask[:, row, 1, 2] ^= True
        assert (model.transformer_loss(changed)[1]["transformer/mask"] != now) == matters, row


# -- rollouts ---------------------------------------------------------------------------------------------------------


class Rolled:
    """A rollout of given actions, with the logits of every token that was drawn."""

    def __init__(self, model: MarieWorldModel, start: Latent, action: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logits: list[Tensor] = []
        net, draw = model.transformer, model.transformer.draw

        def told(features: Tensor) -> Tensor:
            self.logits.append(net.obs_head(features))
            return draw(features)

        with monkeypatch.context() as patch:
            patch.setattr(net, "draw", told)
            self.tokens, self.reward, self.continuation, latent = [start.tokens], [], [], start
            for now in action.unbind(1):
                latent, reward, continuation = model.step_(latent, now)
                self.tokens.append(latent.tokens)
                self.reward.append(reward)
                self.continuation.append(continuation)
        self.latent = latent


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transformer": {"embed_codes": True}},
        {"transformer": {"embed_codes": True}, "tokenizer": {"bottleneck": "fsq"}},
    ],
    ids=["published", "codes", "fsq codes"],
)
def test_a_rollout_agrees_with_one_pass_over_its_tokens(
    any_spec: EnvSpec, alive, episodes, actions, monkeypatch, changes
) -> None:
    played = episodes(any_spec, (12, 12))
    model = build(any_spec, alive, played, **changes)
    net, steps = model.transformer, model.config.transformer.steps
    start = model.start(Replay.of(played, any_spec, "cpu").gather(torch.tensor([0, 5, 16]), 1, 0))
    action = actions(any_spec, 3, steps - 1)
    rolled = Rolled(model, start, action, monkeypatch)
    tokens = torch.stack(rolled.tokens, dim=1)  # (B, L, N, K)
    padded = model.action_tokens(F.pad(action, (0, 0, 0, 0, 0, 1)))
    features = net(tokens, padded, torch.zeros(3, steps, dtype=torch.long), model.tokenizer.codes)
    predicted = net.predict(features[:, :, :-1, -1].transpose(1, 2))
    reward = model.reward_scale.denormalize(net.reward(predicted.reward).mean(-1))
    torch.testing.assert_close(torch.stack(rolled.reward, 1), reward, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.stack(rolled.continuation, 1), predicted.continuation.sigmoid().mean(-1), atol=1e-5, rtol=1e-5
    )
    logits = torch.cat([features[:, :, :-1, -1:], features[:, :, 1:, : net.obs_tokens - 1]], dim=3)
    expected = net.obs_head(logits).transpose(1, 2)  # (B, L - 1, N, K, V)
    found = torch.stack(rolled.logits, dim=1).unflatten(0, (3, -1)).unflatten(2, (steps - 1, -1)).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_half_of_the_precision_is_half_of_the_cache(spec: EnvSpec, alive, episodes, actions) -> None:
    played = episodes(spec, (12,))
    model = build(spec, alive, played)
    rows, action = Replay.of(played, spec, "cpu").gather(torch.tensor([0, 5]), 1, 0), actions(spec, 2, 1)
    full = model.start(rows)
    assert full.cache.keys[0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        half = model.start(rows)
        assert {part.dtype for part in (*half.cache.keys, *half.cache.values)} == {torch.bfloat16}
        half.tokens = full.tokens
        step = model.step(half, action[:, 0])
    torch.testing.assert_close(step.reward, model.step(full, action[:, 0]).reward, atol=0.1, rtol=0.1)
    assert step.reward.dtype == torch.float32


@torch.no_grad()
def test_an_observation_may_be_a_single_token(spec: EnvSpec, alive, episodes, actions) -> None:
    played = episodes(spec, (12, 12))
    model = build(spec, alive, played, tokenizer={**DEBUG.tokenizer.to_dict(), "tokens": 1})
    assert model.transformer_loss(rows_of(played, spec, (0, 9), 6))[0].isfinite()
    found = forecast(model, Replay.of(played, spec, "cpu").gather(torch.tensor([0, 5]), 1, 0), actions(spec, 2, 8))
    assert found.obs.isfinite().all()
    assert len(found.reward.flatten().unique()) == 16


@torch.no_grad()
def test_a_full_memory_keeps_the_present_only(spec: EnvSpec, alive, episodes, actions, monkeypatch) -> None:
    played = episodes(spec, (12,))
    model = build(spec, alive, played)
    steps = model.config.transformer.steps
    start = model.start(Replay.of(played, spec, "cpu").gather(torch.tensor([0, 5]), 1, 0))
    action = actions(spec, 2, 2 * steps)
    full = Rolled(model, start, action[:, : steps - 1], monkeypatch).latent
    assert full.block == steps - 1
    fresh = model._start(full.tokens, full.action_mask, full.previous_action)
    for latent in (full, fresh):
        torch.manual_seed(3)
        rolled = Rolled(model, latent, action[:, steps - 1 :], monkeypatch)
        latent.previous_action = torch.stack(rolled.reward)
    torch.testing.assert_close(full.previous_action, fresh.previous_action)


@torch.no_grad()
def test_a_step_and_one_in_place_are_the_same(any_spec: EnvSpec, alive, episodes, actions) -> None:
    played = episodes(any_spec, (12,))
    model = build(any_spec, alive, played)
    start = Replay.of(played, any_spec, "cpu").gather(torch.tensor([0, 5, 7]), 1, 0)
    action = actions(any_spec, 3, 8)
    torch.manual_seed(1)
    found = forecast(model, start, action)
    torch.manual_seed(1)
    expected = forecast(model, start, action, model.step)
    assert torch.equal(found.obs, expected.obs)
    assert torch.equal(found.reward, expected.reward)


@torch.no_grad()
def test_a_rollout_that_was_reset_forgets_what_was_before(spec: EnvSpec, alive, episodes, actions, monkeypatch) -> None:
    played = episodes(spec, (12, 12))
    model, replay = build(spec, alive, played), Replay.of(played, spec, "cpu")
    rows, others = (replay.gather(torch.tensor(anchors), 1, 0) for anchors in ((0, 5, 6), (14, 15, 16)))
    action, chosen, found = actions(spec, 3, 4), torch.tensor([True, False, True]), []
    for first in (action[:, :2], -action[:, :2]):
        torch.manual_seed(5)
        latent = Rolled(model, model.start(rows), first, monkeypatch).latent
        latent = model.reset_rows(latent, model.start(others), chosen)
        assert latent.begin.tolist() == [2, 0, 2]
        torch.manual_seed(5)
        found.append(torch.stack(Rolled(model, latent, action[:, 2:], monkeypatch).reward, 1))
    assert torch.equal(found[0][chosen], found[1][chosen])
    assert not torch.equal(found[0][~chosen], found[1][~chosen])


@torch.no_grad()
def test_states_are_read_from_observations_that_hold_them(spec: EnvSpec, alive, episodes) -> None:
    played = episodes(spec, (12, 12))
    model, replay = build(spec, alive, played), Replay.of(played, spec, "cpu")
    assert not model.predicts_state
    rows = replay.gather(torch.tensor([3, 4]), 1, 0)
    assert model.observe(model.start(rows)).state.isnan().all()
    for episode in played:
        episode.state[:, :2], episode.state[:, 2:] = episode.obs[:, 1, 3:], episode.obs[:, 2, :2]
    model = build(spec, alive, played)
    assert model.predicts_state
    view = model.observe(model.start(rows))
    torch.testing.assert_close(view.state, torch.cat([view.obs[:, 1, 3:], view.obs[:, 2, :2]], dim=-1))


def test_published_settings_are_the_defaults() -> None:
    """docs/reference/marie.md, "Settings"."""
    config = build_config("mamujoco/halfcheetah-2x3", "marie", "published")
    learner, model = config.learner, config.learner.world_model  # type: ignore[attr-defined]
    assert (learner.policy_after, model.transformer_after, learner.horizon, learner.ppo.critic.norm) == (
        19,
        9,
        14,
        True,
    )
    assert (model.tokenizer_fit.updates, model.transformer_fit.updates, model.transformer_fit.batch) == (100, 200, 40)
    plain = preset_changes("marie", "published", "smax/3m")[-1]
    smax = MarieConfig().override(plain["learner"])
    assert (smax.world_model.transformer.reward, smax.world_model.tokenizer.token_dim) == ("smooth_l1", 128)
    assert (smax.ppo.clip, smax.ppo.minibatch_rows, smax.ppo.normalize_values, smax.ppo.critic.norm) == (
        0.2,
        2000,
        False,
        False,
    )
