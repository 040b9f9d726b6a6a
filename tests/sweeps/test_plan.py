"""Runs of a sweep: combinations, folders that are unique and stable, conflicts with what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dima.config import read_yaml, write_yaml
from dima.errors import ConfigError, RunFolderError
from dima.storage.run_folder import RunFolder
from dima.sweeps.names import folder_name, short_names
from dima.sweeps.plan import make_plan
from dima.sweeps.spec import read_sweep

LR, CLIP = "learner.ppo.lr", "learner.ppo.clip"


def names(content: dict) -> list[str]:
    return [run.name for run in make_plan(read_sweep(content)).runs]


def test_every_combination_has_a_folder_named_after_what_differs(content) -> None:
    algorithms = {"mappo": {CLIP: [0.1, 0.2]}, "happo": {}}
    found = names(content({LR: [1e-4]}, algorithms=algorithms, tasks=["toy/walk", "toy/linear"], seeds=[0, 7]))
    assert found[:4] == [f"toy/walk/mappo-debug-lr=0.0001-clip={c}-seed{s}" for c in (0.1, 0.2) for s in (0, 7)]
    assert found[4:6] == [f"toy/walk/happo-debug-lr=0.0001-seed{s}" for s in (0, 7)]
    assert len(found) == len(set(found)) == 12
    assert all(re.fullmatch(r"[A-Za-z0-9./=_+-]+", name) for name in found)


def test_folders_stay_when_a_list_grows(content) -> None:
    one, two = names(content({LR: [1e-4]})), names(content({LR: [1e-3, 1e-4]}))
    assert one == two[1:]


def test_settings_reach_the_config_the_narrower_after_the_wider(content) -> None:
    swept = content({LR: 1e-4, CLIP: 0.3}, algorithms={"mappo": {CLIP: 0.1}}, tasks={"toy/walk": {LR: 1e-3}})
    (run,) = make_plan(read_sweep(swept)).runs
    assert run.config.learner.ppo.lr == 1e-3 and run.config.learner.ppo.clip == 0.1  # type: ignore[attr-defined]
    assert run.config.folder == Path(swept["out"]) / run.name and run.state == "absent"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"learner.ppo.epochs": [2, 2.0000000001]}, "expected a value of type int"),
        ({"learner.ppo.actor.hidden": [[8], [8.0]]}, "stands twice"),
    ],
)
def test_runs_must_differ(content, settings, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        names(content(settings))


def test_values_become_portable_names() -> None:
    tails = short_names(["learner.ppo.lr", "learner.ppo.critic_lr", "env.lr", "steps"])
    assert tails["steps"] == "steps" and tails["env.lr"] == "env.lr" and tails["learner.ppo.lr"] == "ppo.lr"
    assert tails["learner.ppo.critic_lr"] == "critic_lr"

    def name(value: object) -> str:
        return folder_name("a.b:C", "small", {"x": value}, {"x": "x"})

    assert (
        name(True) == "a.b.C-small-x=true" and name([64, 64]) == "a.b.C-small-x=64x64" and name(1e-5).endswith("1e-05")
    )
    assert name("é/:") != name("è/:") and re.fullmatch(r"[\w.=-]+", name("é/:"))
    assert name(0.1234567890123) != name(0.1234567890124)
    assert len(name("y" * 500)) < 60 and name("y" * 500) != name("y" * 501)
    assert folder_name("dima", "small", {}, {}, trial=3) == "dima-small-trial003"


def test_fields_within_fields_are_refused(content) -> None:
    for settings in ({"learner.ppo": 1, LR: 2e-3}, {LR: 2e-3, "learner.ppo": 1}):
        with pytest.raises(ConfigError, match="give one of them"):
            make_plan(read_sweep(content(settings)))


def test_a_folder_of_other_settings_is_a_conflict(content) -> None:
    (run,) = make_plan(read_sweep(content())).runs
    with RunFolder.create(run.config.folder, run.config.to_dict()):
        pass
    (again,) = make_plan(read_sweep(content())).runs
    assert again.state == "unfinished"
    with pytest.raises(ConfigError, match=r"learner\.ppo\.lr = 0\.\d+, this sweep says 0\.5: choose another out"):
        make_plan(read_sweep(content({LR: 0.5})))
    with pytest.raises(ConfigError, match=r"steps = 200, this sweep says 300.*dima resume RUN --steps N"):
        make_plan(read_sweep(content({"steps": 300})))
    stored = read_yaml(run.config.folder / "config.yaml")
    write_yaml(run.config.folder / "config.yaml", stored | {"algorithm": "os:system"})
    with pytest.raises(ConfigError, match="algorithm = 'os:system', this sweep says 'mappo'"):
        make_plan(read_sweep(content()))


def test_a_folder_of_something_else_is_refused(content) -> None:
    (run,) = make_plan(read_sweep(content())).runs
    run.config.folder.mkdir(parents=True)
    (run.config.folder / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="never overwritten"):
        make_plan(read_sweep(content()))


def test_a_run_whose_last_iteration_was_not_saved_is_unfinished(content) -> None:
    (run,) = make_plan(read_sweep(content())).runs
    with RunFolder.create(run.config.folder, run.config.to_dict()) as folder:
        folder.log({"step": 100, "iteration": 1})
        folder.save({})
        folder.log({"step": 200, "iteration": 2})
        assert make_plan(read_sweep(content())).runs[0].state == "unfinished"
        folder.save({})
    assert make_plan(read_sweep(content())).runs[0].state == "finished"
