"""The pace of a run: which iterations count, and when it can be projected."""

import pytest

from dima.runtime.pace import Pace


def paced(*iterations):
    pace = Pace()
    for iteration in iterations:
        pace.add(*iteration)
    return pace


def test_an_iteration_that_only_collects_does_not_count():
    assert paced((1.0, 5_000, "none")).seconds_per_step is None
    assert paced((1.0, 5_000, "none"), (10.0, 100, "whole")).seconds_per_step == 0.1


def test_a_part_of_learning_is_a_lower_bound_until_all_of_it_took_place():
    parts = ((1.0, 5_000, "none"), (10.0, 100, "part"), (10.0, 100, "part"))
    assert (paced(*parts).seconds_per_step, paced(*parts).share) == (0.1, "part")
    whole = paced(*parts, (30.0, 100, "whole"), (1.0, 100, "part"))
    assert (whole.seconds_per_step, whole.share) == (0.3, "whole")


@pytest.mark.parametrize(("seconds", "times", "reliable"), [(1.0, 1, False), (1.0, 2, True), (60.0, 1, True)])
def test_one_short_iteration_is_not_projected(seconds, times, reliable):
    assert paced(*[(seconds, 10, "whole")] * times).reliable == reliable


def test_no_iteration_is_not_projected():
    assert not paced().reliable
    assert not paced((100.0, 10, "none")).reliable
