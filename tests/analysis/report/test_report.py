"""``dima report``: every plot, table, row and failure is in what it writes, and bad input is one clear line."""

import csv
import json
import re
import shutil
import warnings
from functools import partial
from html import unescape

import numpy as np
import pytest

import dima
from dima.analysis.report.plots import _style, learning_curves
from dima.cli import main
from dima.errors import ConfigError, RunFolderError

TASKS = {"toy/walk": 30.0, "toy/linear": 100.0}
SEEDS = range(3)


@pytest.fixture(autouse=True)
def no_warnings():
    """A plot that does not fit, or an average of nothing, would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def many(write_run, tmp_path_factory):
    """Two tasks, two algorithms, three seeds; one more crashed, one never began, one is damaged. The folder."""
    root, draws = tmp_path_factory.mktemp("many") / "runs", np.random.default_rng(0)
    make_run = partial(write_run, root)
    for task, top in TASKS.items():
        for algorithm, rate in (("dima", 4.0), ("mappo", 1.5)):
            for seed in SEEDS:
                share = 1 - np.exp(-rate * np.arange(1, 9) / 8) + draws.normal(0, 0.02, 8)
                make_run(f"{task}/{algorithm}{seed}", (top * share).tolist(), task=task, algorithm=algorithm, seed=seed)
    event = {"event": "failed", "error": "DivergenceError: learning diverged <here>"}
    make_run("toy/walk/crashed", [1.0, 2.0], algorithm="dima", seed=3, steps=800, event=event)
    make_run("toy/walk/begun", [], algorithm="mappo", seed=3, steps=800)
    (make_run("toy/walk/broken", [1.0], seed=4) / "protocol.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def done(many):
    """The report on them and on a folder that is not there."""
    return dima.report([many, many.parent / "nowhere"], many.parent / "out")


def read(page):
    """A page's ids and its text without tags."""
    html = page.read_text()
    body = html[html.index("<body>") :]
    return set(re.findall(r' id="([^"]+)"', body)), " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


