"""Rewards, failures and successes against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dima.envs.dexhands.rewards import bottle_cap, door, pen


def scene(right: float, left: float, points: list[tuple[float, float, float]], palms: tuple[float, float]):
    """Palms, fingertips and points: five tips at equal distances that sum to ``right`` and ``left`` from the targets.

    ``points`` begin with the left hand's target and the right hand's; ``palms`` are distances of right and left.
    """
    left_target, right_target = np.array(points[0]), np.array(points[1])
    up = np.array([0.0, 0.0, 1.0])
    tips = np.stack([np.tile(right_target + up * right / 5, (5, 1)), np.tile(left_target - up * left / 5, (5, 1))])
    return np.stack([right_target + up * palms[0], left_target + up * palms[1]]), tips, np.array(points)


BOTTLE, CAP = (0.0, 0.0, 0.5), (0.0, 0.0, 0.65)


def bottle(right: float = 0.2, left_palm: float = 0.05, lift: float = 0.03, right_palm: float = 0.1):
    return bottle_cap(*scene(right, 0.3, [BOTTLE, CAP, (0.0, 0.0, 0.5 + lift)], (right_palm, left_palm)))


def test_bottle_cap() -> None:
    assert bottle().reward == pytest.approx(2.65)  # 2 - 0.2 - 0.05 + 30 * 0.03
    assert bottle(right=0.31).reward == pytest.approx(1.64)  # too far to be paid for the lift
    assert not bottle(lift=0.0299).succeeded and bottle(lift=0.0301).succeeded
    assert not bottle().failed
    assert bottle(right_palm=0.51).failed and bottle(left_palm=0.21).failed
    fallen = [(0.0, 0.0, 0.3), (0.0, 0.0, 0.5), (0.0, 0.0, 0.3)]
    assert bottle_cap(*scene(0.2, 0.3, fallen, (0.1, 0.05))).failed


def doors(right: float = 0.4, left: float = 0.4, gap: float = 0.6):
    handles = [(0.0, -gap / 2, 0.7), (0.0, gap / 2, 0.7)]  # left, right
    return door(*scene(right, left, handles, (0.1, 0.1)))


def test_doors() -> None:
    assert doors().reward == pytest.approx(2.4)  # 2 - 0.4 - 0.4 + 2 * 0.6
    assert doors(right=0.51).reward == pytest.approx(1.09)
    assert doors().succeeded and not doors(gap=0.49).succeeded
    assert doors(right=1.51).failed and doors(left=1.51).failed and not doors(right=1.49).failed


def pens(right: float = 0.1, left: float = 0.1, length: float = 0.3):
    body, cap = (0.0, -length, 0.6), (0.0, 0.0, 0.6)
    palms, tips, points = scene(right, left, [body, cap], (0.1, 0.1))
    return pen(palms, tips, points[::-1])


def test_pen() -> None:
    assert pens().reward == pytest.approx(0.7 + 2 * math.exp(-1))
    assert pens(right=0.76).reward == pytest.approx(math.exp(-7.6) + math.exp(-1))
    assert pens(length=0.301).succeeded and not pens(length=0.299).succeeded
    assert pens(left=1.51).failed and not pens().failed


@pytest.mark.parametrize("outcome", [bottle_cap, door, pen])
def test_any_leading_axes_and_torch(outcome) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(2, 7, *shape)) * 0.2 for shape in ((2, 3), (2, 5, 3), (3, 3))]
    whole, tensors = outcome(*parts), outcome(*map(torch.from_numpy, parts))
    one = outcome(*(part[1, 3] for part in parts))
    for name in whole._fields:
        assert getattr(whole, name).shape == (2, 7)
        assert getattr(whole, name)[1, 3] == pytest.approx(getattr(one, name))
        np.testing.assert_allclose(getattr(tensors, name).numpy(), getattr(whole, name), rtol=1e-12)
