"""The Transformer: who sees what, in one pass and token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dima.config import Config
from dima.data import EnvSpec
from dima.errors import ConfigError
from dima.world_models.marie.aggregator import Aggregator, AggregatorConfig
from dima.world_models.marie.transformer import TransformerConfig, WorldTransformer

SPEC = EnvSpec(("a", "b", "c"), 4, (5, 5, 5), (2, 2, 2), discrete=False)
CONFIG = TransformerConfig(
    dim=16, layers=2, heads=2, steps=4, aggregator=AggregatorConfig(depth=1, heads=2, head_dim=8)
)
K, E, M, BLOCK = 3, 5, 2, 6
CODES = torch.linspace(-1, 1, 11)[:, None] ** torch.arange(1, E + 1)


@pytest.fixture(params=[False, True], ids=["table", "codes"])
def net(alive, request: pytest.FixtureRequest) -> WorldTransformer:
    return alive(WorldTransformer(CONFIG.override({"embed_codes": request.param}), SPEC, K, 11, E, M, 7))


def window() -> tuple[Tensor, Tensor]:
    """Tokens (B, L, N, K) and (B, L, N, M)."""
    return torch.randint(11, (2, 4, 3, K)), torch.randint(7, (2, 4, 3, M))


def same_episode() -> Tensor:
    return torch.zeros(2, 4, dtype=torch.long)


@torch.no_grad()
@pytest.mark.parametrize(("step", "place"), [(0, 1), (2, 0), (3, 2), (1, 3), (2, 4)])
def test_a_token_changes_nothing_before_it(net: WorldTransformer, step: int, place: int) -> None:
    obs, action = window()
    before = net(obs, action, same_episode(), CODES)
    tokens, column = (obs, place) if place < K else (action, place - K)
    tokens[0, step, 1, column] = (tokens[0, step, 1, column] + 1) % 7
    changed = (net(obs, action, same_episode(), CODES) != before).any(-1)  # (B, N, L, T)
    assert not changed[1].any()
    own = changed[0, 1].flatten()
    assert not own[: step * BLOCK + place].any()
    assert own[step * BLOCK + place :].all()


@torch.no_grad()
def test_only_the_aggregate_knows_of_other_agents(net: WorldTransformer) -> None:
    obs, action = window()
    before = net(obs, action, same_episode(), CODES)
    obs[0, 1, 2] = (obs[0, 1, 2] + 1) % 11
    changed = (net(obs, action, same_episode(), CODES) != before).any(-1)[0, :2]  # (2, L, T) of the others
    assert not changed[:, 0].any()
    assert not changed[:, 1, :-1].any()
    assert changed[:, 1, -1].all()
    assert changed[:, 2:].all()


@torch.no_grad()
def test_no_attention_crosses_the_end_of_an_episode(net: WorldTransformer) -> None:
    obs, action = window()
    episode = torch.tensor([[0, 0, 2, 2], [5, 6, 6, 9]])
    before = net(obs, action, episode, CODES)
    for row, end in ((0, 2), (1, 1), (1, 3)):
        other, another = obs.clone(), action.clone()
        other[row, :end] = (other[row, :end] + 1) % 11
        another[row, :end] = (another[row, :end] + 1) % 7
        found = net(other, another, episode, CODES)
        assert torch.equal(found[row, :, end:], before[row, :, end:])
        assert not torch.equal(found[row, :, :end], before[row, :, :end])


def test_the_mask_is_causal_in_each_episode(net: WorldTransformer) -> None:
    episode = torch.tensor([[0, 0, 7, 9]])
    mask = net.mask(episode)[0, 0]
    for query in range(4 * BLOCK):
        for key in range(4 * BLOCK):
            together = episode[0, query // BLOCK] == episode[0, key // BLOCK]
            assert bool(mask[query, key]) == (key <= query and bool(together))


@torch.no_grad()
def test_embedded_codes_follow_the_codebook_up_to_its_scale(alive) -> None:
    net = alive(WorldTransformer(CONFIG.override({"embed_codes": True}), SPEC, K, 11, E, M, 7))
    tokens, moved = torch.arange(11), CODES.clone()
    moved[4] += 0.5
    before = net.embed_tokens(tokens, CODES)
    torch.testing.assert_close(net.embed_tokens(tokens, 3 * CODES), before)
    near = net.embed_tokens(tokens, moved * CODES.std() / moved.std())
    assert (near[4] - before[4]).abs().min() > 0
    expected = net.embed_obs + net.embed_code(CODES / CODES.std())
    torch.testing.assert_close(before, expected)
    assert net.embed_tokens(tokens, torch.zeros(11, E)).isfinite().all()
    assert alive(WorldTransformer(CONFIG, SPEC, K, 11, E, M, 7)).embed_code is None


@torch.no_grad()
@pytest.mark.parametrize("begins", [None, [0, 1]])
def test_a_cache_agrees_with_a_full_pass(net: WorldTransformer, begins: list[int] | None) -> None:
    """Token by token and in pieces, from the blocks at which episodes begin."""
    obs, action = window()
    begin = torch.tensor(begins or [0, 0])
    episode = (torch.arange(4) >= begin[:, None]).long()
    expected = net(obs, action, episode, CODES).flatten(2, 3).flatten(0, 1)  # (B * N, L T, D)
    tokens = net.embed(obs, action, CODES).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    cache, at, first = net.cache(6), 0, None if begins is None else (begin * BLOCK).repeat_interleave(3)
    for size in (1, 1, 4, 5, 1, 2, 4, 1, 1, 4):
        found = net.extend(tokens[:, at : at + size], cache, at, first)
        rows = torch.arange(6) if at >= BLOCK else torch.arange(3)  # the others have not begun
        torch.testing.assert_close(found[rows], expected[rows, at : at + size], atol=1e-5, rtol=1e-5)
        at += size
    assert at == 4 * BLOCK


@torch.no_grad()
def test_permuted_agents_have_permuted_aggregates(alive) -> None:
    aggregator, order = alive(Aggregator(AggregatorConfig(), 3, K + M, 16)), torch.tensor([2, 0, 1])
    tokens = torch.randn(4, 3, K + M, 16)
    before = aggregator(tokens)
    aggregator.latents.copy_(aggregator.latents[order])
    aggregator.agent.copy_(aggregator.agent[order])
    torch.testing.assert_close(aggregator(tokens[:, order]), before[:, order], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, order], before, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("slots", [False, True])
def test_tokens_of_an_agent_are_a_set_unless_they_have_slots(slots: bool, alive) -> None:
    aggregator = alive(Aggregator(AggregatorConfig(slots=slots), 3, K + M, 16))
    tokens, order = torch.randn(4, 3, K + M, 16), torch.tensor([1, 2, 0, 3, 4])
    assert torch.allclose(aggregator(tokens[:, :, order]), aggregator(tokens), atol=1e-5) != slots


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_at_the_temperature(temperature: float, alive) -> None:
    torch.manual_seed(0)
    net = alive(WorldTransformer(CONFIG.override({"temperature": temperature}), SPEC, K, 11, E, M, 7))
    features = torch.randn(16)
    drawn = torch.bincount(net.draw(features.expand(20_000, 16)), minlength=11) / 20_000
    expected = net.obs_head(features).softmax(-1) ** (1 / temperature)
    torch.testing.assert_close(drawn, expected / expected.sum(), atol=0.015, rtol=0)


def test_rewards_know_their_loss() -> None:
    reward = torch.tensor([-5.0, 0.0, 0.3, 12.0])
    net = WorldTransformer(CONFIG, SPEC, K, 11, E, M, 7)
    sharp = net.histogram.encode(reward.sign() * reward.abs().log1p()).log().clamp(min=-40)
    torch.testing.assert_close(net.reward(sharp), reward, atol=1e-3, rtol=1e-3)
    assert (net.reward_loss(sharp, reward) < net.reward_loss(torch.zeros(4, 128), reward)).all()
    plain = WorldTransformer(CONFIG.override({"reward": "smooth_l1"}), SPEC, K, 11, E, M, 7)
    assert torch.equal(plain.reward(reward[:, None]), reward)
    torch.testing.assert_close(plain.reward_loss(torch.zeros(4, 1), reward), torch.tensor([4.5, 0.0, 0.045, 11.5]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"^dim = 30 must be divisible by heads = 4$"):
        TransformerConfig(dim=30)
    assert isinstance(CONFIG, Config)


def test_initial_weights() -> None:
    torch.manual_seed(1)
    net = WorldTransformer(TransformerConfig(dim=64, layers=2, init_std=0.0), SPEC, K, 512, E, M, 256)
    assert float(net.embed_obs.detach().std()) == pytest.approx(0.1, rel=0.1)
    assert float(net.obs_head[0].weight.detach().abs().max()) == pytest.approx(64**-0.5, rel=0.01)
    net = WorldTransformer(TransformerConfig(dim=64, layers=2), SPEC, K, 512, E, M, 256)
    for name, value in net.named_parameters():
        value = value.detach()
        if "norm" in name or ".feed.0." in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not value.any()
        else:
            spread = 1.0 if name.endswith("latents") else 0.02
            assert float(value.std()) == pytest.approx(spread, rel=0.25), name
