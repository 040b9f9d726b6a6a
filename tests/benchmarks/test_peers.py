"""An iteration beside the authors' of a method: parts as often as it makes them, ratios of theirs to ours."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from benchmarks.peers.turns import Side, measure, rows
from dima.data import EnvSpec


def side(update: int, policy: int, pause: float) -> Side:
    a, b = torch.randn(8, 4), torch.randn(4, 16)

    def product(times: int) -> None:
        time.sleep(pause)
        for _ in range(times):
            a @ b

    return {"update": partial(product, update), "policy": partial(product, policy)}


def test_an_iteration_is_the_sum_of_its_parts() -> None:
    sides = {"ours": partial(side, 1, 2, 0.0), "theirs": partial(side, 2, 2, 0.02)}
    found = measure(sides, {"update": 3, "policy": 5}, turns=3)
    gflop = 2 * 8 * 4 * 16 / 1e9
    assert found["update"]["ours"]["operations"] == pytest.approx(gflop)
    assert found["iteration"]["ours"]["operations"] == pytest.approx(13 * gflop)
    assert found["iteration"]["theirs"]["operations"] == pytest.approx(16 * gflop)
    assert found["iteration"]["ratio"]["operations"] == pytest.approx(16 / 13)
    assert found["iteration"]["theirs"]["wall"] >= 8 * 0.02
    assert found["update"]["theirs"]["cpu"] < 0.02  # which sleeping does not count for


@pytest.mark.parametrize("discrete", [True, False])
def test_random_rows_are_of_the_team(discrete: bool) -> None:
    spec = EnvSpec(("a", "b"), 5, (4, 4), (3, 3), discrete=discrete)
    window = rows(spec, 6, 7)
    assert window.obs.shape == (6, 7, 2, 4)
    assert window.state.shape == (6, 7, 5)
    assert window.action.shape == (6, 7, 2, 3)
    if discrete:
        assert (window.action.sum(-1) == 1).all()
