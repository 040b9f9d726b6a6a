"""A first run from what the check of an environment saw."""

from __future__ import annotations

import shlex

import pytest

from dima.cli import main
from dima.data import EnvSpec
from dima.envs.check import CheckReport, Finding
from dima.training.proposal import first_run
from dima.training.run_config import build_config

OK, WRONG = Finding("ok", "fine"), Finding("wrong", "not fine")


def seen(agents: int = 2, state: int = 4, action: int = 1, **facts: object) -> CheckReport:
    names = tuple(f"a{n}" for n in range(agents))
    spec = EnvSpec(names, state, (state,) * agents, (action,) * agents, discrete=False)
    return CheckReport("lab:make", **{"findings": (OK,), "spec": spec, "lengths": (30,)} | facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (seen(), "--preset quick --steps 4000"),
        (seen(lengths=(30, 300)), "--preset small --steps 20000"),
        (seen(agents=5), "--preset small --steps 20000"),
        (seen(state=100), "--preset small --steps 20000"),
        (seen(action=20), "--preset small --steps 20000"),
        (seen(agents=9), "--preset small --steps 50000"),
        (seen(state=400), "--preset small --steps 50000"),
        (seen(lengths=(3_000,), can_be_cut=True), "--preset small --steps 50000 --env.episode-limit 1000"),
        (seen(lengths=(3_000,)), "--preset small --steps 50000"),
    ],
)
def test_preset_and_limits_follow_from_the_sizes(report: CheckReport, said: str) -> None:
    assert first_run(report) == f"dima train lab:make {said}"


def test_the_quick_preset_s_own_steps_are_proposed() -> None:
    assert f"--steps {build_config('toy/walk', preset='quick').steps}" in (first_run(seen()) or "")


def test_episodes_without_an_end_are_cut() -> None:
    endless = seen(findings=(WRONG,), lengths=(), endless=True, can_be_cut=True)
    assert first_run(endless) == "dima train lab:make --preset small --steps 20000 --env.episode-limit 1000"


def test_nothing_is_proposed_for_what_is_not_fit() -> None:
    assert first_run(seen(findings=(WRONG,))) is None
    assert first_run(CheckReport("lab:make", (WRONG,))) is None


def test_flags_of_the_check_are_kept_and_quoted() -> None:
    command = first_run(seen(), ["--env.arguments", '{"n": 3}'])
    assert command is not None
    assert command.endswith("""--env.arguments '{"n": 3}'""")
    assert shlex.split(command)[-1] == '{"n": 3}'


def test_the_proposal_of_the_command_can_be_pasted(tmp_path, monkeypatch, capsys, one_thread) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "toy/walk", "--env.n-agents", "1"]) == 0
    *_, heading, command = capsys.readouterr().out.splitlines()
    assert heading == "to train in it:"
    program, *args = shlex.split(command)
    assert program == "dima"
    assert args == ["train", "toy/walk", "--preset", "quick", "--steps", "4000", "--env.n-agents", "1"]
    short = ["--steps", "30", "--learner.learn-after", "30", "--device", "cpu", "--no-tensorboard", "--quiet"]
    fewer = ["denoiser-fit", "decoder-fit", "reward-fit"]
    updates = [word for part in fewer for word in (f"--learner.world-model.{part}.updates", "1")]
    assert main([*args, *short, *updates]) == 0
