"""Runs on a dataset: exact after a kill, comparable, loadable; every error is one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import dima
from dima.analysis.report.runs import read_runs
from dima.cli import main
from dima.datasets.reader import Dataset
from dima.errors import ConfigError, DatasetError, DivergenceError, RunFolderError
from dima.recording.config import record_config
from dima.recording.record import record
from dima.runtime.progress import Progress, Step
from dima.storage.run_folder import RunFolder
from dima.training.offline import fit, fit_config
from dima.training.online import resume
from dima.training.run_config import OfflineConfig, RunConfig

pytestmark = pytest.mark.usefixtures("one_thread")
Build = Callable[..., OfflineConfig]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A dataset of two sources on toy/walk."""
    path = tmp_path_factory.mktemp("data") / "walk"
    changes = {"out": str(path), "steps": 80, "episode_steps": 8, "device": "cpu", "env": {"episode_limit": 9}}
    record(record_config("toy/walk").override(changes | {"sources": ["random", "random,noise=0.5"]}))
    return path


@pytest.fixture
def small(tmp_path: Path, data: Path) -> Build:
    """Builds the config of a run of a few gradient steps, from overrides."""

    def build(run: str = "run", dataset: Path = data, **overrides: Any) -> OfflineConfig:
        fixed = {"run": str(tmp_path / run), "device": "cpu", "threads": 1, "tensorboard": False, "iterations": 3}
        fixed |= {"evaluate_every": 2, "evaluation_segments": 4, "evaluation_horizon": 3, "checkpoint_budget": 1.0}
        once = {f"{part}_fit": {"updates": 1, "batch": 4} for part in ("denoiser", "decoder", "reward")}
        return fit_config(dataset, "dima", "debug", fixed | {"learner": {"world_model": once}}).override(overrides)

    return build


def records(folder: Path) -> list[dict[str, Any]]:
    with RunFolder.open(folder) as run:
        return run.records()


def learnt(folder: Path) -> tuple[list[dict[str, Any]], bytes]:
    """What two equal runs have in common: their metrics except times, and their tensors."""
    metrics = [{k: v for k, v in one.items() if not k.startswith("time/")} for one in records(folder)]
    return metrics, (folder / "checkpoint" / "tensors.safetensors").read_bytes()


class Interrupted(Progress):
    """Calls an action when a phase begins for the n-th time."""

    def __init__(self, phase: str, times: int, action: Callable[[], None]) -> None:
        super().__init__()
        self.waiting, self.times, self.action = phase, times, action

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        with super().phase(name, total) as step:
            self.times -= name == self.waiting
            if name == self.waiting and self.times == 0:
                self.action()
            yield step


class Power(Exception):
    """Stands for a power failure."""


def pull_plug() -> None:
    raise Power


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_logs_losses_and_held_out_errors(small: Build):
    summary = fit(config := small())
    assert summary.finished
    log = records(config.folder)
    assert [(one["step"], one["iteration"]) for one in log] == [(1, 1), (2, 2), (3, 3)]
    assert {"denoiser/loss", "decoder/error", "reward_model/reward", "updates/denoiser"} <= set(log[0])
    errors = {f"{of}_{step}" for of in ("state", "persistence", "obs") for step in (1, 3)}
    errors |= {"obs_sum_3", "reward", "continuation"}
    assert [{f"held_out/{name}" for name in errors} <= set(one) for one in log] == [False, True, True]
    assert not any(name.startswith(("collect/", "evaluate/", "policy/")) for one in log for name in one)
    assert summary.evaluations == [(2, log[1]["held_out/state_3"]), (3, log[2]["held_out/state_3"])]
    text = summary.table()
    assert "dima on toy/walk: 3 iterations" in text
    assert "error after 3 steps" in text
    assert "its policy is untrained" in text


def test_task_and_replay_follow_from_the_dataset(small: Build, data: Path):
    config = small()
    assert (config.task, config.env.episode_limit) == ("toy/walk", 9)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.learner.replay.capacity >= Dataset.open(data).steps
    assert config.learner.replay.recent_share == 0.25
    assert small(run="x").override({"run": None}).folder == Path("runs/toy/walk/fit-dima-debug-seed0")


