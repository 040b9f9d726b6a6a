"""Configs validate their fields, and a YAML round trip is exact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dima.config import (
    Config,
    Count,
    Fraction,
    NonEmpty,
    NonNegative,
    Positive,
    Range,
    Whole,
    read_yaml,
    user_path,
    write_yaml,
)
from dima.errors import ConfigError


@dataclass(frozen=True)
class Inner(Config):
    rate: Positive = 1e-4
    sizes: tuple[Count, ...] = (64, 64)
    kind: Literal["one", "cumulative"] = "one"
    names: Annotated[tuple[str, ...], NonEmpty("a or b")] = ("a",)


@dataclass(frozen=True)
class Outer(Config):
    steps: Count = 10
    seed: Whole = 0
    share: Fraction = 0.5
    weight: NonNegative = 0.0
    pair: tuple[int, float] = (1, 2.0)
    name: str | None = None
    flag: bool = True
    angle: Annotated[float, Range(-1, 1)] = 0.0
    anything: Any = None
    inner: Inner = Inner()


finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(
    Inner,
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    sizes=st.lists(st.integers(1, 512), max_size=4).map(tuple),
    kind=st.sampled_from(["one", "cumulative"]),
)
outers = st.builds(
    Outer,
    steps=st.integers(1, 2**63 - 1),
    seed=st.integers(0, 2**63 - 1),
    share=st.floats(0, 1),
    weight=st.floats(min_value=0, allow_infinity=False),
    pair=st.tuples(st.integers(-(2**63), 2**63 - 1), finite),
    name=st.none() | st.text(),
    flag=st.booleans(),
    angle=st.floats(-1, 1),
    inner=inners,
)


@given(outers)
@example(Outer(name="0E0"))  # text
def test_yaml_gives_an_equal_config(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    write_yaml(path, config.to_dict())
    assert Outer().override(read_yaml(path)) == config


def test_short_exponents_are_numbers(tmp_path):
    (tmp_path / "p.yaml").write_text("inner: {rate: 3e-4}\nweight: 1E+2\nname: 1e\n")
    config = Outer().override(read_yaml(tmp_path / "p.yaml"))
    assert (config.inner.rate, config.weight, config.name) == (3e-4, 100.0, "1e")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, "step is not a field of Outer: did you mean 'steps'?"),
        ({"zzz": 3}, "zzz is not a field of Outer: choose one of: angle, anything, flag"),
        ({"inner": {"rat": 1.0}}, "inner.rat is not a field of Inner: did you mean 'rate'?"),
        ({"inner": {"rate": 0}}, "inner.rate = 0.0 is out of range: expected above 0"),
        ({"inner": 3}, "inner = 3 does not fit: expected a value of type Inner"),
        ({"steps": 0}, "steps = 0 is out of range: expected at least 1"),
        ({"steps": 1.5}, "steps = 1.5 does not fit: expected a value of type int"),
        ({"steps": True}, "steps = True does not fit: expected a value of type int"),
        ({"steps": "many"}, "steps = 'many' does not fit: expected a value of type int"),
        ({"share": 1.01}, "share = 1.01 is out of range: expected at least 0 and at most 1"),
        ({"weight": float("nan")}, "weight = nan does not fit: expected a finite number"),
        ({"angle": -2}, "angle = -2.0 is out of range: expected at least -1 and at most 1"),
        ({"flag": 1}, "flag = 1 does not fit: expected a value of type bool"),
        ({"name": 3}, "name = 3 does not fit: expected a value of type str"),
        ({"pair": [1]}, "pair = [1] does not fit: expected a list of 2 values"),
        ({"pair": 1}, "pair = 1 does not fit: expected a list"),
        ({"inner": {"names": []}}, "inner.names = [] is empty: name at least one value, such as a or b"),
        ({"inner": {"sizes": [64, 0]}}, "inner.sizes[1] = 0 is out of range: expected at least 1"),
        ({"inner": {"kind": "cumulativ"}}, "inner.kind = 'cumulativ' is not one of one, cumulative: did you mean 'cum"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ConfigError) as caught:
        Outer().override(changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_home_and_names_that_are_too_long(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    assert user_path(Path("a/~")) == Path("a/~")
    assert user_path("x" * 255)
    for path in ("x" * 256, "é" * 128, "a/" * 2100):
        with pytest.raises(ConfigError, match="is too long: a name may have 255 bytes, a path 4095"):
            user_path(path)
    with pytest.raises(ConfigError, match="names the home of a user who does not exist"):
        user_path("~nobody-of-this-name/a")


def test_whole_floats_do_for_integers():
    assert Outer(steps=1e6) == Outer(steps=10**6)
    assert type(Outer(steps=1e6).steps) is int
    for steps in (1.5, float("inf"), float("nan"), 1e300):
        with pytest.raises(ConfigError, match=r"^steps = "):
            Outer(steps=steps)


def test_whole_numbers_do_for_floats_and_lists_for_tuples():
    config = Outer(weight=2, pair=[3, 4])
    assert config.weight == 2.0
    assert isinstance(config.weight, float)
    assert config.pair == (3, 4.0)


def test_a_range_without_limits_says_so():
    assert str(Range()) == "any number"


@pytest.mark.parametrize("text", ["a: [1", "- 1", "3", "\tx: 1"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml (is not valid YAML|must hold a mapping)"):
        read_yaml(tmp_path / "bad.yaml")


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}
