"""Grouping of runs, steps to compare at, normalisation, and warnings."""

import numpy as np
import pytest

from dima.analysis.report.compare import compare
from dima.analysis.report.protocols import heading, notices, protocol_line
from dima.analysis.report.results import summarise
from dima.analysis.report.runs import read_runs
from dima.errors import ConfigError


@pytest.fixture
def arranged(tmp_path):
    """The comparison of every run made so far."""

    def arrange(**options):
        return compare(read_runs([tmp_path / "runs"])[0], **options)[0]

    return arrange


class TestGroups:
    def test_by_task_algorithm_and_seed(self, make_run, arranged):
        for seed in (2, 0, 1):
            make_run(f"m{seed}", [1.0], seed=seed)
        make_run("d", [1.0], algorithm="dima")
        make_run("l", [1.0], task="toy/linear")
        comparison = arranged()
        assert comparison.tasks == ["toy/linear", "toy/walk"]
        assert comparison.algorithms == ["dima", "mappo"]
        assert [run.seed for run in comparison.group("toy/walk", "mappo")] == [0, 1, 2]
        assert comparison.group("toy/linear", "dima") == ()
        assert comparison.shared("dima", "mappo") == ["toy/walk"]
        assert len(comparison.runs) == 5

    def test_other_environment_settings_are_another_task(self, make_run, arranged):
        make_run("a", [1.0])
        make_run("b", [1.0], env={"episode_limit": 20})
        comparison = arranged()
        assert comparison.tasks == ["toy/walk (episode_limit 20)", "toy/walk (episode_limit 30)"]
        assert any(
            "has 2 settings of its environment" in notice and "episode_limit 20" in notice
            for notice in notices(comparison)
        )

    def test_other_settings_are_another_algorithm(self, make_run, arranged):
        for seed in (0, 1):
            make_run(f"a{seed}", [1.0], seed=seed)
            make_run(f"b{seed}", [1.0], seed=seed, learner={"ppo": {"clip": 0.3}})
        assert arranged().algorithms == ["mappo (clip 0.1)", "mappo (clip 0.3)"]

    def test_fields_of_one_last_name_are_spelt_in_full(self, make_run, arranged):
        make_run("a", [1.0])
        changes = {"actor": {"hidden": [8]}, "critic": {"hidden": [8]}}
        make_run("b", [1.0], learner={"ppo": changes})
        make_run("c", [1.0], seed=1, learner={"ppo": changes})
        assert arranged().algorithms == ["mappo #1", "mappo #2"]  # two long names are too long for a legend

    def test_presets_are_told_apart(self, make_run, arranged):
        make_run("a", [1.0])
        path = make_run("b", [1.0], seed=1)
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("preset: debug", "preset: small"))
        assert arranged().algorithms == ["mappo-debug", "mappo-small"]

    def test_settings_that_differ_between_tasks_only_are_a_presets_business(self, make_run, arranged):
        make_run("a", [1.0])
        make_run("b", [1.0], task="toy/linear", learner={"ppo": {"clip": 0.3}})
        assert arranged().algorithms == ["mappo"]

    def test_a_retired_setting_keeps_nothing_apart_but_is_told(self, make_run, arranged):
        make_run("a", [1.0])
        config = make_run("b", [1.0], seed=1) / "config.yaml"
        config.write_text(config.read_text().replace("learner:\n", "learner:\n  moonlight: true\n"))
        comparison = arranged()
        assert comparison.algorithms == ["mappo"]
        assert any("lack moonlight" in notice for notice in notices(comparison))

    def test_of_runs_with_one_seed_the_longest_is_kept(self, make_run, tmp_path):
        short, long = make_run("a", [1.0, 2.0], steps=400), make_run("b", [1.0, 2.0, 3.0], steps=400)
        comparison, duplicates = compare(read_runs([tmp_path])[0])
        assert [run.path for run in comparison.runs] == [long]
        assert [problem.path for problem in duplicates] == [short]
        assert str(long) in duplicates[0].reason