def test_only_training_episodes_are_seen(small: Build, data: Path):
    fit(config := small(iterations=1))
    with RunFolder.open(config.folder) as folder:
        seen = folder.load().tree["algorithm"]["world_model"]
    training = torch.cat([episode.state for episode in Dataset.open(data).episodes("train")]).double()
    assert int(seen["state_scale.count"]) == len(training)
    torch.testing.assert_close(seen["state_scale.mean"], training.mean(0))


def test_the_seed_decides_everything(small: Build):
    one, same, other = (small(run=run, seed=seed) for run, seed in (("a", 1), ("b", 1), ("c", 2)))
    for config in (one, same, other):
        fit(config)
    assert learnt(one.folder) == learnt(same.folder)
    assert learnt(one.folder)[1] != learnt(other.folder)[1]
    assert records(one.folder)[-1]["held_out/persistence_3"] == records(other.folder)[-1]["held_out/persistence_3"]


def test_evaluating_more_often_does_not_change_learning(small: Build):
    fit(rare := small(run="rare", evaluate_every=3))
    fit(often := small(run="often", evaluate_every=1))
    assert learnt(rare.folder)[0][-1] == learnt(often.folder)[0][-1]


def test_fewer_iterations_than_were_made_are_refused_before_anything_is_written(small: Build, capsys) -> None:
    fit(config := small(iterations=2))
    before = {path: path.read_bytes() for path in sorted(config.folder.rglob("*")) if path.is_file()}
    assert main(["resume", str(config.folder), "--iterations", "1"]) == 2
    assert f"iterations = 1 is less than the 2 that {config.folder} has made already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in sorted(config.folder.rglob("*")) if path.is_file()}
    assert resume(config.folder, iterations=2).finished
    assert resume(config.folder, iterations=3).steps == 3


@pytest.mark.parametrize("phase", ["denoiser", "evaluate", "save"])
def test_a_run_killed_in_any_phase_equals_an_uninterrupted_one(small: Build, phase: str):
    fit(whole := small(run="whole"))
    broken = small(run="broken")
    with pytest.raises(Power):
        fit(broken, progress=Interrupted(phase, 1 if phase == "evaluate" else 2, pull_plug))
    assert resume(broken.folder).finished
    assert learnt(whole.folder) == learnt(broken.folder)


def test_lost_iterations_are_fitted_again_exactly(small: Build):
    fit(whole := small(run="whole"))
    broken = small(run="broken", checkpoint_budget=0.0)
    with pytest.raises(Power):
        fit(broken, progress=Interrupted("reward", 3, pull_plug))
    with RunFolder.open(broken.folder) as folder:
        assert folder.load().tree["iterations"] == 1
    assert len(records(broken.folder)) == 3  # two iterations, and that the third one failed
    assert resume(broken.folder).finished
    assert learnt(whole.folder) == learnt(broken.folder)


