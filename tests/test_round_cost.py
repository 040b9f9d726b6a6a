"""The cost of a round: operations against counts by hand, sums that add up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.round import Counter, build, measure, table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def config(tiny):
    decoder = {"bottleneck": "none", "hidden": [32]}
    return tiny(learner={"world_model": {"decoder": decoder, "decoder_fit": {"updates": 7, "batch": 16}}})


def test_a_decoder_update_is_counted_as_by_hand(config) -> None:
    result = measure(config, updates=2)
    state, hidden, out, batch = 4, 32, 4, 16
    forward = state * hidden + hidden * out
    backward = state * hidden + 2 * hidden * out  # no gradient of the input
    assert result["parts"]["decoder update"]["flops"] == 2 * batch * (forward + backward)


def test_a_round_is_the_sum_of_its_parts_times_how_often_they_come(config) -> None:
    result = measure(config, updates=1)
    assert result["often"] == {
        "decoder update": 7,
        "denoiser update": 4,
        "reward update": 4,
        "imagination": 2,
        "policy update": 2,
    }
    for unit in ("seconds", "flops"):
        parts = [result["parts"][name][unit] * times for name, times in result["often"].items()]
        assert result["round"]["round"][unit] == pytest.approx(sum(parts))
        inside = sum(cost[unit] for cost in result["inside"].values())
        assert inside <= result["parts"]["imagination"][unit]
    assert sum(c["flops"] for c in result["inside"].values()) == result["parts"]["imagination"]["flops"]
    assert all(cost["flops"] > 0 and cost["seconds"] > 0 for cost in result["inside"].values())
    text = table(result)
    assert all(name in text for name in [*result["parts"], *result["inside"], "a whole round"])


def test_measuring_leaves_the_learner_as_it_was(config) -> None:
    learner = build(config)
    measure(config, updates=1)
    assert "encode_actions" not in vars(learner.world_model.denoiser)
    assert "act" not in vars(learner.ppo)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_the_cpu_is_counted_forward_and_backward(masked: bool) -> None:
    """2 products of 2 * 5 * 7 * 8 operations a head forward; backward 4, and the weights once more."""
    query = torch.randn(3, 2, 5, 8, requires_grad=True)
    key, value = torch.randn(2, 3, 2, 7, 8, requires_grad=True).unbind(0)
    mask = torch.ones(5, 7, dtype=torch.bool) if masked else None
    product = 3 * 2 * 2 * 5 * 7 * 8
    with Counter() as forward:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    assert forward.flops == 2 * product
    with Counter() as backward:
        out.sum().backward()
    assert backward.flops in (4 * product, 5 * product)
