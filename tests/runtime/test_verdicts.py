"""Verdicts: marked, ranked, and for how long a forecast follows reality."""

from __future__ import annotations

import pytest

from dima.runtime.verdicts import NEAR, Verdict, following, graded, ranked


def test_the_gravest_come_first_and_others_keep_their_order() -> None:
    names = ["good", "warning", "grave", "good", "warning"]
    found = ranked(Verdict(name, str(place)) for place, name in enumerate(names))
    assert [one.sentence for one in found] == ["2", "1", "4", "0", "3"]
    assert [str(one) for one in found] == ["⚠ 2", "⚠ 1", "⚠ 4", "✓ 0", "✓ 3"]
    assert found[0].to_dict() == {"severity": "grave", "sentence": "2"}


@pytest.mark.parametrize(
    ("value", "severity"), [(0.29, "grave"), (0.3, "warning"), (0.69, "warning"), (0.7, "good"), (1.0, "good")]
)
def test_grades(value: float, severity: str) -> None:
    assert graded(value, 0.3, 0.7) == severity


@pytest.mark.parametrize(
    ("close", "severity", "words"),
    [
        ([True] * 100, "good", "for all 100 steps"),
        ([True] * NEAR + [False] * 5, "good", f"for {NEAR} of {NEAR + 5} steps"),
        ([True] * 3, "good", "for all 3 steps"),  # no more were asked for
        ([True, False] + [True] * 30, "warning", "for 1 of 32 steps"),
        ([False] + [True] * 30, "grave", "does not follow reality for a step"),
    ],
)
def test_a_forecast_is_followed_until_it_strays(close: list[bool], severity: str, words: str) -> None:
    found = following("State", close)
    assert found.severity == severity and words in found.sentence
