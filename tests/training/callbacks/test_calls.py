"""Callbacks: what they see, how they stop a run, what they survive, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dima
from benchmarks.studies.kill import contents, differences
from dima.analysis.report.runs import read_run
from dima.cli import main
from dima.errors import CallbackError, ConfigError, RunFolderError
from dima.runtime.progress import Progress
from dima.training.callbacks import Calls
from dima.training.online import resume, train
from tests.reliability.test_resume import Interrupted, Power, pull_plug

pytestmark = pytest.mark.usefixtures("one_thread")


class Tally(dima.Callback):
    """Keeps what it has seen, in everything that a state may hold."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.steps = torch.zeros(0, dtype=torch.long)
        self.noise = np.zeros(0)

    def on_evaluation(self, status: dima.Status) -> None:
        assert status.score is not None
        self.scores.append(status.score)

    def on_iteration(self, status: dima.Status) -> None:
        self.steps = torch.cat([self.steps, torch.tensor([status.steps])])
        self.noise = np.append(self.noise, float(torch.rand(())))  # must not change the run, but may be used

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "steps": self.steps, "noise": self.noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores, self.steps, self.noise = state["scores"], state["steps"], state["noise"]


class Failing(Tally):
    """Raises at a step."""

    def __init__(self, hook: str = "", at: int = 0) -> None:
        super().__init__()
        self.hook, self.at = hook, at

    def on_evaluation(self, status: dima.Status) -> None:
        super().on_evaluation(status)
        self.fail("on_evaluation", status)

    def on_iteration(self, status: dima.Status) -> None:
        super().on_iteration(status)
        self.fail("on_iteration", status)

    def fail(self, hook: str, status: dima.Status) -> None:
        if self.hook == hook and status.steps >= self.at:
            raise ValueError(f"no more\nat {status.steps}")


@pytest.fixture
def short(tiny):
    """Config of a run of six iterations, three evaluations."""

    def build(run: str = "run", **changes: Any) -> Any:
        return tiny(algorithm="mappo", run=run, **{"steps": 300, "evaluate_every": 100, **changes})

    return build


def test_a_callback_sees_the_run(short) -> None:
    seen: list[dima.Status] = []
    order: list[str] = []

    class Watch:  # what has the methods will do
        def on_iteration(self, status: dima.Status) -> None:
            seen.append(status)
            order.append("iteration")

        def on_evaluation(self, status: dima.Status) -> None:
            order.append("evaluation")
            assert len(status.returns) == status.config.to_dict()["evaluation_episodes"]
            assert status.score == pytest.approx(np.mean(status.returns))
            world = status.agent.env.parallel_env
            observations, infos = world.reset(seed=0)
            assert set(status.agent.act(observations, infos)) == set(world.agents)

    config = short()
    summary = train(config, callbacks=[Watch()])
    assert summary.finished and not summary.stopped
    assert [status.steps for status in seen] == [50, 100, 150, 200, 250, 300]
    assert [status.iteration for status in seen] == [1, 2, 3, 4, 5, 6]
    assert order == ["iteration", *["evaluation", "iteration", "iteration"] * 2, "evaluation", "iteration"]
    assert seen[0].score is None and seen[0].returns == () and seen[2].score == seen[1].score
    assert seen[0].target == 300 and seen[0].folder == config.folder and seen[0].config == config
    logged = dima.open_run(config.folder).metrics().rows()
    for status, row in zip(seen, logged, strict=True):
        assert status.metrics.items() <= row.items()
    with pytest.raises(AttributeError):
        seen[0].steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        seen[0].metrics["x"] = 3.0  # type: ignore[index]


def test_callbacks_do_not_change_the_run(short) -> None:
    plain, watched = train(short("plain")), train(short("watched"), callbacks=[Tally(), dima.KeepBest()])
    assert plain.evaluations == watched.evaluations
    before, after = (contents(one.folder) for one in (plain, watched))
    own = {name: value for name, value in after.items() if "/callbacks/" not in name}
    assert len(own) < len(after)
    assert differences(before, own) == ["checkpoint.json"]  # where the states of the callbacks stand


