"""Searches: better than a bad default, pruned, and the same after any interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from dima.errors import ConfigError, RunFolderError
from dima.storage.run_folder import RunFolder
from dima.sweeps.plan import PlannedRun, make_plan
from dima.sweeps.search import Search
from dima.sweeps.space import read_space
from dima.sweeps.spec import read_sweep

pytest.importorskip("optuna")
LR, EPOCHS = "learner.ppo.lr", "learner.ppo.epochs"
FIELDS = {LR: {"log": [1e-6, 1.0]}, EPOCHS: {"choice": [1, 4]}}
BAD_DEFAULT = -16.0  # the return of the learning rate 1e-6 below


@pytest.fixture
def open_search(content) -> Callable[..., Search]:
    """Opens the search of a tiny sweep; changes are of its section."""

    def build(seeds: tuple[int, ...] = (0,), fields: dict[str, Any] = FIELDS, **changes: Any) -> Search:
        section = {"trials": 12, "startup": 4, "fields": fields} | changes
        (point,) = make_plan(read_sweep(content(seeds=seeds, search=section))).points
        return Search(point)

    return build


def pretend(run: PlannedRun, value: float | None = None) -> float:
    """Write the metrics that a run might have: best at a learning rate of 0.01, and better with seed 0."""
    rate = run.config.learner.ppo.lr  # type: ignore[attr-defined]
    value = -((math.log10(rate) + 2) ** 2) - run.config.seed if value is None else value
    with RunFolder.create(run.config.folder, run.config.to_dict(), overwrite=True) as folder:
        folder.log({"step": 100, "iteration": 1, "evaluate/return": value - 1})
        folder.log({"step": 200, "iteration": 2, "evaluate/return": value})
    return value


def carry_out(search: Search, most: int = 100) -> None:
    for _ in range(most):
        if (found := search.next()) is None:
            return
        number, runs = found
        for run in runs:
            pretend(run)
        search.finish(number, "complete")


def drawn(search: Search) -> list[dict[str, Any]]:
    return [search.settings(number) for number in range(len(json.loads(search.path.read_text())["trials"]))]


def test_it_finds_a_better_learning_rate_than_a_bad_default(open_search) -> None:
    search = open_search()
    carry_out(search)
    best = search.best
    assert best is not None and best.value > BAD_DEFAULT / 4 and 1e-4 < best.settings[LR] < 1
    assert best.runs[0].startswith(f"toy/walk/mappo-debug-trial{best.number:03d}-lr=")


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_an_interrupted_search_equals_another(open_search, kept, content, tmp_path) -> None:
    whole = open_search()
    carry_out(whole)
    expected = drawn(whole)
    whole.path.unlink()
    carry_out(open_search(), kept)
    killed = open_search()
    number, runs = killed.next()  # type: ignore[misc]
    assert number == kept
    again = open_search()  # the process is gone, the trial was at work
    assert again.next() == (number, runs)
    pretend(runs[0])
    again.finish(number, "complete")
    carry_out(again)
    assert drawn(again) == expected and again.best == whole.best


def test_a_failed_trial_is_tried_again_by_the_next_call(open_search) -> None:
    search = open_search(trials=2)
    number, _ = search.next()  # type: ignore[misc]
    search.finish(number, "failed")
    carry_out(search)
    again = open_search(trials=2)
    assert again.next()[0] == 0  # type: ignore[index]
    assert again.best is not None and again.best.number == 1


def test_the_objective_is_the_mean_over_seeds(open_search) -> None:
    last, mean = open_search(seeds=(0, 2)), open_search(seeds=(0, 2))
    number, runs = last.next()  # type: ignore[misc]
    values = [pretend(run) for run in runs]
    last.finish(number, "complete")
    assert last.best is not None and last.best.value == pytest.approx(sum(values) / 2)
    mean.path.unlink()
    mean = open_search(seeds=(0, 2), objective="mean")
    number, runs = mean.next()  # type: ignore[misc]
    mean.finish(number, "complete")
    assert mean.best is not None and mean.best.value == pytest.approx(sum(values) / 2 - 0.5)


@pytest.mark.parametrize("prune", ["asha", "median", "none"])
def test_poor_trials_are_stopped(open_search, prune) -> None:
    search, stopped = open_search(prune=prune, grace=100), 0
    for trial in range(8):
        number, (run,) = search.next()  # type: ignore[misc]
        value = 0.0 if trial < 6 else -100.0
        stop = search.evaluated(number, run.name, 115, value)  # episodes end a little after the evaluation is due
        assert not (stop and trial == 0)
        stopped += stop
        assert search.is_pruned(number) == stop
        if stop:
            assert search.evaluated(number, run.name, 190, value)
        else:
            pretend(run, value)
            search.finish(number, "complete")
    assert stopped == (0 if prune == "none" else 2)
    rungs = [sorted(trial["rungs"]) for trial in json.loads(search.path.read_text())["trials"]]
    again = open_search(prune=prune, grace=100)
    assert again.next()[0] == 8  # type: ignore[index]
    written = json.loads(search.path.read_text())["trials"]
    assert [sorted(trial["rungs"]) for trial in written[:8]] == rungs
    assert [trial["state"] for trial in written[:8]].count("pruned") == stopped


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"fields": {LR: {"log": [1e-6, 0.5]}, EPOCHS: FIELDS[EPOCHS]}}, "of a search with fields"),
        ({"objective": "mean"}, "of a search with objective = 'last', this sweep says 'mean'"),
        ({"seeds": (0, 1)}, r"of a search with seeds = \[0\]"),
    ],
)
def test_another_search_in_the_same_folder_is_a_conflict(open_search, change, expected) -> None:
    open_search().next()
    with pytest.raises(ConfigError, match=expected):
        open_search(**change)


def test_its_file_is_data(open_search) -> None:
    search = open_search()
    search.next()
    content = json.loads(search.path.read_text())
    for field, value in (("params", {LR: 5.0, EPOCHS: 0}), ("state", "won"), ("params", {LR: 0.1, EPOCHS: 2})):
        trials = [content["trials"][0] | {field: value}]
        search.path.write_text(json.dumps(content | {"trials": trials}))
        with pytest.raises(RunFolderError, match="is damaged"):
            open_search()
    search.path.write_text("[")
    with pytest.raises(RunFolderError, match="is damaged"):
        open_search()


def test_ranges_give_values_of_their_kind() -> None:
    space = read_space({"a": {"choice": [[8], [8, 8]]}, "b": {"int": [1, 3]}, "c": {"float": [0, 1]}})
    assert space["a"].value(1) == [8, 8] and not space["a"].holds(2) and space["a"].samples == [[8], [8, 8]]
    assert space["b"].samples == [1, 3] and space["b"].holds(3) and not space["b"].holds(2.0)
    assert space["c"].holds(0.5) and not space["c"].holds("0.5")