class TestScores:
    def test_at_the_steps_that_every_algorithm_reached(self, make_run, arranged):
        make_run("m", [float(i) for i in range(1, 11)])
        make_run("d", [10.0] * 5, algorithm="dima", steps=1000)
        comparison = arranged()
        assert comparison.compared_at == {"toy/walk": 500}
        assert comparison.scores("toy/walk", "mappo").tolist() == [5.0]

    def test_one_early_end_is_left_out_and_half_of_the_runs_are_not(self, make_run, arranged):
        for seed, length in enumerate((10, 10, 2)):
            make_run(f"m{seed}", [1.0] * length, seed=seed, steps=1000)
        comparison = arranged()
        assert comparison.compared_at["toy/walk"] == 1000
        assert len(comparison.scored("toy/walk", "mappo")) == 2
        (row,) = summarise(comparison).scores
        assert (row.scored, row.runs, row.interval) == (2, 3, None)

    def test_runs_that_end_a_few_steps_apart_are_all_scored(self, make_run, arranged):
        for seed in range(3):
            make_run(f"m{seed}", [1.0] * 10, seed=seed, first=100 + 7 * seed)
        comparison = arranged()
        assert comparison.compared_at["toy/walk"] == 1000
        assert len(comparison.scores("toy/walk", "mappo")) == 3

    def test_at_asked_steps(self, make_run, arranged):
        make_run("m", [1.0, 2.0, 3.0])
        assert arranged(at=200).scores("toy/walk", "mappo").tolist() == [2.0]
        for wrong in (99, 301):
            with pytest.raises(ConfigError, match=rf"at = {wrong} does not fit: .* between 100 and 300 environment"):
                arranged(at=wrong)

    def test_at_steps_when_nothing_was_evaluated(self, make_run, arranged):
        make_run("m", [None])
        with pytest.raises(ConfigError, match="at = 1 does not fit: there is no evaluation"):
            arranged(at=1)

    def test_a_run_that_was_first_evaluated_later_is_left_out(self, make_run, arranged):
        make_run("m", [1.0, 2.0])
        make_run("d", [1.0], first=700, algorithm="dima")
        comparison = arranged()
        assert comparison.compared_at["toy/walk"] == 200
        assert comparison.scored("toy/walk", "dima") == []

    def test_the_scale_is_what_was_seen_or_what_was_given(self, make_run, arranged):
        make_run("m", [-2.0, 2.0, 1.0])
        scale = arranged().scales["toy/walk"]
        assert (scale.low, scale.high) == (-2, 2)
        assert "this report" in scale.origin
        given = arranged(reference={"toy/walk": (0, 10)})
        assert given.normalised("mappo", ["toy/walk"])[0] == pytest.approx([0.1])
        assert given.scales["toy/walk"].origin == "given"
        assert given.scales["toy/walk"].to_return(0.5) == 5

    def test_a_flat_curve_has_a_scale_too(self, make_run, arranged):
        make_run("m", [3.0, 3.0])
        assert np.isfinite(arranged().normalised("mappo", ["toy/walk"])[0]).all()

    def test_a_task_without_evaluations_is_compared_nowhere(self, make_run, arranged):
        make_run("m", [None, None])
        comparison = arranged()
        assert comparison.compared_at == {}
        assert comparison.tasks == ["toy/walk"]


class TestResults:
    def test_of_two_algorithms_on_two_tasks(self, make_run, arranged):
        for task, top in (("toy/walk", 1.0), ("toy/linear", 100.0)):
            for seed in range(3):
                make_run(f"{task}/m{seed}", [0.0, 0.4 * top], task=task, seed=seed)
                make_run(f"{task}/d{seed}", [0.0, (0.8 + 0.1 * seed) * top], task=task, seed=seed, algorithm="dima")
        results = summarise(arranged())
        dima, mappo = results.aggregates
        assert (dima.algorithm, dima.scored) == ("dima", 6)
        assert dima.iqm == pytest.approx(0.9)
        assert dima.iqm_interval is None  # a bootstrap of three seeds would be their range
        assert (dima.mean_interval.low + dima.mean_interval.high) / 2 == pytest.approx(dima.mean) == pytest.approx(0.9)
        assert mappo.mean_interval is None  # its seeds do not vary
        assert mappo.iqm == pytest.approx(0.4)
        (pair,) = results.improvements
        assert (pair.first, pair.second, pair.tasks, pair.runs, pair.probability) == ("dima", "mappo", 2, (6, 6), 1.0)
        assert (pair.interval.low, pair.interval.kind) == (pytest.approx(0.025 ** (1 / 6)), "exact")
        reached = {(e.task, e.algorithm, e.share): (e.reached, e.fastest, e.median) for e in results.efficiencies}
        assert reached["toy/walk", "dima", 0.9] == (2, 200, 200)
        assert reached["toy/walk", "mappo", 0.5] == (0, None, None)
        speed = results.speeds[0]
        assert (speed.runs, speed.seconds, speed.steps, speed.steps_per_second) == (3, 12, 600, 50)
        assert speed.phases["update"].updates == 24

    def test_the_likelier_one_of_a_pair_comes_first(self, make_run, arranged):
        for seed in range(2):
            make_run(f"m{seed}", [9.0], seed=seed)
            make_run(f"d{seed}", [1.0], seed=seed, algorithm="dima")
        (pair,) = summarise(arranged()).improvements
        assert (pair.first, pair.second, pair.probability) == ("mappo", "dima", 1.0)

    def test_asked_scores_are_team_returns(self, make_run, arranged):
        make_run("m", [0.0, 5.0, 10.0])
        (row,) = summarise(arranged(), [4]).efficiencies
        assert (row.score, row.share, row.fastest) == (4, 0.4, 200)

    def test_the_median_needs_more_than_half_of_the_runs(self, make_run, arranged):
        make_run("a", [0.0, 10.0], seed=0)
        make_run("b", [0.0, 1.0], seed=1)
        (row,) = summarise(arranged(), [5]).efficiencies
        assert (row.reached, row.runs, row.fastest, row.median) == (1, 2, 200, None)

    def test_single_runs_have_no_interval_and_no_improvement(self, make_run, arranged):
        make_run("m", [0.0, 1.0])
        make_run("d", [0.0, 2.0], algorithm="dima")
        results = summarise(arranged())
        assert all(row.interval is None for row in results.scores)
        assert all(row.iqm_interval is row.mean_interval is None for row in results.aggregates)
        assert results.improvements == []

    def test_without_a_common_task_there_is_no_aggregate(self, make_run, arranged):
        make_run("m", [1.0])
        make_run("d", [1.0], algorithm="dima", task="toy/linear")
        comparison = arranged()
        assert summarise(comparison).aggregates == []
        assert "dima has no run on toy/walk; mappo has no run on toy/linear." in notices(comparison)