class TestManyRuns:
    def test_the_page_has_every_plot_table_and_failure(self, done):
        ids, text = read(done.page)
        assert {
            "curve-0-toy-linear",
            "curve-1-toy-walk",
            "interquartile-mean",
            "interquartile-mean-over-steps",
            "performance-profile",
            "probability-of-improvement",
        } <= ids
        for heading in (
            "Learning curves", "Scores", "Over tasks", "Probability of improvement", "Sample efficiency", "Time",
            "Runs", "Protocol and method",
        ):  # fmt: skip
            assert heading in text
        for part in (
            "toy/walk after 800 environment steps",
            "toy/linear: environment steps to a score",
            "Normalised return over tasks",
            "dima over mappo",
            "steps per second",
            "Time by phase",
            "Every run in this report",
            "Not scored, because they were not evaluated up to these steps",
            "failed: DivergenceError: learning diverged <here>",
            "no iteration finished",
            "broken is not a dima run folder",
            "nowhere does not exist",
        ):
            assert part in text, part
        assert "/tmp/" not in text and str(done.page.parent.parent) not in text  # nobody's folders
        assert text.count("Protocol: ") == text.count("commit 0123456") == 1

    def test_every_run_is_in_the_table_of_runs_and_every_evaluation_in_the_csv(self, done):
        _, text = read(done.page)
        rows = list(csv.DictReader(done.table.read_text().splitlines()))
        assert len(rows) == 2 * 2 * 3 * 8 + 2 + 1  # the crashed one was evaluated twice, the one that began never
        assert {row["folder"] for row in rows} == {str(run.path) for run in done.comparison.runs}
        for run in done.comparison.runs:
            assert f"{run.path.parent.name}/{run.path.name}" in text
            mine = [row for row in rows if row["folder"] == str(run.path)]
            assert [row["team_return"] for row in mine] == ([str(v) for v in run.returns] or [""])
            assert [row["environment_steps"] for row in mine] == ([str(int(v)) for v in run.evaluated] or [""])
            assert {row["seed"] for row in mine} == {str(run.seed)}
            assert {row["variant"] for row in mine} == {run.algorithm}

    def test_is_the_same_whenever_it_is_made(self, done, many, tmp_path):
        again = dima.report([many, many.parent / "nowhere"], tmp_path)
        assert again.page.read_text() == done.page.read_text()
        assert again.table.read_text() == done.table.read_text()

    def test_plots_as_files_when_asked(self, make_run, tmp_path):
        dima.report(make_run("a", [1.0, 2.0]), tmp_path / "out", plots=True)
        names = {path.name for path in (tmp_path / "out" / "plots").iterdir()}
        assert names == {"curve-0-toy-walk.svg", "curve-0-toy-walk.png"}

    def test_curves_of_several_tasks_are_side_by_side_in_a_file_of_their_own(self, done):
        figure = learning_curves(done.comparison)
        assert [axes.get_title(loc="left") for axes in figure.axes] == list(done.comparison.compared_at)
        assert [text.get_text() for text in figure.legends[0].texts] == list(done.comparison.algorithms)

    def test_variants_are_explained(self, make_run, tmp_path):
        for seed in range(2):
            make_run(f"a{seed}", [1.0, 2.0], seed=seed)
            make_run(f"b{seed}", [1.0, 3.0], seed=seed, learner={"ppo": {"clip": 0.3, "epochs": 7, "entropy": 0.5}})
        _, text = read(dima.report(tmp_path / "runs", tmp_path / "out").page)
        assert "Variants of mappo-debug" in text
        assert "mappo #2 over" in text or "mappo #1 over mappo #2" in text
        assert re.search(r"ppo\.clip 0\.1 0\.3", text)
        assert re.search(r"ppo\.epochs \d+ 7", text)

    def test_a_setting_of_an_older_version_is_explained_too(self, make_run, tmp_path):
        for seed, value in enumerate((1, 2)):
            config = make_run(f"a{seed}", [1.0], seed=seed) / "config.yaml"
            config.write_text(config.read_text().replace("learner:\n", f"learner:\n  moonlight: {value}\n"))
        make_run("new", [1.0], seed=2)
        done = dima.report(tmp_path / "runs", tmp_path / "out")
        assert list(done.comparison.algorithms) == ["mappo (moonlight 1)", "mappo (moonlight 2)", "mappo (without)"]
        assert "moonlight 1 2 missing" in read(done.page)[1]

    def test_many_algorithms_keep_their_legends(self, make_run, tmp_path):
        for clip in np.linspace(0.1, 0.9, 9).round(2).tolist():
            make_run(f"c{clip}", [1.0, clip], learner={"ppo": {"clip": clip}})
            make_run(f"again{clip}", [1.0, clip], seed=1, learner={"ppo": {"clip": clip}})
        ids, text = read(dima.report(tmp_path / "runs", tmp_path / "out").page)
        assert "curve-0-toy-walk" in ids
        assert text.startswith("9 algorithms on toy/walk mappo (clip 0.9) returns 0.9 (mean of 2 seeds) on toy/walk")
        assert "probability-of-improvement" not in ids  # 36 pairs: the table holds them
        assert text.count(" over mappo (clip") == 36