@pytest.mark.parametrize("phase", ["collect", "callbacks", "save"])
def test_a_run_with_callbacks_resumes_exactly(short, phase: str) -> None:
    whole, again = short("whole"), short("again")
    first = Tally()
    train(whole, callbacks=[first, dima.KeepBest()])
    with pytest.raises(Power):
        train(again, callbacks=[Tally(), dima.KeepBest()], progress=Interrupted(phase, 3, pull_plug))
    last = Tally()
    assert resume(again.folder, callbacks=[last, dima.KeepBest()]).finished
    assert not differences(contents(whole.folder), contents(again.folder))
    assert last.scores == first.scores and last.noise.tolist() == first.noise.tolist()
    assert last.steps.tolist() == [50, 100, 150, 200, 250, 300]


@pytest.mark.parametrize(("hook", "at"), [("on_evaluation", 200), ("on_iteration", 150), ("on_iteration", 300)])
def test_an_exception_stops_the_run_which_then_goes_on_as_if_nothing_had_happened(short, hook: str, at: int) -> None:
    whole, again = short("whole"), short("again")
    train(whole, callbacks=[Failing(), dima.KeepBest()])
    with pytest.raises(CallbackError) as raised:
        train(again, callbacks=[Failing(hook, at), dima.KeepBest()])
    message = str(raised.value)
    assert message.startswith(f"callback Failing.{hook} raised ValueError: no more at {at} (test_calls.py, line ")
    assert f"the run is saved at step {at}: fix it, then `dima resume {again.folder}`" in message
    with pytest.raises(CallbackError, match="no more"):
        resume(again.folder, callbacks=[Failing(hook, at), dima.KeepBest()])
    mended = Failing()
    assert resume(again.folder, callbacks=[mended, dima.KeepBest()]).finished
    assert mended.steps.tolist() == [50, 100, 150, 200, 250, 300] and len(mended.scores) == 3
    assert not differences(contents(whole.folder), contents(again.folder))


class StopAt(dima.Callback):
    def __init__(self, steps: int = 150, reason: str = "it is enough") -> None:
        self.steps, self.reason = steps, reason

    def on_iteration(self, status: dima.Status) -> None:
        if status.steps == self.steps:
            status.stop(self.reason)


def test_a_stopped_run_is_finished_and_says_so(short) -> None:
    config = short()
    summary = train(config, callbacks=[StopAt()])
    assert summary.finished and summary.steps == 150
    assert summary.stopped == "StopAt: it is enough" and "stopped by StopAt: it is enough" in summary.table()
    before = contents(config.folder)
    again = resume(config.folder)  # there is nothing to do, so the callback need not be repeated
    assert again.finished and again.stopped == summary.stopped
    assert not differences(before, contents(config.folder))
    opened = dima.open_run(config.folder)
    assert opened.finished and opened.stopped == summary.stopped and "stopped by StopAt" in opened._repr_html_()
    read = read_run(config.folder)
    assert read.status == "finished" and read.outcome == "finished: stopped by StopAt: it is enough"


def test_a_stopped_run_goes_on_when_it_is_given_steps(short) -> None:
    whole, again = short("whole"), short("again")
    train(whole)
    train(again, callbacks=[StopAt()])
    summary = resume(again.folder, steps=300, callbacks=[])
    assert summary.finished and not summary.stopped and summary.steps == 300
    assert not differences(contents(whole.folder), contents(again.folder))


