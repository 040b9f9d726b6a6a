"""DIMA as one world model: sampling, starts, padding, action masks, reveal order, published sizes."""

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
from dima.world_models.dima.reward_transformer import RewardTransformer
from dima.world_models.dima.sampler import agent_order, noise_schedule, reveal_masks, sample
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.observation_decoder import ObservationDecoder
from dima.world_models.rollout import forecast

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
    """Of halfcheetah-2x3 (docs/reference/dima.md, "Sizes"; the reward model has 8.4 there)."""
    config, spec = DimaModelConfig(), EnvSpec(("a", "b"), 17, (19, 19), (3, 3), discrete=False)
    with torch.device("meta"):
        denoiser = Denoiser(config.denoiser, spec)
        parts = {
            "denoiser": denoiser,
            "perceiver": denoiser.encoder,
            "u-net": denoiser.net,
            "reward": RewardTransformer(config.reward, spec),
            "decoder": ObservationDecoder(config.decoder, spec),
        }
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
    assert millions == pytest.approx(
        {"denoiser": 14.1, "perceiver": 11.9, "u-net": 2.1, "reward": 8.3, "decoder": 0.54}, rel=0.013
    )


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reveal", ["one", "cumulative", "all"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_one_condition_call_equals_a_call_per_level(any_spec: EnvSpec, reveal, solver, alive, actions) -> None:
    sampler = {"solver": solver, "tail_levels": 1, "order": "random"}
    model = alive(build(any_spec, denoiser={"reveal": reveal}, sampler=sampler))
    context, noise = context_of(model, actions, 5), torch.randn(5, any_spec.state_dim)
    order = agent_order("random", 5, any_spec.n_agents, noise.device)
    drawn = model.next_state(context, order, noise)

    config, n = model.config.sampler, any_spec.n_agents
    sigmas = noise_schedule(config.levels(n), config.sigma_min, config.sigma_max, config.rho, noise.device)

    def estimate(x, sigma, level):
        masks = reveal_masks(order, reveal)
        mask = masks[min(config.group_index(level, n), len(masks) - 1)]
        encoded = model.denoiser.encode_actions(context.action, context.valid, mask)
        return model.denoiser.denoise(x, sigma.expand(5, 1), context, mask, encoded)

    x = sigmas[0] * noise
    for level in range(len(sigmas) - 1):
        now, after = sigmas[level], sigmas[level + 1]
        slope = (x - estimate(x, now, level)) / now
        proposal = x + (after - now) * slope
        if solver == "heun" and after > 0:
            proposal = x + (after - now) * (slope + (proposal - estimate(proposal, after, level)) / after) / 2
        x = proposal
    torch.testing.assert_close(drawn, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reveal", ["one", "cumulative"])
def test_a_level_sees_the_agents_of_its_group(spec: EnvSpec, reveal: str, alive, actions, filled) -> None:
    model = alive(build(spec, denoiser={"reveal": reveal, "group_size": 2}))
    rows = filled(spec).gather(torch.tensor([5, 20]), model.context - 1, 0)
    revealed = model.reveal(model.start(rows), actions(spec, 2), (2, 0, 1))
    assert revealed.agents == {"one": [[0, 2]] * 2 + [[1]] * 2, "cumulative": [[0, 2]] * 2 + [[0, 1, 2]] * 2}[reveal]
    assert revealed.estimate.shape == (4, 2, spec.state_dim)


def test_a_batch_equals_its_halves(model, actions) -> None:
    context, noise = context_of(model, actions, 6), torch.randn(6, model.spec.state_dim)
    order = agent_order("random", 6, model.spec.n_agents, noise.device)
    halves = [
        model.next_state(Context(context.state[h], context.action[h], context.valid[h]), order[h], noise[h])
        for h in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.cat(halves), model.next_state(context, order, noise), rtol=1e-4, atol=1e-5)


# -- several denoisers ------------------------------------------------------------------------------------------------


def test_a_row_keeps_its_denoiser(any_spec: EnvSpec, alive, actions, episodes) -> None:
    """Row by row the rollouts of models that hold one of the denoisers each, under the same noise."""
    models = [alive(build(any_spec)) for _ in range(3)]
    several = build(any_spec, denoisers=3)
    several.load_state_dict(models[0].state_dict(), strict=False)
    for one, name in zip(models, several.denoisers, strict=True):
        several.get_submodule(name).load_state_dict(one.denoiser.state_dict())
        one.reward, one.decoder = several.reward, several.decoder
    played, joint = episodes(any_spec, (12, 12)), actions(any_spec, 5, 4)
    start = Replay.of(played, any_spec, "cpu").gather(torch.tensor([0, 5, 16, 7, 3]), several.context - 1, 0)
    futures = []
    for model in (several, *models):
        model.update_statistics(played)
        torch.manual_seed(5)
        futures.append(forecast(model, start, joint))
    for name, states in vars(futures[0]).items():
        for row, mine in enumerate(states):
            torch.testing.assert_close(mine, getattr(futures[1 + row % 3], name)[row], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(futures[1].state, futures[2].state)


def test_uncertainty_is_how_far_denoisers_differ(any_spec: EnvSpec, alive, actions, episodes) -> None:
    model = alive(build(any_spec, denoisers=3))
    played = episodes(any_spec, (12, 12))
    model.update_statistics(played)
    latent = model.start(Replay.of(played, any_spec, "cpu").gather(torch.tensor([0, 5, 16]), model.context - 1, 0))
    action = actions(any_spec, 3)
    torch.manual_seed(0)
    found = model.uncertainty(latent, action)
    assert (found > 0).all()
    model.reward.reward_scale.scale.mul_(2)
    torch.manual_seed(0)
    torch.testing.assert_close(model.uncertainty(latent, action), 2 * found)  # in units of the reward
    for denoiser in model.denoisers.values():
        denoiser.load_state_dict(model.denoiser.state_dict())
    torch.testing.assert_close(model.uncertainty(latent, action), torch.zeros(3), rtol=0, atol=1e-5)


def test_fewer_rows_than_denoisers(any_spec: EnvSpec, alive, actions) -> None:
    model = alive(build(any_spec, denoisers=3))
    context, noise = context_of(model, actions, 2), torch.randn(2, any_spec.state_dim)
    order = agent_order("random", 2, any_spec.n_agents, noise.device)
    assert model.next_state(context, order, noise).isfinite().all()


def test_denoisers_are_fitted_apart(any_spec: EnvSpec, filled) -> None:
    model = build(any_spec, denoisers=2)
    before = [[p.clone() for p in denoiser.parameters()] for denoiser in model.denoisers.values()]
    metrics = WorldModelFitter(model).fit(filled(any_spec), Progress())
    assert metrics["denoiser/loss"] != metrics["denoiser_2/loss"]
    for old, denoiser in zip(before, model.denoisers.values(), strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old, denoiser.parameters(), strict=True))
        torch.testing.assert_close(denoiser.change_std, model.denoiser.change_std)


# -- rollouts ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_batched_rewards_equal_step_by_step(model, any_spec, filled, actions) -> None:
    rows = filled(any_spec).gather(torch.tensor([5, 20, 40]), model.context - 1, 0)
    joint = actions(any_spec, 3, 7) * (1 if any_spec.discrete else 1.5)  # the environment clips
    assert model.batched_rewards != any_spec.masks_actions

    latent, predictions = model.start(rows), []
    torch.manual_seed(2)
    for action in joint.unbind(1):
        latent, *prediction = model.step(latent, action)
        predictions.append(prediction)
    expected = model.observe(latent).state

    latent, states = model.start(rows), [rows.state[:, -1]]
    torch.manual_seed(2)
    for action in joint.unbind(1):
        latent = model.advance(latent, action)
        states.append(model.observe(latent).state)
    torch.testing.assert_close(states[-1], expected, rtol=0, atol=0)
    for column, found in zip(
        zip(*predictions, strict=True), model.predict_rewards(torch.stack(states, dim=1), joint), strict=True
    ):
        torch.testing.assert_close(found, torch.stack(column, dim=1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_standard_deviation_of_changes_is_that_of_the_data(any_spec: EnvSpec, episodes) -> None:
    model, played = build(any_spec), episodes(any_spec, (30, 20))
    model.update_statistics(played)
    changes = torch.cat([episode.state.diff(dim=0) for episode in played])
    expected = changes.std(0, correction=0) / torch.cat([episode.state for episode in played]).std(0, correction=0)
    torch.testing.assert_close(model.denoiser.change_std, expected.clamp(min=0.01))


def test_a_denoised_change_is_added_to_the_newest_state(any_spec: EnvSpec, alive, episodes, actions) -> None:
    model = alive(build(any_spec, denoiser={"target": "change"}))
    model.update_statistics(episodes(any_spec, (30, 30)))
    context, noise = context_of(model, actions, 6), torch.randn(6, any_spec.state_dim)
    order = agent_order("descending", 6, any_spec.n_agents, noise.device)
    denoise, sigmas = model.denoising(context, order, model.denoiser)
    change = sample(denoise, noise, sigmas, model.config.sampler.solver)
    expected = context.state[:, -1] + model.denoiser.change_std * change
    torch.testing.assert_close(model.next_state(context, order, noise), expected)


def test_a_rollout_starts_at_the_newest_real_row(model, any_spec, filled) -> None:
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
def test_rows_before_the_episode_have_no_influence(model, any_spec, filled, actions) -> None:
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
def test_a_step_shifts_the_context(model, any_spec, filled, actions) -> None:
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
def test_continuous_actions_are_clipped(spec: EnvSpec, alive, filled) -> None:
    model = alive(build(spec))
    rows = filled(spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    unclipped = 3 * torch.randn(2, 3, 2)
    steps = []
    for action in (unclipped, unclipped.clamp(-1, 1)):
        torch.manual_seed(0)
        steps.append(model.step(model.start(rows), action))
    assert torch.equal(steps[0].latent.state, steps[1].latent.state)
    assert torch.equal(steps[0].reward, steps[1].reward)


@torch.no_grad()
def test_decoded_observations_are_zero_at_padding(model, any_spec, filled) -> None:
    rows = filled(any_spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    obs, valid = model.observe(model.start(rows)).obs, torch.from_numpy(any_spec.obs_valid)
    assert not obs[:, ~valid].any()
    assert (obs[:, valid] != 0).all()
    assert 1 < obs[:, valid].mean() < 5  # in the environment's units


def test_padding_does_not_enter_any_loss(any_spec: EnvSpec, alive, filled) -> None:
    model, replay = alive(build(any_spec)), filled(any_spec)
    losses = []
    for junk in (0.0, 7.0):
        replay.store["obs"][:, ~torch.from_numpy(any_spec.obs_valid)] = junk
        replay.store["action_mask"][:, ~torch.from_numpy(any_spec.action_valid)] = bool(junk)
        torch.manual_seed(0)
        replay.visits = {name: torch.zeros_like(visits) for name, visits in replay.visits.items()}
        losses.append([objective.loss(objective.sample(replay))[0].item() for objective in model.objectives().values()])
    assert losses[0] == losses[1]


@torch.no_grad()
def test_predicted_action_masks_are_never_empty(alive, filled, actions) -> None:
    spec = EnvSpec(("a", "b"), 3, (4, 2), (2, 4), discrete=True, masks_actions=True)
    model = alive(build(spec))
    valid = torch.from_numpy(spec.action_valid)
    logits = torch.randn(200, 2, 4) - 1
    logits[:100] -= 10  # every choice is forbidden
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


def test_rewards_can_depend_on_the_reached_state(spec: EnvSpec, alive, filled, actions, monkeypatch) -> None:
    model = alive(build(spec, reward={"next_state": True}))
    replay, seen = filled(spec), []
    loss = model.reward.loss
    monkeypatch.setattr(model.reward, "loss", lambda batch: seen.append(batch) or loss(batch))
    model.reward_loss(model.reward_rows(replay))
    assert torch.equal(seen[0].next_state[:, :-1], seen[0].state[:, 1:])

    rows, action = replay.gather(torch.tensor([5, 6]), model.context - 1, 0), actions(spec, 2)
    with torch.no_grad():
        start = model.start(rows)
        step = model.step(start, action)
        units = model.config.denoiser.sigma_data
        now, reached = start.state[:, -1] / units, step.latent.state[:, -1] / units
        whole = model.reward(now[:, None], action[:, None], torch.zeros(2, 1, dtype=torch.long), reached[:, None])
    torch.testing.assert_close(step.reward, whole.reward[:, 0])


# -- sequential reveal ------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("denoisers", [1, 2])
def test_the_estimates_of_a_step_end_in_its_sample(
    spec, alive, filled, actions, denoisers, solver, reveal, seen
) -> None:
    sampler = {"solver": solver, "tail_levels": 1}
    config = {"sampler": sampler, "denoiser": {"reveal": reveal}, "denoisers": denoisers}
    model = alive(build(spec, **config))
    rows = filled(spec).gather(torch.tensor([5, 6]), model.context - 1, 0)
    latent, action = model.start(rows), actions(spec, 2)
    torch.manual_seed(1)
    revealed = model.reveal(latent, action, (2, 0, 1))
    torch.manual_seed(1)
    after = model.observe(model.step_in_order(latent, action, (2, 0, 1)).latent)
    assert revealed.agents == seen
    assert revealed.estimate.shape == (4, 2, spec.state_dim)
    torch.testing.assert_close(revealed.estimate[-1], after.state, rtol=1e-4, atol=1e-4)
    assert not torch.equal(revealed.estimate[0], revealed.estimate[1])


# -- fitting ----------------------------------------------------------------------------------------------------------


def test_fitting_reports_every_loss_and_ends_in_evaluation_mode(any_spec: EnvSpec, filled) -> None:
    model = build(any_spec)
    metrics = WorldModelFitter(model).fit(filled(any_spec), Progress())
    names = {"decoder/error", "decoder/commitment", "denoiser/loss", "reward_model/reward", "reward_model/continuation"}
    assert set(metrics) == names | ({"reward_model/mask"} if any_spec.masks_actions else set())
    assert all(value.isfinite() for value in metrics.values())
    assert not any(module.training for module in model.modules())


def test_a_reset_row_equals_a_fresh_start(any_spec: EnvSpec, alive, actions, episodes) -> None:
    """And the other rows equal those of an untouched batch, under the same noise."""
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
