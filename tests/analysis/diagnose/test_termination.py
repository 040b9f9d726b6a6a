"""Ends that were foretold, missed and made up."""

from __future__ import annotations

import pytest
import torch

from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.termination import termination
from tests.analysis.diagnose.worlds import Case


@pytest.fixture(scope="module")
def switches() -> Case:
    return Case("toy/switches", episodes=20, count=200, horizon=4)


def told_as(case: Case, probability: torch.Tensor) -> Foretold:
    segments = case.segments
    return Foretold(segments.state, segments.obs, segments.reward, 1 - probability)


def test_who_knows_every_end_is_always_right(switches: Case) -> None:
    ended = switches.segments.terminated.float()
    found = termination(told_as(switches, ended), switches.segments)
    assert found.ends == found.foretold == found.both == int(ended.sum()) > 20
    assert found.steps == int(switches.segments.alive.sum()) < ended.numel()
    assert (found.precision, found.recall, found.brier) == (1, 1, 0)
    assert [(part.told, part.real) for part in found.reliability] == [(0, 0), (1, 1)]


def test_missed_and_made_up_ends_are_counted(switches: Case) -> None:
    alive, ended = switches.segments.alive, switches.segments.terminated
    told = ended.float()
    hits, quiet = ended.nonzero(), (alive & ~ended).nonzero()
    told[tuple(hits[:5].T)] = 0.1  # missed
    told[tuple(quiet[:3].T)] = 0.7  # made up
    told[~alive] = 0.9  # what nobody looks at
    found = termination(told_as(switches, told), switches.segments)
    ends = int(ended.sum())
    assert found.recall == pytest.approx((ends - 5) / ends)
    assert found.precision == pytest.approx((ends - 5) / (ends - 2))
    assert {(round(part.told, 3), part.real, part.steps) for part in found.reliability} == {
        (0, 0, found.steps - ends - 3),
        (0.1, 1, 5),
        (0.7, 0, 3),
        (1, 1, ends - 5),
    }


def test_honest_doubt_is_reliable(switches: Case) -> None:
    alive, ended = switches.segments.alive, switches.segments.terminated
    rate = float(ended[alive].float().mean())
    found = termination(told_as(switches, torch.full(alive.shape, rate)), switches.segments)
    assert len(found.reliability) == 1
    assert found.reliability[0].told == pytest.approx(found.reliability[0].real, rel=1e-4)
    assert found.precision is None and found.recall == 0
    assert found.brier == pytest.approx(rate * (1 - rate), rel=1e-4)


def test_without_ends_there_is_nothing_to_recall(walk: Case) -> None:
    found = termination(told_as(walk, torch.full(walk.segments.alive.shape, 0.8)), walk.segments)
    assert found.ends == 0 and found.recall is None
    assert found.precision == 0 and found.foretold == found.steps