def test_callbacks_are_repeated_to_resume(short) -> None:
    config = short()
    with pytest.raises(Power):
        train(config, callbacks=[Tally(), dima.KeepBest()], progress=Interrupted("collect", 4, pull_plug))
    for given in (None, [dima.KeepBest()]):
        with pytest.raises(CallbackError, match=r"was trained with the callback Tally: repeat it, --callbacks"):
            resume(config.folder, callbacks=given)
    more = Tally()
    summary = resume(config.folder, callbacks=[StopAt(250), dima.KeepBest(), more])  # in any order, and more of them
    assert summary.stopped.startswith("StopAt") and more.steps.tolist() == [50, 100, 150, 200, 250]


def test_evaluations_in_the_background_are_seen_at_once(short) -> None:
    background = Tally()
    train(short("background", evaluate_in_background=True), callbacks=[background])
    foreground = Tally()
    train(short("foreground"), callbacks=[foreground])
    assert background.scores == foreground.scores and len(background.scores) == 3


class Renamed(dima.Callback):
    def on_round(self, status: dima.Status) -> None:
        pass


class Answering(dima.Callback):
    def on_iteration(self, status: dima.Status) -> bool:  # type: ignore[override]
        return False


class Unsaveable(Tally):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": {1, 2}}


class Needy(Tally):
    def __init__(self, least: int) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Renamed(), r"callbacks\[0\]: Renamed.on_round is never called: did you mean 'on_iteration'"),
        (print, r"callbacks\[0\] is of type builtin_function_or_method: expected an object with on_iteration"),
        (dima.Callback(), "expected an object with on_iteration or on_evaluation"),
        (Unsaveable(), r"callback Unsaveable.state_dict\(\) cannot be saved, seen is a set"),
        (Needy, r"callbacks\[0\]: Needy\(\) raised TypeError"),
    ],
)
def test_what_is_no_callback_is_refused_before_the_run(short, callback: Any, message: str) -> None:
    config = short()
    with pytest.raises(CallbackError, match=message):
        train(config, callbacks=[callback])
    assert not config.folder.exists()


def test_an_answer_is_refused(short) -> None:
    with pytest.raises(CallbackError, match=r"Answering.on_iteration returned False: return nothing, and call status"):
        train(short(), callbacks=[Answering])


def test_a_state_that_does_not_fit_is_named(short) -> None:
    config = short()
    with pytest.raises(Power):
        train(config, callbacks=[Tally()], progress=Interrupted("collect", 3, pull_plug))
    other = type("Tally", (dima.KeepBest,), {})
    with pytest.raises(CallbackError, match=r"callback Tally.load_state_dict raised KeyError"):
        resume(config.folder, callbacks=[other()])


def test_a_fit_has_callbacks_too(recording, tmp_path: Path) -> None:
    dima.record(recording(steps=120))
    overrides = {"run": str(tmp_path / "fit"), "iterations": 6, "evaluate_every": 1, "device": "cpu", "threads": 1}
    overrides |= {"evaluation_horizon": 3}
    config = dima.fit_config(tmp_path / "data", "ensemble", "debug", overrides)
    run = dima.fit(config, callbacks=[dima.StopOnPlateau(patience=2, min_gain=1e6)], quiet=True)
    assert run.finished and run.steps == 3 and run.stopped.startswith("StopOnPlateau: no better than")
    assert dima.open_run(run).evaluations == run.evaluations
    assert dima.open_run(run).lower_is_better
    with pytest.raises(CallbackError, match="has no returns: use StopOnPlateau"):
        dima.fit(config, callbacks=[dima.StopAtReturn(1)], overwrite=True, quiet=True)


