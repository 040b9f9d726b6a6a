"""EDM's identities, the reveal mask, and training windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.world_models.dima.denoiser import Context, Denoiser, DenoiserConfig, ResidualScale

SMALL: dict[str, Any] = {
    "condition_dim": 16,
    "channels": [32, 32],
    "blocks": 1,
    "encoder": {"token_dim": 16, "latents": 2, "latent_dim": 16, "depth": 1, "heads": 2, "head_dim": 8},
}


def build(spec: EnvSpec, **changes: Any) -> Denoiser:
    return Denoiser(DenoiserConfig().override(SMALL).override(changes), spec)


def context_of(denoiser: Denoiser, actions, batch: int) -> Context:
    past, spec = denoiser.config.context, denoiser.spec
    valid = torch.ones(batch, past, dtype=torch.bool)
    valid[: batch // 2, :-1] = False
    state = 0.5 * torch.randn(batch, past, spec.state_dim) * valid[..., None]
    return Context(state, actions(spec, batch, past) * valid[..., None, None], valid)


def denoise(denoiser: Denoiser, noisy: Tensor, sigma: Tensor, context: Context, reveal: Tensor) -> Tensor:
    encoded = denoiser.encode_actions(context.action, context.valid, reveal)
    return denoiser.denoise(noisy, sigma, context, reveal, encoded)


# -- preconditioning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_coefficients_are_edms_table_1(spec: EnvSpec, offset: float) -> None:
    sigma = torch.tensor([[0.002], [0.5], [20.0]])
    k = build(spec, sigma_offset=offset).coefficients(sigma)
    square = sigma**2 + offset**2
    torch.testing.assert_close(k.skip, 0.25 / (square + 0.25))
    torch.testing.assert_close(k.scale_in, 1 / (square + 0.25).sqrt())
    torch.testing.assert_close(k.scale_out, square.sqrt() * 0.5 / (square + 0.25).sqrt())
    torch.testing.assert_close(k.noise, square.log() / 8)


def test_without_noise_the_input_comes_back(spec: EnvSpec, alive, actions) -> None:
    denoiser = alive(build(spec, sigma_offset=0.0))
    noisy, context = torch.randn(4, spec.state_dim), context_of(denoiser, actions, 4)
    reveal = torch.ones(4, 3, dtype=torch.bool)
    near = denoise(denoiser, noisy, torch.full((4, 1), 1e-5), context, reveal)
    torch.testing.assert_close(near, noisy, atol=1e-3, rtol=0)
    far = denoise(denoiser, noisy, torch.full((4, 1), 1.0), context, reveal)
    assert (far - noisy).abs().mean() > 0.1


@pytest.mark.parametrize("sigma", [0.01, 0.5, 10.0])
def test_input_and_target_of_the_network_have_unit_variance(spec: EnvSpec, sigma: float) -> None:
    k = build(spec, sigma_offset=0.0).coefficients(torch.tensor([[sigma]]))
    clean = 0.5 * torch.randn(200_000, 1)
    noisy = clean + sigma * torch.randn_like(clean)
    for values in (k.scale_in * noisy, (clean - k.skip * noisy) / k.scale_out):
        torch.testing.assert_close(values.var(), torch.tensor(1.0), atol=0.02, rtol=0)


def test_training_noise_is_log_normal_and_clipped(spec: EnvSpec) -> None:
    sigma = build(spec).draw_sigma(torch.empty(100_000, 4))
    assert sigma.shape == (100_000, 1)
    assert sigma.min() >= 0.002
    assert sigma.max() <= 20
    torch.testing.assert_close(sigma.log().mean(), torch.tensor(-0.4), atol=0.02, rtol=0)
    torch.testing.assert_close(sigma.log().std(), torch.tensor(1.2), atol=0.02, rtol=0)
    edges = build(spec, log_sigma_std=30.0).draw_sigma(torch.empty(100, 4))
    assert edges.min() == torch.tensor(0.002)
    assert edges.max() == 20


# -- the reveal mask --------------------------------------------------------------------------------------------------


FORMS = pytest.mark.parametrize(
    "form",
    [{"action_path": path} for path in ("condition", "condition+input", "input")]
    + [{"action_path": path, "backbone": "mlp", "width": 16} for path in ("condition", "input")],
    ids=lambda form: "-".join(map(str, form.values())),
)


@FORMS
def test_only_revealed_newest_actions_have_influence(any_spec: EnvSpec, form: dict[str, Any], alive, actions) -> None:
    denoiser = alive(build(any_spec, **form))
    context, noisy, sigma = (
        context_of(denoiser, actions, 8),
        torch.randn(8, any_spec.state_dim),
        torch.full((8, 1), 0.5),
    )
    for agent in range(any_spec.n_agents):
        only = (torch.arange(any_spec.n_agents) == agent).expand(8, -1)
        action = context.action.clone()
        action[:, -1, agent] = action[:, -1, agent].flip(-1) + 0.3
        changed = Context(context.state, action, context.valid)
        hidden = [denoise(denoiser, noisy, sigma, c, ~only) for c in (context, changed)]
        shown = [denoise(denoiser, noisy, sigma, c, only) for c in (context, changed)]
        torch.testing.assert_close(hidden[0], hidden[1], rtol=0, atol=0)
        assert ((shown[0] - shown[1]).abs().amax(-1) > 1e-5).all()


@FORMS
def test_actions_before_the_episode_have_no_influence(spec: EnvSpec, form: dict[str, Any], alive, actions) -> None:
    denoiser = alive(build(spec, **form))
    context, noisy, sigma = context_of(denoiser, actions, 8), torch.randn(8, spec.state_dim), torch.full((8, 1), 0.5)
    filled = torch.where(context.valid[..., None, None], context.action, actions(spec, 8, 3))
    reveal = torch.ones(8, 3, dtype=torch.bool)
    answers = [denoise(denoiser, noisy, sigma, Context(context.state, a, context.valid), reveal)
               for a in (context.action, filled)]  # fmt: skip
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)


def test_past_states_and_actions_have_influence(spec: EnvSpec, alive, actions) -> None:
    denoiser = alive(build(spec))
    valid = torch.ones(4, 3, dtype=torch.bool)
    context = Context(torch.randn(4, 3, spec.state_dim), actions(spec, 4, 3), valid)
    noisy, sigma, reveal = torch.randn(4, spec.state_dim), torch.full((4, 1), 0.5), torch.ones(4, 3, dtype=torch.bool)
    before = denoise(denoiser, noisy, sigma, context, reveal)
    for t in range(3):
        state, action = context.state.clone(), context.action.clone()
        state[:, t] += 1
        action[:, t] += 0.5
        assert (
            ((denoise(denoiser, noisy, sigma, Context(state, context.action, valid), reveal) - before).abs() > 0)
            .any(1)
            .all()
        )
        assert (
            ((denoise(denoiser, noisy, sigma, Context(context.state, action, valid), reveal) - before).abs() > 0)
            .any(1)
            .all()
        )


def test_a_batch_equals_its_halves(any_spec: EnvSpec, alive, actions) -> None:
    denoiser = alive(build(any_spec, action_path="condition+input"))
    context, noisy, sigma = context_of(denoiser, actions, 6), torch.randn(6, any_spec.state_dim), torch.rand(6, 1) + 0.1
    reveal = torch.rand(6, any_spec.n_agents) < 0.5
    reveal[:, 0] = True
    halves = [
        denoise(denoiser, noisy[h], sigma[h], Context(context.state[h], context.action[h], context.valid[h]), reveal[h])
        for h in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.cat(halves), denoise(denoiser, noisy, sigma, context, reveal))


@pytest.mark.parametrize("kind", ["one", "cumulative", "all"])
def test_training_reveals_agents_evenly(spec: EnvSpec, kind: str) -> None:
    reveal = build(spec, reveal=kind).draw_reveal(30_000, torch.device("cpu"))
    share = {"one": [0, 1.0, 0, 0], "cumulative": [0, 1 / 3, 1 / 3, 1 / 3], "all": [0, 0, 0, 1.0]}[kind]
    sizes = torch.bincount(reveal.sum(-1), minlength=4) / len(reveal)
    torch.testing.assert_close(sizes, torch.tensor(share), atol=0.02, rtol=0)
    for size in range(1, 3):
        chosen = reveal[reveal.sum(-1) == size].float()
        if len(chosen):
            torch.testing.assert_close(chosen.mean(0), torch.full((3,), size / 3), atol=0.02, rtol=0)


def test_training_may_show_the_full_reveal_more_often(spec: EnvSpec) -> None:
    reveal = build(spec, reveal="cumulative", full_reveal=0.4).draw_reveal(30_000, torch.device("cpu"))
    sizes = torch.bincount(reveal.sum(-1), minlength=4) / len(reveal)
    torch.testing.assert_close(sizes, torch.tensor([0, 0.2, 0.2, 0.6]), atol=0.02, rtol=0)


@pytest.mark.parametrize(("group_size", "sizes"), [(1, [0, 1, 0, 0]), (2, [0, 0.5, 0.5, 0]), (3, [0, 0, 0, 1])])
def test_training_reveals_whole_groups(spec: EnvSpec, group_size: int, sizes: list[float]) -> None:
    """Groups are equally likely; the last group of an odd team is smaller."""
    reveal = build(spec, group_size=group_size).draw_reveal(30_000, torch.device("cpu"))
    share = torch.bincount(reveal.sum(-1), minlength=4) / len(reveal)
    torch.testing.assert_close(share, torch.tensor(sizes, dtype=torch.float), atol=0.02, rtol=0)
    for size in (1, 2):
        chosen = reveal[reveal.sum(-1) == size].float()
        if len(chosen):
            torch.testing.assert_close(chosen.mean(0), torch.full((3,), size / 3), atol=0.02, rtol=0)


# -- training windows -------------------------------------------------------------------------------------------------


def window(spec: EnvSpec, actions, valid: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    shown = torch.tensor(valid, dtype=torch.bool).expand(16, -1)
    return 0.5 * torch.randn(16, 6, spec.state_dim), actions(spec, 16, 6), shown


def loss_of(denoiser: Denoiser, *batch: Tensor) -> Tensor:
    torch.manual_seed(1)
    return denoiser.loss(*batch)[0]


def test_a_change_is_denoised_in_units_of_its_standard_deviation(spec: EnvSpec, actions) -> None:
    denoiser = build(spec, target="change", rollout=1)  # the output of a new network is zero
    denoiser.change_std.copy_(torch.linspace(0.05, 1.5, spec.state_dim))
    state, action, valid = (part[:, :4] for part in window(spec, actions, [1, 1, 1, 1, 1, 1]))
    found = loss_of(denoiser, state, action, valid)
    torch.manual_seed(1)
    denoiser.draw_reveal(len(state), state.device)
    target = (state[:, -1] - state[:, -2]) / denoiser.change_std
    sigma = denoiser.draw_sigma(target)
    k = denoiser.coefficients(sigma)
    noisy = target + (sigma.square() + 0.09).sqrt() * torch.randn_like(target)
    torch.testing.assert_close(found, ((target - k.skip * noisy) / k.scale_out).square().mean())
    torch.testing.assert_close(denoiser.to_state(target, state[:, -2]), state[:, -1])


@pytest.mark.parametrize("valid", [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]])
def test_rows_outside_the_episode_reach_no_loss(spec: EnvSpec, valid: list[int], alive, actions) -> None:
    denoiser = alive(build(spec, action_path="condition+input"))
    state, action, shown = window(spec, actions, valid)
    before = loss_of(denoiser, state, action, shown)
    state, action = state.clone(), action.clone()
    state[~shown], action[~shown] = 100.0, -0.7
    torch.testing.assert_close(loss_of(denoiser, state, action, shown), before, rtol=0, atol=0)


@torch.no_grad()
def test_every_target_counts_the_same(spec: EnvSpec) -> None:
    """A new network's output is zero, so the loss is the targets' mean square: 1 for data with std 0.5."""
    denoiser = build(spec, sigma_offset=0.0)
    batch = (
        0.5 * torch.randn(1024, 6, spec.state_dim),
        torch.zeros(1024, 6, 3, 2),
        torch.ones(1024, 6, dtype=torch.bool),
    )
    assert abs(float(denoiser.loss(*batch)[0]) - 1) < 0.1
    batch[2][:, 4:] = False  # one target left instead of three: the same average
    assert abs(float(denoiser.loss(*batch)[0]) - 1) < 0.1
    batch[2][:, 3:] = False
    assert float(denoiser.loss(*batch)[0]) == 0


def test_later_targets_condition_on_the_models_own_estimates(spec: EnvSpec, alive, actions) -> None:
    """Estimates replace the true states in the history, and carry no gradient."""
    denoiser = alive(build(spec, context=3))
    state, action, shown = window(spec, actions, [1, 1, 1, 1, 1, 1])
    seen: list[Tensor] = []
    inner = denoiser.raw
    denoiser.raw = lambda noisy, k, context, *rest: (seen.append(context.state), inner(noisy, k, context, *rest))[1]
    state.requires_grad_()
    denoiser.loss(state, action, shown)
    torch.testing.assert_close(seen[0], state[:, :3])
    torch.testing.assert_close(seen[1][:, :2], state[:, 1:3])
    for own in (seen[1][:, 2], seen[2][:, 1], seen[2][:, 2]):
        assert (own - state[:, 3:6].transpose(0, 1)).abs().amax((1, 2)).min() > 1e-3
    assert torch.equal(seen[1][:, 2], seen[2][:, 1])
    assert not seen[2][:, 1:].detach().requires_grad
    (reached,) = torch.autograd.grad(seen[2].sum(), state)
    assert not reached[:, 3:].any()  # detached


def test_padded_actions_have_no_gradient(any_spec: EnvSpec, alive, actions) -> None:
    denoiser = alive(build(any_spec))
    batch = window(any_spec, actions, [1] * 6)
    valid = torch.from_numpy(any_spec.action_valid)
    assert not batch[1][..., ~valid].any()  # zero in the replay, too
    denoiser.loss(*batch)[0].backward()
    embed = denoiser.encoder.embed
    weight = (embed if any_spec.discrete else embed[0]).weight.grad
    used = batch[1].flatten(0, -2).abs().sum(0) > 0
    assert torch.equal(weight.abs().sum(0) > 0, used)


def test_the_context_must_fit_the_resolutions(spec: EnvSpec) -> None:
    with pytest.raises(ConfigError, match=r"channels = \[32, 32\] does not fit context = 2"):
        build(spec, context=2)


def test_channels_must_be_multiples_of_a_group(spec: EnvSpec) -> None:
    with pytest.raises(ConfigError, match=r"channels = \[32, 48\] must be multiples of 32"):
        build(spec, channels=[32, 48])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"action_path": "condition+input", "target": "change", "reveal": "cumulative"},
        {"action_path": "input", "target": "change", "reveal": "cumulative", "backbone": "mlp", "width": 64},
    ],
)
def test_the_loss_equals_one_target_at_a_time(any_spec: EnvSpec, change: dict[str, str], alive, actions) -> None:
    denoiser = alive(build(any_spec, **change))
    state, action, valid = window(any_spec, actions, [0, 1, 1, 1, 1, 0])

    def reference() -> Tensor:
        """A condition call for each target, from the same random numbers."""
        torch.manual_seed(1)
        reveal = denoiser.draw_reveal(48, state.device).unflatten(0, (3, 16))
        history, losses = (state * valid[..., None])[:, :3], []
        for h in range(3):
            context = Context(history, action[:, h : h + 3], valid[:, h : h + 3])
            target = denoiser.to_target((state * valid[..., None])[:, 3 + h], history[:, -1])
            sigma = denoiser.draw_sigma(target)
            noisy = target + (sigma.square() + 0.09).sqrt() * torch.randn_like(target)
            k = denoiser.coefficients(sigma)
            estimate = denoise(denoiser, noisy, sigma, context, reveal[h])
            losses.append(((estimate - target) / k.scale_out).square().mean(-1))
            reached = denoiser.to_state(estimate, history[:, -1]).detach()
            history = torch.cat([history[:, 1:], reached[:, None]], dim=1)
        real = valid[:, 3:]
        return (torch.stack(losses, dim=1) * real).sum() / real.sum()

    losses = loss_of(denoiser, state, action, valid), reference()
    torch.testing.assert_close(*losses)
    weights = list(denoiser.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in losses), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


# -- residual noise ---------------------------------------------------------------------------------------------------


def test_residual_noise_learns_how_far_predictions_err(spec: EnvSpec) -> None:
    """A state that is noise of a known size, larger where the first feature is positive, cannot be predicted."""
    torch.manual_seed(0)
    denoiser = build(spec, residual_noise=True, context=1, rollout=1, backbone="mlp", width=16, action_path="input",
                     reveal="all")  # fmt: skip
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    every, action = torch.ones(256, 2, dtype=torch.bool), torch.zeros(256, 2, spec.n_agents, spec.action_dim)

    def deviation(state: Tensor) -> Tensor:
        return torch.where(state[:, :1] > 0, 0.4, 0.1)

    for _ in range(400):
        now = 0.5 * torch.randn(256, spec.state_dim)
        after = deviation(now) * torch.randn_like(now)
        loss, _ = denoiser.loss(torch.stack([now, after], dim=1), action, every)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = torch.zeros(2, spec.state_dim)
    state[:, 0] = torch.tensor([0.6, -0.6])
    context = Context(state[:, None], action[:2, :1], every[:2, :1])
    widened = denoiser.add_residual(torch.zeros(2000, 2, spec.state_dim).flatten(0, 1), Context(
        context.state.repeat(2000, 1, 1), context.action.repeat(2000, 1, 1, 1), context.valid.repeat(2000, 1)
    )).unflatten(0, (2000, 2))  # fmt: skip
    assert float(widened[:, 0].std()) == pytest.approx(0.4, rel=0.2)
    assert float(widened[:, 1].std()) == pytest.approx(0.1, rel=0.4)


def test_residual_noise_leaves_the_denoisers_own_gradient_alone(spec: EnvSpec, actions) -> None:
    batch, gradients = window(spec, actions, [1] * 6), []
    for residual in (False, True):
        torch.manual_seed(0)
        denoiser = build(spec, reveal="all")
        if residual:
            denoiser.residual = ResidualScale(spec)
        loss_of(denoiser, *batch).backward()
        gradients.append([w.grad for name, w in denoiser.named_parameters() if not name.startswith("residual")])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True) if one is not None)
