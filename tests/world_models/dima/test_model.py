"""The four parts as one world model: sampling, starts, padding, masks, exact continuation, published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dima.data import EnvSpec
from dima.experience.replay import Replay
from dima.runtime.progress import Progress
from dima.world_models.base import PartialReset, SequentialReveal, mask_from_logits
from dima.world_models.dima.denoiser import Context, Denoiser
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel, Latent
from dima.world_models.dima.reward_termination import RewardTermination
from dima.world_models.dima.sampler import agent_order, noise_schedule, reveal_masks, sample
from dima.world_models.observation_decoder import ObservationDecoder

SMALL: dict[str, Any] = {
    "denoiser": {
        "condition_dim": 16,
        "channels": [32, 32],
        "blocks": 1,
        "encoder": {"token_dim": 16, "latents": 2, "latent_dim": 16, "depth": 1, "heads": 2, "head_dim": 8},
    },
    "decoder": {"hidden": [16], "tokens": 2, "token_dim": 4, "codebook": 8, "dead_below": 0.1},
    "reward": {"dim": 16, "layers": 1, "heads": 2, "segment": 5, "action_layers": 1, "action_heads": 2},
    "denoiser_fit": {"updates": 3, "batch": 8},
    "decoder_fit": {"updates": 3, "batch": 8},
    "reward_fit": {"updates": 3, "batch": 8},
}


def build(spec: EnvSpec, **changes: Any) -> DimaWorldModel:
    return DimaModelConfig().override(SMALL).override(changes).build(spec).eval()


@pytest.fixture
def model(any_spec: EnvSpec, alive, episodes) -> DimaWorldModel:
    model = alive(build(any_spec))
    model.update_statistics(episodes(any_spec, (30, 30)))
    return model


def context_of(model: DimaWorldModel, actions, batch: int) -> Context:
    valid = torch.ones(batch, model.past, dtype=torch.bool)
    valid[0, 0] = False
    state = 0.5 * torch.randn(batch, model.past, model.spec.state_dim) * valid[..., None]
    return Context(state, actions(model.spec, batch, model.past), valid)


def test_published_sizes() -> None:
    """Of halfcheetah-2x3; section 12's numbers, to their last digit but for the reward model's (8.4)."""
    config, spec = DimaModelConfig(), EnvSpec(("a", "b"), 17, (19, 19), (3, 3), discrete=False)
    with torch.device("meta"):
        denoiser = Denoiser(config.denoiser, spec)
        parts = {
            "denoiser": denoiser,
            "perceiver": denoiser.encoder,
            "u-net": denoiser.net,
            "reward": RewardTermination(config.reward, spec),
            "decoder": ObservationDecoder(config.decoder, spec),
        }
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
    assert millions == pytest.approx(
        {"denoiser": 14.1, "perceiver": 11.9, "u-net": 2.1, "reward": 8.3, "decoder": 0.54}, rel=0.013
    )


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reveal", ["one", "cumulative", "all"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_conditions_in_one_call_equal_a_call_per_level(any_spec: EnvSpec, reveal, solver, alive, actions) -> None:
    sampler = {"solver": solver, "tail_levels": 1, "order": "random"}
    model = alive(build(any_spec, denoiser={"reveal": reveal}, sampler=sampler))
    context, noise = context_of(model, actions, 5), torch.randn(5, any_spec.state_dim)
    order = agent_order("random", 5, any_spec.n_agents, noise.device)
    fast = model.next_state(context, noise, order)

    config, n = model.config.sampler, any_spec.n_agents
    sigmas = noise_schedule(config.levels(n), config.sigma_min, config.sigma_max, config.rho, noise.device)

    def estimate(x, sigma, level):
        masks = reveal_masks(order, reveal)
        mask = masks[min(config.stage(level, n), len(masks) - 1)]
        encoded = model.denoiser.encode_actions(context.action, context.valid, mask)
        return model.denoiser.denoise(x, sigma.expand(5, 1), context, mask, encoded)

    x = sigmas[0] * noise
    for level in range(len(sigmas) - 1):
        now, after = sigmas[level], sigmas[level + 1]
        slope = (x - estimate(x, now, level)) / now
        ahead = x + (after - now) * slope
        if solver == "heun" and after > 0:
            ahead = x + (after - now) * (slope + (ahead - estimate(ahead, after, level)) / after) / 2
        x = ahead
    torch.testing.assert_close(fast, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reveal", ["one", "cumulative"])
def test_a_level_sees_the_agents_of_its_turn(spec: EnvSpec, reveal: str, alive, actions, filled) -> None:
    model = alive(build(spec, denoiser={"reveal": reveal, "agents_at_once": 2}))
    rows = filled(spec).gather(torch.tensor([5, 20]), model.context - 1, 0)
    told = model.reveal(model.start(rows), actions(spec, 2), (2, 0, 1))
    assert told.agents == {"one": [[0, 2]] * 2 + [[1]] * 2, "cumulative": [[0, 2]] * 2 + [[0, 1, 2]] * 2}[reveal]
    assert told.estimate.shape == (4, 2, spec.state_dim)


def test_a_batch_equals_its_halves(model, actions) -> None:
    context, noise = context_of(model, actions, 6), torch.randn(6, model.spec.state_dim)
    halves = [
        model.next_state(Context(context.state[h], context.action[h], context.valid[h]), noise[h])
        for h in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.cat(halves), model.next_state(context, noise), rtol=1e-4, atol=1e-5)


def test_weights_laid_out_for_an_imagination_are_those_of_every_step(model, any_spec, filled, actions) -> None:
    latent = model.start(filled(any_spec).gather(torch.tensor([5, 20]), model.context - 1, 0))
    context = context_of(model, actions, 5)
    noise = torch.randn(5, any_spec.state_dim)
    kernels = latent.precomputed.kernels
    drawn = model.next_state(context, noise)
    assert torch.equal(model.next_state(context, noise, kernels=kernels), drawn)
    others = {conv: (2 * weight, bias) for conv, (weight, bias) in kernels.items()}
    assert (model.next_state(context, noise, kernels=others) != drawn).any()
    after = model.advance(latent, actions(any_spec, 2))
    assert after.precomputed is latent.precomputed


# -- imagination ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_told_afterwards_is_what_every_step_would_have_told(model, any_spec, filled, actions) -> None:
    rows = filled(any_spec).gather(torch.tensor([5, 20, 40]), model.context - 1, 0)
    joint = actions(any_spec, 3, 7) * (1 if any_spec.discrete else 1.5)  # the world clips
    assert model.batched_rewards != any_spec.masks_actions

    latent, told = model.start(rows), []
    torch.manual_seed(2)
    for action in joint.unbind(1):
        latent, *reward_proceed = model.step(latent, action)
        told.append(reward_proceed)
    expected = model.observe(latent).state

    latent, states = model.start(rows), [rows.state[:, -1]]
    torch.manual_seed(2)
    for action in joint.unbind(1):
        latent = model.advance(latent, action)
        states.append(model.observe(latent).state)
    torch.testing.assert_close(states[-1], expected, rtol=0, atol=0)
    for column, found in zip(
        zip(*told, strict=True), model.predict_rewards(torch.stack(states, dim=1), joint), strict=True
    ):
        torch.testing.assert_close(found, torch.stack(column, dim=1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_spread_of_changes_follows_the_data(any_spec: EnvSpec, episodes) -> None:
    model, played = build(any_spec), episodes(any_spec, (30, 20))
    model.update_statistics(played)
    changes = torch.cat([episode.state.diff(dim=0) for episode in played])
    spread = changes.std(0, correction=0) / torch.cat([episode.state for episode in played]).std(0, correction=0)
    torch.testing.assert_close(model.denoiser.change, spread.clamp(min=0.01))


def test_a_denoised_change_is_added_to_the_newest_state(any_spec: EnvSpec, alive, episodes, actions) -> None:
    model = alive(build(any_spec, denoiser={"target": "change"}))
    model.update_statistics(episodes(any_spec, (30, 30)))
    context, noise = context_of(model, actions, 6), torch.randn(6, any_spec.state_dim)
    denoise, sigmas = model.levels(context)
    change = sample(denoise, noise, sigmas, model.config.sampler.solver)
    expected = context.state[:, -1] + model.denoiser.change * change
    torch.testing.assert_close(model.next_state(context, noise), expected)


def test_an_imagination_starts_where_reality_stands(model, any_spec, filled) -> None:
    replay = filled(any_spec)
    anchor = torch.tensor([0, 1, 7, 14, 20])  # also an episode's first two steps
    rows = replay.gather(anchor, model.context - 1, 0)
    view = model.observe(model.start(rows))
    torch.testing.assert_close(view.state, rows.state[:, -1])
    assert torch.equal(view.action_mask, rows.action_mask[:, -1])
    assert torch.equal(view.previous_action, rows.action[:, -2])
    assert not view.previous_action[0].any()
    assert view.previous_action[1].any()


@torch.no_grad()
def test_what_was_before_the_episode_does_not_matter(model, any_spec, filled, actions) -> None:
    replay = filled(any_spec)
    rows = replay.gather(torch.tensor([0, 1, 13, 14]), model.context - 1, 0)
    other = rows[:]
    other.state = torch.where(rows.valid[..., None], rows.state, torch.full_like(rows.state, 9.0))
    other.action = torch.where(rows.valid[..., None, None], rows.action, actions(any_spec, 4, model.context))
    action = actions(any_spec, 4)
    after = []
    for start in (rows, other):
        latent = model.start(start)
        for seed in (3, 4):
            torch.manual_seed(seed)
            latent = model.step(latent, action).latent
        after.append(model.observe(latent).state)
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=0)


@torch.no_grad()
def test_steps_move_time_on(model, any_spec, filled, actions) -> None:
    rows = filled(any_spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    latent = model.start(rows)
    first, second = actions(any_spec, 2), actions(any_spec, 2)
    one = model.step(latent, first)
    assert one.reward.shape == one.continuation.shape == (2,)
    assert ((one.continuation > 0) & (one.continuation < 1)).all()
    assert torch.equal(one.latent.state[:, :-1], latent.state[:, 1:])
    assert torch.equal(one.latent.action[:, -1], first)
    assert torch.equal(model.observe(one.latent).previous_action, first)
    two = model.step(one.latent, second)
    assert torch.equal(two.latent.action[:, -2:], torch.stack([first, second], dim=1))


@torch.no_grad()
def test_continuous_actions_count_as_the_environment_clips_them(spec: EnvSpec, alive, filled) -> None:
    model = alive(build(spec))
    rows = filled(spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    wild = 3 * torch.randn(2, 3, 2)
    told = []
    for action in (wild, wild.clamp(-1, 1)):
        torch.manual_seed(0)
        told.append(model.step(model.start(rows), action))
    torch.testing.assert_close(told[0].latent.state, told[1].latent.state, rtol=0, atol=0)
    torch.testing.assert_close(told[0].reward, told[1].reward, rtol=0, atol=0)


@torch.no_grad()
def test_imagined_observations_keep_padding_zero(model, any_spec, filled) -> None:
    rows = filled(any_spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    obs, valid = model.observe(model.start(rows)).obs, torch.from_numpy(any_spec.obs_valid)
    assert not obs[:, ~valid].any()
    assert (obs[:, valid] != 0).all()
    assert 1 < obs[:, valid].mean() < 5  # in the environment's units


def test_padding_reaches_no_loss(any_spec: EnvSpec, alive, filled) -> None:
    model, replay = alive(build(any_spec)), filled(any_spec)
    losses = []
    for junk in (0.0, 7.0):
        replay.store["obs"][:, ~torch.from_numpy(any_spec.obs_valid)] = junk
        replay.store["action_mask"][:, ~torch.from_numpy(any_spec.action_valid)] = bool(junk)
        torch.manual_seed(0)
        replay.visits = {name: torch.zeros_like(visits) for name, visits in replay.visits.items()}
        losses.append([loss_of(replay)[0].item() for loss_of in model.losses().values()])
    assert losses[0] == losses[1]


@torch.no_grad()
def test_predicted_action_masks_are_never_empty(alive, filled, actions) -> None:
    spec = EnvSpec(("a", "b"), 3, (4, 2), (2, 4), discrete=True, masks_actions=True)
    model = alive(build(spec))
    valid = torch.from_numpy(spec.action_valid)
    logits = torch.randn(200, 2, 4) - 1
    logits[:100] -= 10  # everything looks forbidden
    logits[..., ~valid] = 50.0
    mask = mask_from_logits(logits, valid)
    assert mask.any(-1).all()
    assert not mask[:, ~valid].any()
    assert (mask[:100].sum(-1) == 1).all()
    assert torch.equal(mask[100:] | ~valid, (logits[100:] > 0) | mask[100:] | ~valid)
    model.reward.mask_head[-2].bias.fill_(-50.0)
    rows = filled(spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    latent = model.start(rows)
    for _ in range(3):
        latent = model.step(latent, actions(spec, 2)).latent
        assert model.observe(latent).action_mask.any(-1).all()


def test_rewards_may_depend_on_the_state_that_is_reached(spec: EnvSpec, alive, filled, actions, monkeypatch) -> None:
    model = alive(build(spec, reward={"next_state": True}))
    replay, seen = filled(spec), []
    learn = model.reward.loss
    monkeypatch.setattr(model.reward, "loss", lambda batch: seen.append(batch) or learn(batch))
    model.losses()["reward"](replay)
    assert torch.equal(seen[0].next_state[:, :-1], seen[0].state[:, 1:])

    rows, action = replay.gather(torch.tensor([5, 6]), model.context - 1, 0), actions(spec, 2)
    with torch.no_grad():
        start = model.start(rows)
        step = model.step(start, action)
        units = model.config.denoiser.sigma_data
        now, reached = start.state[:, -1] / units, step.latent.state[:, -1] / units
        told = model.reward(now[:, None], action[:, None], torch.zeros(2, 1, dtype=torch.long), reached[:, None])
    torch.testing.assert_close(step.reward, told.reward[:, 0])


# -- agent by agent ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_step_in_the_configured_order_is_the_step(any_spec: EnvSpec, alive, filled, actions, order: str) -> None:
    model = alive(build(any_spec, sampler={"order": order}))
    assert isinstance(model, SequentialReveal)
    rows = filled(any_spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    action = actions(any_spec, 2)
    torch.manual_seed(1)
    one = model.step(model.start(rows), action)
    torch.manual_seed(1)
    two = model.step_in_order(model.start(rows), action, model.reveal_order)
    torch.manual_seed(1)
    other = model.step_in_order(model.start(rows), action, model.reveal_order[::-1])
    assert torch.equal(one.latent.state, two.latent.state)
    assert torch.equal(one.reward, other.reward)
    assert not torch.equal(one.latent.state, other.latent.state)


@torch.no_grad()
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(
    ("reveal", "seen"),
    [("one", [[2], [0], [1], [1]]), ("cumulative", [[2], [0, 2], [0, 1, 2], [0, 1, 2]]), ("all", [[0, 1, 2]] * 4)],
)
def test_a_reveal_ends_in_the_draw_and_tells_who_was_seen(spec, alive, filled, actions, solver, reveal, seen) -> None:
    config = {"sampler": {"solver": solver, "tail_levels": 1}, "denoiser": {"reveal": reveal}}
    model = alive(build(spec, **config))
    rows = filled(spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    latent, action = model.start(rows), actions(spec, 2)
    torch.manual_seed(1)
    told = model.reveal(latent, action, (2, 0, 1))
    torch.manual_seed(1)
    after = model.observe(model.step_in_order(latent, action, (2, 0, 1)).latent)
    assert told.agents == seen
    assert told.estimate.shape == (4, 2, spec.state_dim)
    torch.testing.assert_close(told.estimate[-1], after.state, rtol=1e-4, atol=1e-4)
    assert not torch.equal(told.estimate[0], told.estimate[1])


# -- fitting and saving -----------------------------------------------------------------------------------------------


def test_a_iteration_reports_every_loss_and_ends_in_evaluation_mode(any_spec: EnvSpec, filled) -> None:
    model = build(any_spec)
    metrics = model.fit(filled(any_spec), Progress())
    names = {"decoder/error", "decoder/commitment", "denoiser/loss", "reward_model/reward", "reward_model/continuation"}
    assert set(metrics) == names | ({"reward_model/mask"} if any_spec.masks_actions else set())
    assert all(value.isfinite() for value in metrics.values())
    assert not any(module.training for module in model.modules())


def test_a_restored_model_goes_on_bit_for_bit(any_spec: EnvSpec, filled, episodes) -> None:
    def go_on(model: DimaWorldModel, replay) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        model.update_statistics(episodes(any_spec, (7,)))
        metrics = model.fit(replay, Progress())
        with torch.no_grad():
            rows = replay.gather(torch.tensor([3, 4]), model.context - 1, 0)
            step = model.step(model.start(rows), rows.action[:, -1])
        return model.state_dict() | metrics | {"state": step.latent.state, "reward_": step.reward}

    replay, model = filled(any_spec), build(any_spec)
    model.update_statistics(episodes(any_spec, (20, 20)))
    model.fit(replay, Progress())
    saved = model.checkpoint()
    other = build(any_spec)
    other.restore(dict(saved.items()))
    visits = {name: visits.clone() for name, visits in replay.visits.items()}
    expected = {name: value.clone() for name, value in go_on(model, replay).items()}
    replay.visits = visits
    found = go_on(other, replay)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_imaginations_begin_anew_one_by_one(any_spec: EnvSpec, alive, actions, episodes) -> None:
    """A renewed row goes on like a fresh start, the others like a batch that nobody touched; same noise everywhere."""
    model = alive(build(any_spec))
    played = episodes(any_spec, (12, 12))
    model.update_statistics(played)
    replay = Replay.of(played, any_spec, "cpu")
    rows = replay.gather(torch.tensor([4, 5, 6]), model.context - 1, 0)
    others = replay.gather(torch.tensor([7, 8, 9]), model.context - 1, 0)
    which, moves = torch.tensor([False, True, False]), actions(any_spec, 3, 2)

    def after(latent: Latent) -> Any:
        torch.manual_seed(3)
        return model.step(latent, moves[:, 1])

    torch.manual_seed(1)
    touched = model.step(model.start(rows), moves[:, 0]).latent
    torch.manual_seed(1)
    alone = model.step(model.start(rows), moves[:, 0]).latent
    fresh = model.start(others)
    renewed = model.reset_rows(touched, fresh, which)
    assert isinstance(model, PartialReset)
    assert torch.equal(model.observe(renewed).state[which], model.observe(fresh).state[which])
    one, untouched, begun = after(renewed), after(alone), after(model.start(others))
    for t, expected in ((~which, untouched), (which, begun)):
        torch.testing.assert_close(model.observe(one.latent).state[t], model.observe(expected.latent).state[t])
    torch.testing.assert_close(one.reward[~which], untouched.reward[~which])