class TestFewRuns:
    def test_one_run(self, make_run, tmp_path):
        ids, text = read(dima.report(make_run("a", [1.0, 2.0]), tmp_path / "out").page)
        assert "curve-0-toy-walk" in ids
        assert not {"interquartile-mean", "performance-profile", "probability-of-improvement"} & ids
        assert "1 of 1" in text

    def test_one_run_of_one_evaluation(self, make_run, tmp_path):
        ids, _ = read(dima.report(make_run("a", [1.0]), tmp_path / "out").page)
        assert "curve-0-toy-walk" in ids

    def test_one_task_with_seeds(self, make_run, tmp_path):
        for seed in SEEDS:
            make_run(f"m{seed}", [1.0, 2.0 + seed], seed=seed)
            make_run(f"d{seed}", [1.0, 3.0 + seed], seed=seed, algorithm="dima")
        ids, _ = read(dima.report(tmp_path / "runs", tmp_path / "out").page)
        assert {"performance-profile", "probability-of-improvement"} <= ids
        assert "interquartile-mean" not in ids  # over tasks, of which there is one

    def test_seeds_evaluated_at_steps_of_their_own(self, make_run, tmp_path):
        for seed in SEEDS:
            make_run(f"m{seed}", np.linspace(0, 1, 30).tolist(), seed=seed, first=100 + seed)
        done = dima.report(tmp_path / "runs", tmp_path / "out")
        assert done.results.scores[0].scored == 3

    def test_seeds_with_a_gap_between_them(self, make_run, tmp_path):
        make_run("a", [1.0, 2.0], steps=900)
        make_run("b", [1.0, 2.0], seed=1, first=700)
        assert "curve-0-toy-walk" in read(dima.report(tmp_path / "runs", tmp_path / "out").page)[0]

    def test_two_tasks_evaluated_once(self, make_run, tmp_path):
        for task in TASKS:
            for seed in range(2):
                make_run(f"{task}{seed}", [1.0 + seed], task=task, seed=seed)
        assert "interquartile-mean-over-steps" in read(dima.report(tmp_path / "runs", tmp_path / "out").page)[0]

    def test_no_algorithm_on_the_same_task(self, make_run, tmp_path):
        make_run("a", [1.0, 2.0])
        make_run("b", [1.0, 2.0], algorithm="dima", task="toy/linear")
        _, text = read(dima.report(tmp_path / "runs", tmp_path / "out").page)
        assert "There is no task on which every algorithm was scored" in text

    def test_a_task_without_the_other_algorithm_is_left_out_of_the_aggregate(self, make_run, tmp_path):
        for seed in range(2):
            make_run(f"a{seed}", [1.0, 2.0], seed=seed)
            make_run(f"b{seed}", [1.0, 2.0], seed=seed, algorithm="dima")
        make_run("c", [1.0, 2.0], task="toy/linear")
        _, text = read(dima.report(tmp_path / "runs", tmp_path / "out").page)
        assert "so without toy/linear." in text

    def test_nothing_evaluated_yet(self, make_run, tmp_path):
        make_run("a", [None, None], steps=900)
        make_run("b", [], seed=1)
        done = dima.report(tmp_path / "runs", tmp_path / "out")
        _, text = read(done.page)
        assert "No run has been evaluated yet" in text
        assert "0 of 2 runs finished" in text or "1 of 2 runs finished" in text

    def test_nothing_begun_yet(self, make_run, tmp_path):
        _, text = read(dima.report(make_run("a", []), tmp_path / "out").page)
        assert "no iteration finished" in text
        assert "Wall-clock" not in text

    def test_runs_without_phases_or_clock(self, make_run, tmp_path):
        path = make_run("a", [1.0])
        (path / "metrics.jsonl").write_text('{"step": 100, "evaluate/return": 1.0}\n')
        done = dima.report(path, tmp_path / "out")
        assert "did not log them" in read(done.page)[1]
        assert done.results.speeds[0].steps_per_second is None

    def test_reference_returns_are_drawn_and_listed(self, make_run, tmp_path):
        for seed in range(2):
            make_run(f"m{seed}", [1.0, 2.0], seed=seed)
        _, text = read(dima.report(tmp_path / "runs", tmp_path / "out", reference={"toy/walk": (-5, 40)}).page)
        assert "toy/walk -5 40 given" in text