class TestProtocol:
    def test_is_one_sentence_with_everything(self, make_run, arranged):
        for seed in (0, 1, 2, 5):
            make_run(f"m{seed}", [1.0], seed=seed)
        make_run("d", [1.0], algorithm="dima")
        line = protocol_line(arranged(), ["toy/walk"])
        for part in ("episode_limit = 30", "0–2, 5 of mappo", "0 of dima", "evaluated on", "torch ", "commit 0123456"):
            assert part in line, part

    def test_names_the_tasks_where_their_settings_differ(self, make_run, arranged):
        make_run("a", [1.0])
        make_run("b", [1.0], task="toy/linear", env={"episode_limit": 7})
        line = protocol_line(arranged(), ["toy/linear", "toy/walk"])
        assert "episode_limit = 7 (toy/linear)" in line
        assert "seeds 0;" in line

    def test_names_the_mujoco_versions_that_are_mixed(self, make_run, arranged):
        ant = {"task": "mamujoco/ant-4x2"}
        make_run("a", [1.0], protocol={"packages": {"mujoco": "4.0.0"}}, **ant)
        make_run("b", [1.0], algorithm="dima", protocol={"packages": {"mujoco": "3.17.0"}}, **ant)
        comparison = arranged()
        assert heading(comparison, "mamujoco/ant-4x2").endswith("steps, MuJoCo 3.17.0 and 4.0.0")
        (told,) = [one for one in notices(comparison) if "MuJoCo" in one]
        assert (
            "mix versions of MuJoCo and are not strictly comparable (3.17.0: dima-debug; 4.0.0: mappo-debug)." in told
        )

    def test_names_the_mujoco_versions_of_a_resumed_run(self, make_run, arranged):
        stretches = {"packages": {"mujoco": "4.0.0"}, "resumed": [{"step": 50, "packages": {"mujoco": "3.17.0"}}]}
        make_run("a", [1.0], task="mamujoco/ant-4x2", protocol=stretches)
        comparison = arranged()
        assert any("(4.0.0 and 3.17.0: mappo-debug)" in one for one in notices(comparison))
        assert "mujoco 3.17.0 or 4.0.0" in protocol_line(comparison, comparison.tasks)

    def test_of_other_tasks_says_nothing_of_mujoco(self, make_run, arranged):
        make_run("a", [1.0], protocol={"packages": {"mujoco": "4.0.0"}})
        assert "MuJoCo" not in heading(arranged(), "toy/walk")

    def test_of_nothing_is_nothing(self, make_run, arranged):
        make_run("a", [1.0])
        assert protocol_line(arranged(), []) == ""

    @pytest.mark.parametrize(
        ("changes", "notice"),
        [
            ({"protocol": {"packages": {"torch": "9.9"}}}, "different versions of torch"),
            ({"protocol": {"commit": {"id": "f" * 40, "dirty": False}}}, "different commits (0123456, fffffff)"),
            ({"protocol": {"commit": {"id": "f" * 40, "dirty": True}}}, "uncommitted changes"),
            ({"protocol": {"commit": None}}, "(0123456, unknown)"),
            ({"steps": 900}, "different numbers of steps (100, 900)"),
            ({"evaluation_episodes": 7}, "7 episodes"),
        ],
    )
    def test_runs_of_one_name_under_different_conditions_are_told(self, make_run, arranged, changes, notice):
        make_run("a", [1.0], seed=0)
        assert notices(arranged()) == []
        make_run("b", [1.0], seed=1, **changes)
        found = notices(arranged())
        assert any(notice in sentence for sentence in found), found
        assert all(sentence.startswith(("toy/walk: ", "mappo on toy/walk: ")) for sentence in found)

    def test_unequal_numbers_of_seeds_are_told(self, make_run, arranged):
        make_run("a", [1.0])
        make_run("b", [1.0], task="toy/linear")
        assert notices(arranged()) == []
        make_run("c", [1.0], task="toy/linear", seed=1)
        assert any("weighs more" in notice for notice in notices(arranged()))