def test_a_signal_finishes_the_iteration_and_the_run_can_be_resumed(small: Build, capfd):
    fit(whole := small(run="whole"))
    broken = small(run="broken")
    ask = Interrupted("denoiser", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert not fit(broken, progress=ask).finished
    assert records(broken.folder)[-1] == {"event": "interrupted"}
    assert resume(broken.folder).finished
    assert learnt(whole.folder) == learnt(broken.folder)


def test_a_run_killed_in_its_first_iteration_begins_again(small: Build):
    broken = small(run="broken")
    with pytest.raises(Power):
        fit(broken, progress=Interrupted("reward", 1, pull_plug))
    assert resume(broken.folder).steps == 3


def test_a_run_can_be_extended(small: Build):
    fit(whole := small(run="whole", iterations=4, evaluate_every=4))
    fit(short := small(run="short", iterations=2, evaluate_every=4))
    summary = resume(short.folder, iterations=4)
    assert summary.steps == 4
    assert RunFolder.open(short.folder).config()["iterations"] == 4
    assert learnt(whole.folder)[1][-1000:] == learnt(short.folder)[1][-1000:]
    with pytest.raises(ConfigError, match=r"steps = 9 is for runs in an environment"):
        resume(short.folder, steps=9)


def test_steps_belong_to_other_runs(tiny):
    folder = dima.train(tiny(algorithm="mappo", steps=30)).folder
    with pytest.raises(ConfigError, match=r"iterations = 9 is for runs that learn from a dataset"):
        resume(folder, iterations=9)


# -- afterwards ------------------------------------------------------------------------------------------------------


def test_the_run_loads_and_says_that_its_policy_is_untrained(small: Build, data: Path):
    fit(config := small())
    agent = dima.load(config.folder)
    assert not agent.trained
    experience = agent.experience()
    episodes = Dataset.open(data).episodes("train")
    assert experience.steps == sum(map(len, episodes))
    assert torch.equal(experience.store["state"][0], episodes[0].state[0])
    again = record_config("toy/walk").override({"sources": [str(config.folder)], "env": {"episode_limit": 9}})
    with pytest.raises(DatasetError, match="its policy is untrained: use `random`"):
        record(again.override({"out": str(config.folder.parent / "again")}))


def test_reports_of_returns_leave_it_out(small: Build):
    fit(config := small(iterations=1))
    (problem,) = read_runs([config.folder])[1]
    assert "is a run of `dima fit`" in problem.reason


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_model_free_algorithm_is_refused(data: Path):
    with pytest.raises(ConfigError, match="mappo learns no world model"):
        fit_config(data, "mappo")


def test_the_dataset_s_path_is_absolute(data: Path, monkeypatch):
    monkeypatch.chdir(data.parent)
    assert fit_config(data.name, "dima", "debug").dataset == str(data)


def test_another_task_is_refused(data: Path):
    with pytest.raises(ConfigError, match=r"task = 'toy/linear' does not fit: .* is of 'toy/walk'"):
        fit_config(data, "dima", "debug", {"task": "toy/linear"})


def test_how_fits_are_computed_can_be_chosen(small: Build):
    assert fit(small(learner={"cuda_graphs": False, "workers": 2})).finished


def test_a_setting_without_effect_is_refused(small: Build):
    with pytest.raises(ConfigError, match=r"learner\.horizon has no effect here"):
        fit(small(learner={"horizon": 4}))
    with pytest.raises(ConfigError, match=r"learner\.ppo has no effect here"):
        fit(small(learner={"ppo": {"lr": 0.1}}))


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"task": "toy/linear"}, ConfigError, "is of 'toy/walk'"),
        ({"env": {"episode_limit": 30}}, DatasetError, "recorded with episode_limit = 9, but here episode_limit = 30"),
        ({"evaluation_horizon": 9}, ConfigError, "evaluation_horizon = 9 is longer than any held-out episode"),
        ({"learner": {"replay": {"capacity": 20}}}, ConfigError, r"replay\.capacity = 20 cannot hold the dataset"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(small: Build, changes, kind, said):
    with pytest.raises(kind, match=said) as error:
        fit(small(**changes))
    assert "\n" not in str(error.value)
    assert not small().folder.exists()


def test_a_run_is_replaced_only_when_asked(small: Build):
    fit(config := small(iterations=1))
    with pytest.raises(RunFolderError, match="already holds a run"):
        fit(config)
    fit(small(iterations=2), overwrite=True)
    assert len(records(config.folder)) == 2


def test_another_dataset_at_the_same_path_is_refused(small: Build, data: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    config = small(dataset=moved)
    with pytest.raises(Power):
        fit(config, progress=Interrupted("denoiser", 2, pull_plug))
    changes = {"out": str(moved), "steps": 40, "episode_steps": 8, "device": "cpu", "env": {"episode_limit": 9}}
    record(record_config("toy/walk").override(changes), overwrite=True)
    with pytest.raises(DatasetError, match="is not the dataset that the run was started with"):
        resume(config.folder)
    shutil.rmtree(moved)
    with pytest.raises(RunFolderError, match="does not exist"):
        resume(config.folder)


def test_a_damaged_dataset_is_refused(small: Build, data: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    chunk = moved / "episodes" / "000001.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(RunFolderError, match=r"000001\.safetensors is damaged"):
        fit(small(dataset=moved))


def test_divergence_names_a_loss(small: Build):
    config = small(learner={"world_model": {"denoiser_fit": {"lr": 1e30, "warmup": 6}}})
    with pytest.raises(DivergenceError, match="denoiser/loss"):
        fit(config)
    assert records(config.folder)[-1]["event"] == "failed"


@pytest.mark.parametrize(
    ("steps", "held_out", "advice"),
    [(90, 0.0, "make it again with held_out above 0"), (20, 0.2, "each of its sources has one episode: record more")],
)
def test_a_dataset_without_held_out_episodes_is_refused(
    small: Build, tmp_path: Path, steps: int, held_out: float, advice: str
):
    changes = {"out": str(tmp_path / "all"), "steps": steps, "held_out": held_out, "device": "cpu"}
    record(record_config("toy/walk").override(changes))
    with pytest.raises(DatasetError, match=f"holds out no episode, so nothing can be forecast: {advice}"):
        fit(small(dataset=tmp_path / "all"))


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys):
    def run(*args: object) -> tuple[int, str, str]:
        status = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_from_recording_to_a_fitted_model(command, tmp_path: Path):
    data, run = tmp_path / "d", tmp_path / "r"
    recorded = ("--steps", 60, "--out", data, "--device", "cpu")
    status, out, _ = command("dataset", "record", "toy/walk", *recorded)
    assert status == 0
    assert "train" in out and "held-out" in out and str(data) in out
    status, out, _ = command("dataset", "info", data, "--json")
    assert (status, json.loads(out)["task"]) == (0, "toy/walk")
    fixed = ("--preset", "debug", "--iterations", 1, "--device", "cpu", "--no-tensorboard", "--threads", 1)
    status, out, _ = command("fit", data, *fixed, "--run", run, "--learner.world-model.denoiser.reveal", "all")
    assert status == 0 and "its policy is untrained" in out
    assert RunFolder.open(run).config()["learner"]["world_model"]["denoiser"]["reveal"] == "all"
    status, out, _ = command("evaluate", run, "--episodes", 1)
    assert status == 0 and out.startswith("⚠ its policy is untrained")
    status, out, _ = command("evaluate", run, "--episodes", 1, "--json")
    assert [verdict["severity"] for verdict in json.loads(out)["verdicts"]] == ["grave"]
    assert command("resume", run, "--iterations", 2, "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("fit",), "no dataset was given: write `dima fit DATASET`"),
        (("fit", "nowhere"), "nowhere does not exist"),
        (("fit", "{data}", "--algorithm", "mappo"), "mappo learns no world model"),
        (("fit", "{data}", "--learner.horizon", "3", "--preset", "debug"), "learner.horizon has no effect here"),
        (("fit", "{data}", "--steps", "3"), "there is no option --steps"),
        (("dataset", "info", "."), "is not a dima dataset"),
        (("dataset", "recrod"), "did you mean 'record'?"),
        (("dataset", "record"), "no task was given: write `dima dataset record TASK`"),
        (("dataset", "record", "toy/walk", "--out", "{data}"), "already holds a dataset"),
        (("dataset", "record", "toy/walk", "--sources", "nowhere", "--out", "{data}x"), "nowhere does not exist"),
        (("dataset", "record", "toy/walk", "--preset", "small", "--out", "{data}x"), "there is no option --preset"),
        (("dataset", "import", "toy/walk"), "inari"),
    ],
)
def test_misuse_is_one_line(command, data: Path, args, said):
    status, _, err = command(*(arg.format(data=data) for arg in args))
    assert status == 2
    assert said in err and len(err.splitlines()) == 1


def test_an_interrupted_recording_says_how_to_continue(command, tmp_path: Path, monkeypatch):
    class Impatient(Progress):
        def iteration(self, done: int, total: int, **numbers: float) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dima.runtime.progress.choose_progress", lambda quiet: Impatient())
    monkeypatch.setattr("dima.recording.record.CHUNK_STEPS", 30)
    status, out, _ = command("dataset", "record", "toy/walk", "--steps", 60, "--out", tmp_path / "d", "--device", "cpu")
    assert status == 130
    assert "interrupted after 30 steps: the same command continues" in out


@pytest.mark.parametrize(
    "args", [("dataset",), ("dataset", "--help"), ("fit", "--help"), ("dataset", "record", "--help")]
)
def test_help(args, capsys):
    with suppress(SystemExit):
        assert main(list(args)) == 0
    assert f"dima {args[0]}" in capsys.readouterr().out
