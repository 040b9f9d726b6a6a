"""The statistics: hand-worked cases, and the numbers rliable gives for the same scores."""

import json
from pathlib import Path

import numpy as np
import pytest

from dima.analysis.report.statistics import (
    Interval,
    at_steps,
    bootstrap_interval,
    difference_interval,
    improvement_interval,
    interquartile_mean,
    mean,
    mean_interval,
    performance_profile,
    probability_of_improvement,
    resampled_interval,
    score_at,
    steps_to_reach,
)

REFERENCE = json.loads((Path(__file__).parents[2] / "parity" / "data" / "rliable.json").read_text())
SCORES = {name: [np.array(task) for task in tasks] for name, tasks in REFERENCE["scores"].items()}
THRESHOLDS = np.array(REFERENCE["thresholds"])


class TestAgreesWithRliable:
    def test_the_reference_says_where_it_is_from(self):
        origin = REFERENCE["origin"]
        assert origin["versions"]["rliable"] == "1.2.0"
        assert {"seed", "command", "resamples"} <= origin.keys()

    @pytest.mark.parametrize("name", SCORES)
    def test_aggregates(self, name):
        assert mean(SCORES[name]) == pytest.approx(REFERENCE["mean"][name], abs=1e-12)
        assert interquartile_mean(SCORES[name]) == pytest.approx(REFERENCE["iqm"][name], abs=1e-12)

    @pytest.mark.parametrize("name", SCORES)
    def test_interval_of_the_interquartile_mean(self, name):
        interval = bootstrap_interval(interquartile_mean, SCORES[name], resamples=20_000)
        assert interval == pytest.approx(REFERENCE["iqm_interval"][name], abs=0.004)

    def test_probability_of_improvement(self):
        found = probability_of_improvement(SCORES["first"], SCORES["second"])
        assert found == pytest.approx(REFERENCE["improvement"], abs=1e-12)
        interval = bootstrap_interval(probability_of_improvement, SCORES["first"], SCORES["second"], resamples=20_000)
        assert interval == pytest.approx(REFERENCE["improvement_interval"], abs=0.006)

    @pytest.mark.parametrize("name", SCORES)
    def test_performance_profile(self, name):
        found = performance_profile(SCORES[name], THRESHOLDS)
        assert found == pytest.approx(np.array(REFERENCE["profile"][name]), abs=1e-12)
        interval = bootstrap_interval(
            lambda tasks: performance_profile(tasks, THRESHOLDS), SCORES[name], resamples=20_000
        )
        one_run = 1.02 / 45
        assert np.stack(interval) == pytest.approx(np.array(REFERENCE["profile_interval"][name]), abs=one_run)


class TestByHand:
    @pytest.mark.parametrize(
        ("scores", "expected"), [([5.0], 5), ([1, 2, 9.0], 4), ([0, 1, 3, 90.0], 2), ([9, 0, 1, 3, 90.0], 13 / 3)]
    )
    def test_a_quarter_rounded_down_is_cut_at_each_end(self, scores, expected):
        assert interquartile_mean([np.array(scores)]) == pytest.approx(expected)

    def test_tasks_may_have_different_numbers_of_runs(self):
        tasks = [np.array([0.0, 2]), np.array([4.0, 6, 8])]
        assert mean(tasks) == pytest.approx(4)
        assert interquartile_mean(tasks) == pytest.approx(4)
        assert performance_profile(tasks, np.array([2.0, 7])) == pytest.approx([0.6, 0.2])

    def test_a_tie_is_half_a_win(self):
        tie = [np.array([1.0, 1.0])]
        assert probability_of_improvement(tie, tie) == 0.5
        assert probability_of_improvement([np.array([2.0])], [np.array([1.0, 2.0])]) == 0.75

    def test_improvement_is_averaged_over_tasks_not_pairs(self):
        first = [np.array([1.0]), np.array([0.0] * 3)]
        second = [np.array([0.0]), np.array([1.0] * 3)]
        assert probability_of_improvement(first, second) == 0.5

    def test_improvements_of_a_pair_add_to_one(self):
        there = probability_of_improvement(SCORES["first"], SCORES["second"])
        back = probability_of_improvement(SCORES["second"], SCORES["first"])
        assert there + back == pytest.approx(1)


class TestBootstrap:
    def test_is_stratified(self):
        """Between tasks nothing is drawn: their means, however far apart, do not widen the interval."""
        low, high = bootstrap_interval(mean, [np.full(3, 0.0), np.full(3, 100.0)])
        assert low == high == 50

    def test_is_the_same_every_time(self):
        assert bootstrap_interval(mean, SCORES["first"]) == bootstrap_interval(mean, SCORES["first"])

    def test_narrows_with_the_level(self):
        wide, narrow = (bootstrap_interval(mean, SCORES["first"], level=level) for level in (0.95, 0.5))
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