class TestVerdicts:
    def test_a_page_begins_with_the_result_and_the_gravest_verdict(self, done):
        _, text = read(done.page)
        assert text.startswith(
            "dima and mappo on 2 tasks Of 2 tasks the highest mean return has dima on 2 (toy/linear, toy/walk). "
            "⚠ 1 of 4 runs of dima on toy/walk have no score (failed): the mean is that of the others. "
        )
        severities = [verdict.severity for verdict in done.verdicts]
        assert severities == ["grave", *["warning"] * severities.count("warning"), "good", "good"]
        assert str(done.verdicts[-1]).startswith("✓ dima returns more than mappo on toy/walk: the difference of ")
        assert any("2 folders could not be included" in str(verdict) for verdict in done.verdicts)

    @pytest.mark.parametrize(
        ("returns", "reference", "lead"),
        [
            ([[470.0], [100.0]], None, "4.7 times mappo (100)"),
            ([[2000.0], [110.0]], None, "18 times mappo (110)"),
            ([[105.0], [100.0]], None, "5 more than mappo (100)"),  # as good as once
            ([[100.0], [1.0]], None, "99 more than mappo (1)"),  # nearly zero makes no ratio
            ([[100.0], [-20.0]], None, "120 more than mappo (-20)"),
            ([[-10.0], [-20.0]], None, "10 more than mappo (-20)"),
            ([[-10.0], [-20.0]], (-30, 0), "2.0 times mappo (-20), counted from -30"),
        ],
    )
    def test_a_ratio_is_given_where_it_means_something(self, make_run, tmp_path, returns, reference, lead):
        for algorithm, values in zip(("dima", "mappo"), returns, strict=True):
            make_run(algorithm, values, algorithm=algorithm)
        given = {} if reference is None else {"reference": {"toy/walk": reference}}
        _, text = read(dima.report(tmp_path / "runs", tmp_path / "out", **given).page)
        assert f"on toy/walk after 100 environment steps, {lead}." in text

    def test_what_cannot_be_told_apart_is_a_warning(self, make_run, tmp_path):
        for seed, (mine, theirs) in enumerate([(1.0, 2.0), (3.0, 2.5), (8.0, 1.5)]):
            make_run(f"m{seed}", [theirs], seed=seed)
            make_run(f"d{seed}", [mine], seed=seed, algorithm="dima")
        found = [str(verdict) for verdict in dima.report(tmp_path / "runs", tmp_path / "out").verdicts]
        assert found == [
            "⚠ dima and mappo cannot be told apart: the difference of 2 has a 95% interval of -6.73 to 10.7"
        ]

    def test_too_few_seeds_are_a_warning(self, make_run, tmp_path):
        make_run("m", [1.0])
        found = [str(verdict) for verdict in dima.report(tmp_path / "runs", tmp_path / "out").verdicts]
        assert found == ["⚠ fewer than 3 seeds say nothing about the variation: mappo on toy/walk"]

    def test_an_algorithm_keeps_its_colour_in_every_report(self, make_run, tmp_path):
        make_run("m", [1.0])
        alone = dima.report(tmp_path / "runs", tmp_path / "alone").comparison
        make_run("d", [1.0], algorithm="dima")
        make_run("e", [1.0], algorithm="ensemble", learner={"horizon": 3})
        make_run("f", [1.0], algorithm="ensemble", learner={"horizon": 4})
        both = dima.report(tmp_path / "runs", tmp_path / "both").comparison
        assert _style(alone, "mappo") == _style(both, "mappo")
        assert len({str(_style(both, name)) for name in both.algorithms}) == 4


