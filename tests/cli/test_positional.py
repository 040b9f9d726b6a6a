"""The task is found anywhere; the types of the config decide which words are values of flags."""

from __future__ import annotations

from typing import Any

import pytest

from dima.algorithms import algorithm_config, algorithm_names
from dima.cli.datasets import FitOptions, ImportOptions, RecordOptions
from dima.cli.options import flags, parse
from dima.cli.positional import Choice, choose
from dima.cli.train import TrainOptions
from dima.errors import ConfigError
from dima.training.run_config import TrainConfig, build_config

TASK = "toy/walk"


def switches(options: Any, prefix: str = "") -> list[str]:
    return [f"--{name}" for name, kind in flags(options, prefix) if kind is bool]


def negated(flag: str) -> str:
    head, dot, tail = flag[2:].rpartition(".")
    return f"--{head}{dot}no-{tail}"


SWITCHES = [
    (algorithm, flag)
    for algorithm in algorithm_names()
    for flag in [*switches(TrainOptions), *switches(algorithm_config(algorithm), "learner.")]
]


def test_switches_of_every_level_are_found() -> None:
    assert {"--evaluate-in-background", "--quiet", "--overwrite"} <= {flag for _, flag in SWITCHES}
    assert ("dima", "--learner.world-model.reward.next-state") in SWITCHES
    assert ("hasac", "--learner.fixed-order") in SWITCHES


REFUSED = {("mamba", "--learner.ppo.actor.normalize-obs")}  # its actor sees features


@pytest.mark.parametrize(("algorithm", "flag"), SWITCHES)
def test_no_switch_hides_the_task(algorithm: str, flag: str) -> None:
    underscored = "--" + flag[2:].replace("-", "_")
    for spelt in ([flag], [negated(flag)], [underscored], [flag, "True"], [flag, "false"], [f"{flag}=True"]):
        for args in (["--algorithm", algorithm, *spelt, TASK], [*spelt, TASK, f"--algorithm={algorithm}"]):
            choice = choose(args, TrainOptions)
            assert choice.names == {"task": TASK, "algorithm": algorithm}
            assert choice.rest == spelt


@pytest.mark.parametrize("algorithm", algorithm_names())
@pytest.mark.parametrize("spelling", ["alone", "word", "equals"])
def test_switches_before_the_task_are_parsed(algorithm: str, spelling: str) -> None:
    """Every switch is inverted; ``--flag``, ``--flag True`` and ``--flag=True`` are equivalent."""
    config = build_config(TASK, algorithm, "debug")
    before = values(config)
    args: list[str] = []
    flags = [flag for name, flag in SWITCHES if name == algorithm and (name, flag) not in REFUSED]
    for flag in flags:
        wanted = not before.get(flag, False)
        alone = flag if wanted else negated(flag)
        args += {"alone": [alone], "word": [flag, str(wanted)], "equals": [f"{flag}={str(wanted).lower()}"]}[spelling]
    choice = choose([*args, TASK, "--algorithm", algorithm], TrainOptions)
    assert choice.names["task"] == TASK
    options = parse(TrainOptions, choice.rest, "dima train TASK", TrainOptions(config))
    after = values(options.config)
    assert after == {flag: value != (flag in flags) for flag, value in before.items()}
    assert options.quiet and options.overwrite


def values(config: TrainConfig) -> dict[str, bool]:
    found = {}
    for flag in switches(config):
        value: Any = config
        for name in flag[2:].replace("-", "_").split("."):
            value = getattr(value, name)
        found[flag] = value
    return found


@pytest.mark.parametrize(
    ("args", "names", "rest"),
    [
        ("--seeds 1 2 toy/walk", {"task": TASK}, "--seeds 1 2"),
        ("--learner.ppo.actor.hidden toy/walk", {"task": TASK}, "--learner.ppo.actor.hidden"),
        ("--learner.ppo.actor.hidden 8 8 toy/walk", {"task": TASK}, "--learner.ppo.actor.hidden 8 8"),
        ("--learner.ppo.lam 0.5 toy/walk", {"task": TASK}, "--learner.ppo.lam 0.5"),
        ("--run toy/here toy/walk", {"task": TASK}, "--run toy/here"),
        ("--quiet --algorithm mappo toy/walk", {"task": TASK, "algorithm": "mappo"}, "--quiet"),
        ("--preset=small toy/walk --quiet", {"task": TASK, "preset": "small"}, "--quiet"),
        ("--task toy/walk --quiet", {"task": TASK}, "--quiet"),
        ("--env.standardize mamujoco/ant-4x2", {"task": "mamujoco/ant-4x2"}, "--env.standardize"),
        ("--env.standardize True mamujoco/ant-4x2", {"task": "mamujoco/ant-4x2"}, "--env.standardize True"),
        ("--env.observation local-1 mamujoco/ant-4x2", {"task": "mamujoco/ant-4x2"}, "--env.observation local-1"),
        ("toy/walk toy/linear", {"task": TASK}, "toy/linear"),
        ("--no-such-thing toy/walk", {"task": TASK}, "--no-such-thing"),
    ],
)
def test_words_after_flags(args: str, names: dict[str, str], rest: str) -> None:
    assert choose(args.split(), TrainOptions) == Choice(names, rest.split())


def test_other_commands() -> None:
    record = choose(["--sources", "random", "--overwrite", TASK], RecordOptions, learns=False)
    assert record == Choice({"task": TASK}, ["--sources", "random", "--overwrite"])
    assert choose(["--overwrite", TASK, "--minari", "x"], ImportOptions, learns=False).names == {"task": TASK}
    fit = choose(["--quiet", "datasets/walk", "--learner.cuda-graphs"], FitOptions, "dataset")
    assert fit == Choice({"dataset": "datasets/walk"}, ["--quiet", "--learner.cuda-graphs"])


def test_an_unknown_algorithm_is_reported_before_its_flags() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mappo'"):
        choose(["--learner.x", TASK, "--algorithm", "mapo"], TrainOptions)
