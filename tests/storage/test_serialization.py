"""Trees of tensors and plain data: round trips without pickle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dima.storage.serialization import decode, encode, load_tree_file, save_tree_file

keys = st.text(max_size=8) | st.integers() | st.booleans() | st.none()
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def assert_same_types(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        for (k, v), (key, value) in zip(left.items(), right.items(), strict=True):
            assert type(k) is type(key)
            assert_same_types(v, value)
    elif isinstance(left, list | tuple):
        for v, value in zip(left, right, strict=True):
            assert_same_types(v, value)


@given(trees)
def test_round_trip_of_plain_trees_with_types(tree):
    text, tensors = encode(tree)
    back = decode(text, tensors)
    assert back == tree
    assert_same_types(tree, back)


def test_undefined_floats_survive_and_the_text_is_valid_json():
    text, _ = encode({"a": math.nan, "b": [math.inf, -math.inf]})
    assert "NaN" not in text
    assert "Infinity" not in text
    back = decode(text, {})
    assert math.isnan(back["a"])
    assert back["b"] == [math.inf, -math.inf]


def test_random_generators_survive(tmp_path):
    generator = np.random.default_rng(3)
    generator.random(5)
    mersenne = np.random.RandomState(4)
    save_tree_file(tmp_path / "t", {"pcg": generator.bit_generator.state, "old": mersenne.get_state(legacy=False)})
    back = load_tree_file(tmp_path / "t")
    other, old = np.random.default_rng(0), np.random.RandomState(0)
    other.bit_generator.state = back["pcg"]
    old.set_state(back["old"])
    assert np.array_equal(other.random(4), generator.random(4))
    assert np.array_equal(old.rand(4), mersenne.rand(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_kind_survive(dtype, tmp_path):
    tree = {"full": torch.ones(2, 3, dtype=dtype), "scalar": torch.ones((), dtype=dtype), "empty": torch.zeros(0, 4)}
    save_tree_file(tmp_path / "t", tree)
    back = load_tree_file(tmp_path / "t")
    for name, tensor in tree.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_views_shared_memory_and_strange_keys_survive(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {
        "transposed": base.t(),
        "column": base[:, 1],
        "tied": base,
        "leaf": torch.nn.Parameter(base),
        0: {"w": base[0]},
        "0": {"w": base[1]},
        "a/b": base[2],
        "a": {"b": base[1]},
        "!": torch.zeros(1),
        "strided": base[::2],
    }
    save_tree_file(tmp_path / "t", tree)
    back = load_tree_file(tmp_path / "t")
    assert list(back) == list(tree)
    assert torch.equal(back["transposed"], base.t())
    assert torch.equal(back["column"], base[:, 1])
    assert torch.equal(back["tied"], base)
    assert torch.equal(back["leaf"], base)
    assert torch.equal(back[0]["w"], base[0])
    assert torch.equal(back["0"]["w"], base[1])
    assert torch.equal(back["a/b"], base[2])
    assert torch.equal(back["a"]["b"], base[1])
    assert torch.equal(back["strided"], base[::2])


def test_an_optimiser_continues_exactly(tmp_path):
    def make():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net, optimiser):
        optimiser.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()

    net, optimiser = make()
    step(net, optimiser)
    save_tree_file(tmp_path / "t", {"net": net.state_dict(), "optimiser": optimiser.state_dict()})
    step(net, optimiser)

    other, resumed = make()
    back = load_tree_file(tmp_path / "t")
    other.load_state_dict(back["net"])
    resumed.load_state_dict(back["optimiser"])
    step(other, resumed)
    assert torch.equal(other.weight, net.weight)


def test_numpy_scalars_become_plain():
    text, tensors = encode({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)})
    assert decode(text, tensors) == {"a": 0.5, "b": 3, "c": True}


def test_what_cannot_be_saved_is_named():
    with pytest.raises(TypeError, match="a/1 is a object"):
        encode({"a": [1, object()]})


def test_an_unknown_mark_is_refused():
    with pytest.raises(ValueError, match="unknown mark 'python'"):
        decode('{"!": "python", "code": "import os"}', {})