class TestHonestIntervals:
    def test_of_a_mean_is_students_t(self):
        found = mean_interval([np.array([3957.1, 4722.0, 4726.1])])
        assert (found.low, found.high, found.kind) == (pytest.approx(3368.0, abs=1), pytest.approx(5568.8, abs=1), "t")

    def test_of_a_difference_is_welchs(self):
        """The example of scipy.stats.ttest_ind(equal_var=False)."""
        x, y = np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 60])
        found = difference_interval(x, y)
        assert (found.low, found.high) == (pytest.approx(-93.06, abs=0.01), pytest.approx(38.06, abs=0.01))

    def test_a_few_runs_have_none(self):
        two, nine = np.arange(2.0), np.arange(9.0)
        assert mean_interval([nine, two]) is None
        assert difference_interval(nine, two) is None
        assert resampled_interval(interquartile_mean, [nine]) is None
        assert improvement_interval([nine], [nine + 0.5]) is None

    def test_runs_that_do_not_vary_have_none(self):
        """They say nothing about how much others would."""
        assert mean_interval([np.full(5, 3.0)]) is None

    def test_of_a_certain_improvement_is_exact(self):
        """All m pairs win with a probability of p^m: at the lower end of 95 % that is 2.5 %."""
        three, five = np.arange(3.0) + 100, np.arange(5.0)
        assert improvement_interval([three], [five]) == Interval(pytest.approx(0.025 ** (1 / 3)), 1.0, "exact")
        assert improvement_interval([three, three], [five, five]).low == pytest.approx(0.025 ** (1 / 6))

    @pytest.mark.parametrize("runs", [3, 5, 8])
    def test_students_t_covers_what_it_claims(self, runs):
        scores = np.random.default_rng(0).normal(size=(3000, runs))
        assert covered(map(mean_interval, scores[:, None])) == pytest.approx(0.95, abs=0.012)

    def test_over_tasks_it_covers_at_least_that(self):
        scores = np.random.default_rng(0).normal(size=(1500, 4, 3)) * [[1.0], [1.0], [1.0], [5.0]]
        assert 0.93 <= covered(map(mean_interval, map(list, scores))) <= 0.99

    def test_welchs_covers_what_it_claims(self):
        scores = np.random.default_rng(0).normal(size=(2000, 2, 3)) * [[1.0], [4.0]]
        assert covered(difference_interval(*pair) for pair in scores) == pytest.approx(0.95, abs=0.02)

    def test_a_plain_bootstrap_of_three_runs_does_not(self):
        scores = np.random.default_rng(0).normal(size=(300, 3))
        ends = [bootstrap_interval(mean, [row], resamples=400) for row in scores]
        assert np.mean([low <= 0 <= high for low, high in ends]) < 0.85

    @pytest.mark.parametrize("statistic", [mean, interquartile_mean])
    def test_the_bootstrap_of_ten_runs_covers_what_it_claims(self, statistic):
        scores = np.random.default_rng(1).normal(size=(300, 10))
        ends = [resampled_interval(statistic, [row]) for row in scores]
        assert 0.93 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.99

    def test_the_interval_of_an_improvement_covers_it(self):
        x, y = np.random.default_rng(2).normal(size=(2, 200, 10))
        found = [improvement_interval([a], [b]) for a, b in zip(x, y, strict=True)]
        assert 0.93 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 1


def covered(intervals) -> float:
    """Share of intervals around 0."""
    return float(np.mean([one.low <= 0 <= one.high for one in intervals]))


class TestCurves:
    STEPS, RETURNS = np.array([100.0, 190, 200]), np.array([0.0, 90, 100])

    def test_between_evaluations_a_curve_is_linear_and_outside_undefined(self):
        found = at_steps(self.STEPS, self.RETURNS, np.array([50.0, 145, 200, 201]))
        assert found == pytest.approx([np.nan, 45, 100, np.nan], nan_ok=True)

    def test_score_is_the_mean_of_the_last_tenth(self):
        assert score_at(self.STEPS, self.RETURNS, 200) == 95
        assert score_at(self.STEPS, self.RETURNS, 195) == 90

    def test_score_where_no_evaluation_is_near_is_the_curve_itself(self):
        assert score_at(self.STEPS, self.RETURNS, 145) == 45

    def test_steps_to_reach_is_the_first_evaluation_there(self):
        assert steps_to_reach(self.STEPS, self.RETURNS, 90) == 190
        assert steps_to_reach(self.STEPS, self.RETURNS, 91) == 200
        assert steps_to_reach(self.STEPS, self.RETURNS, 101) == float("inf")
        assert steps_to_reach(np.array([]), np.array([]), 0) == float("inf")