USER_FILE = """
import dima

class Halt(dima.Callback):
    def on_iteration(self, status):
        if status.steps == 100:
            status.stop("as told")

class Broken(dima.Callback):
    def on_iteration(self, status):
        status.nothing

def best():
    return dima.KeepBest()

def nothing():
    return 3
"""
RUN = (
    "--evaluate-every",
    "50",
    "--preset",
    "debug",
    "--steps",
    "200",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--quiet",
    "--no-tensorboard",
)


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "my_callbacks.py").write_text(USER_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    return tmp_path


def test_callbacks_on_the_command_line(user_file: Path, capsys) -> None:
    train_it = ("train", "toy/walk", "--algorithm", "mappo", *RUN)
    calls = ("--callbacks", "my_callbacks:Halt", "my_callbacks:best")
    assert main([*train_it, "--run", "halted", *calls]) == 0
    assert dima.open_run("halted").stopped == "Halt: as told"
    assert main(["evaluate", "halted", "--best", "--episodes", "1"]) == 0
    for given, status in (((), 2), (("--callbacks", "none"), 0)):
        assert main(["resume", "halted", "--steps", "200", "--quiet", *given]) == status
    assert "was trained with the callback Halt: repeat it, --callbacks" in capsys.readouterr().err
    assert dima.open_run("halted").steps == 200
    assert main([*train_it, "--run", "broken", "--callbacks", "my_callbacks:Broken"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "callback Broken.on_iteration raised AttributeError" in err
    assert "(my_callbacks.py, line 11): " in err or "(my_callbacks.py, line 11);" in err
    assert dima.load("broken").steps == 50


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_callbacks:Hlat", "did you mean 'Halt'?"),
        ("my_callback:Halt", "there is no module 'my_callback'"),
        ("KeepBest", "'KeepBest' is not of the form package.module:Name"),
        ("my_callbacks:nothing", "my_callbacks:nothing is of type int: expected an object with on_iteration"),
        ("dima:StopAtReturn", "callbacks: dima:StopAtReturn() raised TypeError"),
    ],
)
def test_wrong_callbacks_on_the_command_line(user_file: Path, capsys, name: str, message: str) -> None:
    seeds = ("--seeds", "1", "2") if name == "KeepBest" else ()
    assert main(["train", "toy/walk", "--algorithm", "mappo", *RUN, "--run", "run", *seeds, "--callbacks", name]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (user_file / "run").exists()


def test_seeds_have_callbacks_of_their_own(user_file: Path, capsys) -> None:
    seeds = ("--seeds", "1", "2", "--run", "run", "--callbacks", "my_callbacks:Halt")
    assert main(["train", "toy/walk", "--algorithm", "mappo", *RUN, *seeds]) == 0, capsys.readouterr()
    assert [dima.open_run(f"run-seed{seed}").stopped for seed in (1, 2)] == ["Halt: as told"] * 2


def test_a_stranger_s_state_is_no_code(short) -> None:
    """Names of callbacks in a checkpoint are data: nothing is imported for them."""
    config = short()
    train(config, callbacks=[StopAt()])
    tree = json.loads((config.folder / "checkpoint" / "tree.json").read_text())
    assert tree["run"]["callbacks"]["states"] == [["StopAt", {}]]
    assert dima.load(config.folder).steps == 150
    with pytest.raises(RunFolderError, match="keeps no best policy"):
        dima.load(config.folder, best=True)


@pytest.mark.parametrize(
    "spoilt",
    [
        3,
        {"states": [["StopAt"]], "stopped": "", "failed": None},
        {"states": 3, "stopped": "", "failed": None},
        {"states": [], "stopped": "", "failed": {"metrics": {}, "x": 3}},
        {"states": [], "stopped": "", "failed": {"metrics": {"a": "b"}, "returns": [], "evaluated": True}},
    ],
)
def test_a_spoilt_state_is_one_line(short, spoilt: Any, monkeypatch) -> None:
    config = short()
    monkeypatch.setattr(Calls, "checkpoint", lambda self: {"callbacks": spoilt})
    train(config)
    with pytest.raises(RunFolderError, match="does not fit its"):
        resume(config.folder, steps=400, callbacks=[StopAt()])
    with pytest.raises(RunFolderError):
        dima.load(config.folder, best=True)


def test_progress_without_a_display_is_a_progress(short) -> None:
    with pytest.raises(ConfigError, match="patience = 0"):
        dima.StopOnPlateau(patience=0)
    assert dima.train(short(), callbacks=[StopAt(50)], progress=Progress()).steps == 50