class TestCommand:
    def test_prints_scores_failures_and_files(self, many, tmp_path, capsys):
        assert main(["report", str(many), str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Of 2 tasks the highest mean return has dima on 2 (toy/linear, toy/walk).\n⚠ 1 of 4 runs")
        assert "toy/walk after 800 environment steps" in out
        assert re.search(r"dima +\d+\.\d  \(\d+\.\d to \d+\.\d\)  3 of 4 runs", out)
        assert f"not in the report: {tmp_path / 'nowhere'} does not exist" in err
        assert f"page: {tmp_path / 'out' / 'report.html'}" in out

    def test_prints_one_json_object(self, many, tmp_path, capsys):
        args = ["report", str(many), "--out", str(tmp_path / "out"), "--json", "--score", "10", "20", "--at", "400"]
        assert main(args) == 0
        written = json.loads(capsys.readouterr().out)
        assert written["compared_at"] == {"toy/linear": 400, "toy/walk": 400}
        assert {row["score"] for row in written["efficiencies"]} == {10, 20}
        assert written["improvements"][0]["first"] == "dima"
        assert written["scores"][0]["interval"].keys() == {"low", "high", "kind"}
        assert written["result"].startswith("Of 2 tasks")
        assert {verdict["severity"] for verdict in written["verdicts"]} == {"good", "warning", "grave"}
        assert [problem["reason"] for problem in written["problems"]] == [
            "is not a dima run folder: it has no valid protocol.json"
        ]
        assert len(written["runs"]) == 14

    def test_reference_from_a_file(self, make_run, tmp_path, capsys):
        make_run("a", [1.0, 2.0])
        make_run("b", [1.0, 2.0], task="toy/linear")
        (tmp_path / "reference.yaml").write_text("toy/walk: [0, 30]\nother/task: [0, 1]\n")
        args = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--json"]
        assert main([*args, "--reference", str(tmp_path / "reference.yaml")]) == 0
        scales = json.loads(capsys.readouterr().out)["scales"]
        assert scales["toy/walk"] == {"low": 0, "high": 30, "origin": "given"}
        assert scales["toy/linear"]["origin"] != "given"


class TestBadInput:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ([], "no run folder was given: write `dima report RUN...`"),
            (["nowhere"], "nowhere does not exist"),
            (["nowhere", "empty"], "nowhere does not exist; empty contains no run"),
            (["file"], "file is not a folder"),
            (["run", "--reference", "nofile"], "reference = nofile is not a file"),
            (
                ["run", "--reference", "wrong.yaml"],
                "reference of toy/walk = [3, 1] does not fit: expected [lower, higher]",
            ),
            (["run", "--at", "5000"], "at = 5000 does not fit: evaluations lie between 100 and 100"),
            (["run", "--score", "high"], "--score"),
            (["run", "--out", "file"], "cannot write file/report.html"),
            (["run", "--uot", "x"], "there is no option --uot: did you mean --out?"),
        ],
    )
    def test_is_one_clear_line_and_status_2(self, make_run, tmp_path, monkeypatch, capsys, args, message):
        shutil.move(make_run("a", [1.0]), tmp_path / "run")
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        (tmp_path / "wrong.yaml").write_text("toy/walk: [3, 1]")
        monkeypatch.chdir(tmp_path)
        assert main(["report", *args]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err
        assert not (tmp_path / "report").exists()

    def test_from_python(self, make_run, tmp_path):
        with pytest.raises(RunFolderError, match="no run folder was given"):
            dima.report([])
        for pair in ((1,), (2, 1), "ab", (None, 1)):
            with pytest.raises(ConfigError, match=r"reference of toy/walk"):
                dima.report(make_run(str(pair), [1.0]), tmp_path, reference={"toy/walk": pair})


def test_relative_and_absolute_folders_side_by_side(make_run, tmp_path, monkeypatch):
    there, here = make_run("there", [1.0]), make_run("here", [2.0], seed=1)
    monkeypatch.chdir(tmp_path)
    text = read(dima.report([there, here.relative_to(tmp_path)], "out").page)[1]
    assert "runs/there" in text and "runs/here" in text and str(tmp_path) not in text


def test_metrics_of_the_environment_have_columns(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"dima{seed}", [1.0, 2.0, 3.0], algorithm="dima", seed=seed, success=[0.0, 0.25, 0.5 * seed])
        make_run(f"mappo{seed}", [1.0, 2.0, 2.0], seed=seed)
    done = dima.report([tmp_path / "runs"], tmp_path / "out")
    assert [row.metrics for row in done.results.scores] == [{"success": 0.25}, {}]
    _, text = read(done.page)
    assert "lowest highest success" in text
    assert "2 of 2 runs, success 0.25" in done.summary()
    rows = list(csv.DictReader(done.table.read_text().splitlines()))
    assert [row["metrics"] for row in rows if "dima1" in row["folder"]] == ["success 0", "success 0.25", "success 0.5"]
    assert {row["metrics"] for row in rows if "mappo" in row["folder"]} == {""}
