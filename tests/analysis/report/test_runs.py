"""Run folders read as records, and folders that cannot be read."""

import json
import shutil

import pytest

from dima.analysis.report.runs import Phase, read_run, read_runs
from dima.training.online import train


class TestOneRun:
    def test_holds_what_the_folder_tells(self, make_run):
        run = read_run(make_run("a", [1.0, None, 3.0], seed=4, env={"episode_limit": 20}, learner={"rollout": 7}))
        assert (run.task, run.algorithm, run.preset, run.seed) == ("toy/walk", "mappo", "debug", 4)
        assert (run.steps, run.target) == (300, 300)
        assert run.env["episode_limit"] == 20
        assert run.evaluated.tolist() == [100, 300]
        assert run.returns.tolist() == [1.0, 3.0]
        assert run.settings["rollout"] == 7
        assert "ppo.clip" in run.settings
        assert run.settings["envs"] >= 1
        assert run.seconds == 6
        assert run.phases == {"collect": Phase(1.5, 0), "update": Phase(3.0, 12)}
        assert run.protocol["packages"].keys() >= {"torch", "mujoco"}

    def test_a_copy_of_config_protocol_and_metrics_will_do(self, tiny, tmp_path):
        """And a run that the trainer itself recorded tells its phases."""
        config = tiny(algorithm="mappo", steps=60)
        train(config)
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("config.yaml", "protocol.json", "metrics.jsonl"):
            shutil.copy(config.folder / name, copy)
        run = read_run(copy)
        assert run.status == "finished"
        assert {"collect", "update", "evaluate"} <= run.phases.keys()
        assert run.phases["update"].updates >= 1
        assert len(run.returns) >= 1

    def test_settings_that_change_nothing_learnt_are_left_out(self, make_run):
        path = make_run("dima", [1.0], algorithm="dima", learner={"cuda_graphs": False, "compile": True})
        assert not {"cuda_graphs", "compile"} & set(read_run(path).settings)

    def test_settings_that_came_after_the_run_stand_at_their_defaults(self, make_run):
        path = make_run("old", [1.0], algorithm="dima")
        config = path / "config.yaml"
        kept = [line for line in config.read_text().splitlines() if "episode_steps" not in line]
        config.write_text("\n".join(kept))
        assert read_run(path).settings["episode_steps"] == 0

    def test_an_algorithm_of_a_later_version_is_read_too(self, make_run):
        path = make_run("new", [1.0])
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("algorithm: mappo", "algorithm: telepathy"))
        assert read_run(path).algorithm == "telepathy"

    def test_runs_without_a_log_of_phases_still_have_a_clock(self, make_run):
        path = make_run("old", [1.0])
        record = {"step": 100, "iteration": 1, "time/iteration": 5.0, "evaluate/return": None}
        (path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        run = read_run(path)
        assert (run.seconds, run.phases, len(run.evaluated)) == (5.0, {}, 0)

    @pytest.mark.parametrize(
        ("returns", "steps", "event", "status", "outcome"),
        [
            ([1.0, 2.0], None, None, "finished", "finished"),
            ([1.0], 500, None, "stopped", "killed, or still running"),
            ([1.0], 500, {"event": "interrupted"}, "interrupted", "interrupted and saved"),
            ([1.0], 500, {"event": "failed", "error": "Boom: x"}, "failed", "failed: Boom: x"),
            ([1.0], 100, {"event": "failed", "error": "Disk: full"}, "failed", "failed: Disk: full"),
            ([], 500, None, "empty", "no iteration finished: killed, or still running"),
            ([], 500, {"event": "failed", "error": "Boom: x"}, "empty", "no iteration finished: Boom: x"),
        ],
    )
    def test_how_it_ended(self, make_run, returns, steps, event, status, outcome):
        run = read_run(make_run("a", returns, steps=steps, event=event))
        assert (run.status, run.outcome) == (status, outcome)

    def test_a_line_cut_off_by_a_crash_is_no_damage(self, make_run):
        path = make_run("a", [1.0], steps=500)
        with (path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 200, "evalu')
        assert read_run(path).steps == 100


class TestManyRuns:
    def test_are_found_at_any_depth_each_once(self, make_run, tmp_path):
        paths = [make_run(name, [1.0]) for name in ("b/y", "b/x", "a")]
        runs, problems = read_runs([tmp_path])
        assert [run.path for run in runs] == [paths[2], paths[1], paths[0]]
        assert problems == []
        runs, problems = read_runs([paths[0], tmp_path / "runs" / "b" / ".." / "b" / "y"])
        assert len(runs) == 1
        assert problems[0].reason == "given twice, read once"

    def test_nothing_inside_a_run_is_looked_at(self, make_run):
        path = make_run("a", [1.0])
        shutil.copytree(path, path / "replay" / "inner")
        assert [run.path for run in read_runs([path])[0]] == [path]

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda path: (path / "protocol.json").write_text("{"), "is not a dima run folder"),
            (lambda path: (path / "protocol.json").unlink(), "is not a dima run folder"),
            (lambda path: (path / "config.yaml").unlink(), "config.yaml is missing"),
            (lambda path: (path / "config.yaml").write_text("a: [b"), "config.yaml is not valid YAML"),
            (lambda path: (path / "config.yaml").write_text("algorithm: dima"), "config.yaml lacks the field task"),
            (lambda path: (path / "metrics.jsonl").write_text("x\n"), "metrics.jsonl is damaged: line 1"),
            (
                lambda path: ((path / "metrics.jsonl").unlink(), (path / "metrics.jsonl").mkdir()),
                "metrics.jsonl cannot be read",
            ),
            (lambda path: shutil.rmtree(path), "does not exist"),
            (lambda path: (shutil.rmtree(path), path.mkdir()), "contains no run"),
            (lambda path: (shutil.rmtree(path), path.write_text("")), "is not a folder"),
        ],
    )
    def test_unreadable_folders_are_reported_and_the_rest_is_read(self, make_run, spoil, reason):
        good, bad = make_run("good", [1.0]), make_run("bad", [1.0])
        spoil(bad)
        runs, problems = read_runs([bad, good])
        assert [run.path for run in runs] == [good]
        assert [problem.path for problem in problems] == [bad]
        assert problems[0].reason.startswith(reason)
        assert "\n" not in problems[0].reason
