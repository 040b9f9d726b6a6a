"""The authors' results (``data/marie.json``, written by ``data/marie_reference.py``) are reproduced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.objectives import lambda_returns
from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.nn.hl_gauss import HLGauss, symexp
from dima.nn.quantizer import VectorQuantizer
from dima.world_models.marie.aggregator import AggregatorConfig
from dima.world_models.marie.model import MarieModelConfig, MarieWorldModel
from dima.world_models.marie.tokenizer import ActionTokens, TokenizerConfig
from dima.world_models.marie.transformer import TransformerConfig
from tests.parity.data.marie_reference import fill

MARIE: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "marie.json").read_text())
SPEC = EnvSpec(("a", "b", "c"), state_dim=5, obs_sizes=(4, 4, 4), action_sizes=(2, 2, 2), discrete=False)
NAMES = (
    ("perattn.cross_attn_blocks.0", "aggregator.read"),
    ("perattn.cross_attn_blocks.1", "aggregator.read_feed"),
    ("perattn.layers.0.0", "aggregator.mix.0"),
    ("perattn.layers.0.1", "aggregator.mix.1"),
    ("perattn.latents", "aggregator.latents"),
    ("fn.to_q", "query"),
    ("fn.to_kv", "key_value"),
    ("fn.to_out", "out"),
    ("fn.net.0", "lift"),
    ("fn.net.2", "lower"),
    ("norm_context", "context_norm"),
    ("transformer.blocks", "blocks"),
    ("transformer.ln_f", "norm"),
    (".ln1", ".attention.norm"),
    (".ln2", ".feed.0"),
    (".attn.proj", ".attention.out"),
    (".attn.", ".attention."),
    (".mlp.0", ".feed.1"),
    (".mlp.2", ".feed.3"),
    ("pos_emb.weight", "position"),
    ("embedder.embedding_tables.0.weight", "embed_action"),
    ("embedder.embedding_tables.1.weight", "embed_obs"),
    ("head_observations.head_module", "obs_head"),
    ("head_rewards.head_module", "reward_head"),
    ("head_ends.head_module", "end_head"),
)


def tensors(part: dict[str, Any], *names: str) -> list[Tensor]:
    return [torch.tensor(part[name]) for name in names]


def model() -> MarieWorldModel:
    """A world model with the weights of the authors'."""
    sizes = MARIE["sizes"]
    made = MarieWorldModel(
        MarieModelConfig(
            tokenizer=TokenizerConfig(tokens=3, codebook=6),
            transformer=TransformerConfig(
                dim=sizes["dim"],
                layers=sizes["layers"],
                heads=sizes["heads"],
                dropout=0.0,
                steps=4,
                reward_bins=8,
                aggregator=AggregatorConfig(
                    depth=sizes["perceiver_depth"],
                    heads=sizes["perceiver_heads"],
                    head_dim=sizes["perceiver_head_dim"],
                    dropout=0.0,
                ),
            ),
            action_bins=5,
            segment_mean=True,
        ),
        SPEC,
    ).eval()
    weights = {}
    for number, (name, shape) in enumerate(MARIE["network"]["shapes"].items()):
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        weights[name] = fill(number, shape)
    for name in [name for name in weights if ".attention.key." in name]:
        weights[name.replace(".key.", ".key_value.")] = torch.cat(
            [weights.pop(name), weights.pop(name.replace(".key.", ".value."))]
        )
    assert weights.keys() == dict(made.transformer.named_parameters()).keys()
    made.transformer.load_state_dict(weights, strict=False)
    return made


@torch.no_grad()
def test_features_and_losses_of_a_window_with_an_end_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    found, ours = MARIE["network"], model()
    tokens, action, reward, ends = tensors(found, "tokens", "action", "reward", "ends")
    monkeypatch.setattr(ours.tokenizer, "encode", lambda _: tokens)
    before = torch.nn.functional.pad(ends[:, :-1].long().cumsum(1), (1, 0))
    rows = Rows(
        state=torch.zeros(2, 4, 5),
        obs=torch.zeros(2, 4, 3, 4),
        action_mask=torch.ones(2, 4, 3, 2, dtype=torch.bool),
        action=action,
        reward=reward,
        terminated=ends,
        episode=before,
        valid=torch.ones_like(ends),
        acted=torch.ones_like(ends),
    )
    bins = ours.action_tokens(action)
    features = ours.transformer(tokens, bins, rows.episode, ours.tokenizer.codes)
    expected = torch.tensor(found["features"]).view(2, 3, 4, 6, -1)
    torch.testing.assert_close(features, expected, atol=2e-5, rtol=2e-5)
    decoded = ours.transformer.reward(ours.transformer.predict(features[..., -1, :]).reward)
    torch.testing.assert_close(decoded, symexp(torch.tensor(found["rewards"]).view(2, 3, 4)), atol=1e-4, rtol=1e-4)
    loss, parts = ours.transformer_loss(rows)
    losses = found["losses"]
    assert float(parts["transformer/tokens"]) == pytest.approx(losses["loss_obs"], abs=1e-5)
    assert float(parts["transformer/reward"]) == pytest.approx(losses["loss_rewards"], abs=1e-5)
    assert float(parts["transformer/continuation"]) == pytest.approx(losses["loss_ends"], abs=1e-5)
    assert float(loss) == pytest.approx(losses["total_loss"], abs=2e-5)


def test_returns_with_a_value_per_agent() -> None:
    reward, value, discount, expected = (
        x.transpose(0, 1) for x in tensors(MARIE["returns"], "reward", "value", "discount", "returns")
    )
    none = torch.zeros(4, 6, 1, dtype=torch.bool)
    found = lambda_returns(reward, discount, none, value[:, 1:], gamma=0.99, lam=0.95)
    torch.testing.assert_close(found, expected)


def test_histograms() -> None:
    ours = HLGauss(-3, 3, 128)
    target, logits, peak, decoded, mean, loss = tensors(
        MARIE["histograms"], "target", "logits", "peak", "decoded", "mean", "loss"
    )
    encoded = ours.encode(target)
    torch.testing.assert_close(encoded.amax(-1), peak, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((encoded * ours.centres).sum(-1), decoded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(logits), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss(logits, target).mean(), loss, atol=1e-5, rtol=1e-5)


def test_the_codebook_follows_the_authors_from_zero_counts() -> None:
    found = MARIE["codebook"]
    ours = VectorQuantizer(7, 3, decay=0.8, usage=0.0)
    start, batches = tensors(found, "start", "batches")
    ours.codebook.copy_(start)
    ours.total.copy_(start)
    for batch, step in zip(batches, found["steps"], strict=True):
        quantized, index, commitment = ours(batch)
        assert index.tolist() == step["index"]
        torch.testing.assert_close(quantized, torch.tensor(step["quantized"]), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(10 * commitment, torch.tensor(step["commitment"]), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ours.codebook, torch.tensor(step["codebook"]), atol=1e-6, rtol=1e-4)


def test_bins_of_actions() -> None:
    action, bins = tensors(MARIE["bins"], "action", "bins")
    spec = EnvSpec(("a",), state_dim=1, obs_sizes=(1,), action_sizes=(1,), discrete=False)
    assert torch.equal(ActionTokens(spec, 256)(action), bins)
