"""Tokens of observations and actions: shapes, padding, round trips, learning."""

from __future__ import annotations

import pytest
import torch

from dima.data import EnvSpec, View
from dima.nn.normalizer import Normalizer
from dima.world_models.marie.tokenizer import ActionTokens, Reconstruction, Tokenizer, TokenizerConfig

SMALL = TokenizerConfig(hidden=(32,), tokens=4, token_dim=8, codebook=32)
both = pytest.mark.parametrize("bottleneck", ["vq", "fsq"])


@both
def test_observations_become_tokens_and_come_back_with_padding_zero(any_spec: EnvSpec, bottleneck: str, alive) -> None:
    tokenizer = alive(Tokenizer(SMALL.override({"bottleneck": bottleneck, "fsq_levels": [4, 3]}), any_spec))
    obs = torch.randn(2, 5, any_spec.n_agents, any_spec.obs_dim) * torch.from_numpy(any_spec.obs_valid)
    tokens = tokenizer.encode(obs)
    assert tokens.shape == (2, 5, any_spec.n_agents, 4)
    assert tokens.dtype == torch.long
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.config.vocabulary == (32 if bottleneck == "vq" else 12)
    found = tokenizer.decode(tokens)
    assert found.shape == obs.shape
    assert not found[..., ~torch.from_numpy(any_spec.obs_valid)].any()


@both
def test_decoding_tokens_is_what_the_loss_reconstructs(spec: EnvSpec, bottleneck: str) -> None:
    tokenizer = Tokenizer(SMALL.override({"bottleneck": bottleneck}), spec).eval()
    obs = torch.randn(7, 3, 5)
    _, metrics = tokenizer.loss(obs)
    error = (tokenizer.decode(tokenizer.encode(obs)) - obs).abs().mean()
    torch.testing.assert_close(metrics["tokenizer/error"], error)


def test_padding_has_no_effect_on_the_loss() -> None:
    uneven = EnvSpec(("a", "b"), 4, (2, 5), (1, 1), discrete=False)
    tokenizer = Tokenizer(SMALL, uneven).eval()
    obs = torch.randn(6, 2, 5) * torch.from_numpy(uneven.obs_valid)
    per_agent = [
        (tokenizer.decode(tokenizer.encode(obs)) - obs).abs()[:, n, :size].sum() for n, size in ((0, 2), (1, 5))
    ]
    torch.testing.assert_close(tokenizer.loss(obs)[1]["tokenizer/error"], sum(per_agent) / (6 * 7))


@both
def test_it_learns_to_reconstruct(spec: EnvSpec, bottleneck: str) -> None:
    tokenizer = Tokenizer(SMALL.override({"bottleneck": bottleneck, "usage": 1.0, "dead_below": 0.1}), spec)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    obs = torch.randn(64, 3, 5).sign() + 0.1 * torch.randn(64, 3, 5)
    errors = []
    for _ in range(150):
        loss, metrics = tokenizer.loss(obs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(metrics["tokenizer/error"]))
    assert errors[-1] < 0.5 * errors[0], (errors[0], errors[-1])


def test_evaluation_leaves_the_codebook_alone(spec: EnvSpec) -> None:
    tokenizer = Tokenizer(SMALL, spec).eval()
    before = {name: value.clone() for name, value in tokenizer.named_buffers()}
    tokenizer.loss(torch.randn(8, 3, 5))
    assert all(torch.equal(before[name], value) for name, value in tokenizer.named_buffers())
    tokenizer.train().loss(torch.randn(8, 3, 5))
    assert not torch.equal(before["quantizer.codebook"], tokenizer.quantizer.codebook)


@pytest.mark.parametrize("clamp", [False, True])
def test_a_policy_sees_each_agent_s_own_reconstruction(spec: EnvSpec, clamp: bool, alive) -> None:
    scale = Normalizer((3, 5))
    scale.update(100 + 20 * torch.randn(50, 3, 5))
    seen = Reconstruction(alive(Tokenizer(SMALL, spec)), scale, clamp)
    view = View(
        100 + 20 * torch.randn(4, 3, 5), torch.randn(4, 4), torch.ones(4, 3, 2, dtype=torch.bool), torch.zeros(4, 3, 2)
    )
    found, _ = seen(view, None, False)
    assert torch.equal(found.state, found.obs.flatten(1))
    assert (found.obs.abs() <= 1).all() == clamp
    changed = View(view.obs.clone(), view.state, view.action_mask, view.previous_action)
    changed.obs[:, 1] += 40
    again, _ = seen(changed, None, False)
    assert torch.equal(again.obs[:, [0, 2]], found.obs[:, [0, 2]])  # nobody needs the others' observations
    if not clamp:
        assert not torch.equal(again.obs[:, 1], found.obs[:, 1])


def test_bins_of_continuous_actions() -> None:
    one = EnvSpec(("a",), 1, (1,), (1,), discrete=False)
    tokens = ActionTokens(one, 256)
    action = torch.tensor([[-1.0], [0.0], [1.0], [-7.0], [7.0]])
    assert tokens(action).flatten().tolist() == [0, 128, 255, 0, 255]
    drawn = 2 * torch.rand(500, 1, 1) - 1
    centre = (tokens(drawn) + 0.5) / 128 - 1
    assert (centre - drawn).abs().max() <= 1 / 256 + 1e-5


def test_a_choice_is_one_token() -> None:
    choices = EnvSpec(("a", "b"), 1, (1, 1), (2, 4), discrete=True)
    action = torch.eye(4)[torch.tensor([[0, 3], [1, 2]])]
    tokens = ActionTokens(choices, 256)
    assert tokens(action).tolist() == [[[0], [3]], [[1], [2]]]
    assert (tokens.count, tokens.vocabulary) == (1, 4)
