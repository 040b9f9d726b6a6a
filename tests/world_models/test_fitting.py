"""Fitting a world model: gradient steps, averaged metrics, forked parts, exact checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms import algorithm_config
from dima.algorithms.model_based import ModelBasedConfig
from dima.data import EnvSpec, View
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.nn.optim import FitConfig, Fitter
from dima.runtime.fork import ForkedJob, Job, parallel_map
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.training.run_config import build_config
from dima.world_models import fitting
from dima.world_models.base import Loss, Objective, Step, WorldModel
from dima.world_models.fitting import WorldModelFitter
from tests.conftest import ON_ANY_TASK
from tests.world_models.conftest import draw_episodes

MODELS = [name for name in ON_ANY_TASK if isinstance(algorithm_config(name), ModelBasedConfig)]
models = pytest.mark.parametrize("algorithm", MODELS)
LENGTHS = (12, 9, 15, 4, 20)


class Lines(WorldModel[Tensor]):
    """Two linear predictions of the reward."""

    context = 1

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.slow, self.fast = nn.Linear(spec.state_dim, 1), nn.Linear(spec.state_dim, 1)

    def objectives(self) -> dict[str, Objective]:
        return {
            "slow": Objective(self.rows, lambda rows: self.loss("slow", rows), FitConfig(updates=3, lr=0.1)),
            "fast": Objective(self.rows, lambda rows: self.loss("fast", rows), FitConfig(updates=2, lr=0.2)),
        }

    def rows(self, replay: Replay) -> Rows:
        return replay.gather(torch.randint(replay.newest, (4,)), 0, 0)

    def loss(self, name: str, rows: Rows) -> Loss:
        part = self.get_submodule(name)
        assert part.training
        loss = (part(rows.state[:, 0])[:, 0] - rows.reward[:, 0]).square().mean()
        return loss, {f"{name}/loss": loss.detach()}

    def update_statistics(self, episodes: Any) -> None: ...
    def start(self, rows: Rows) -> Tensor:
        raise NotImplementedError

    def observe(self, latent: Tensor) -> View:
        raise NotImplementedError

    def step(self, latent: Tensor, action: Tensor) -> Step[Tensor]:
        raise NotImplementedError


def fitted(algorithm: str, spec: EnvSpec) -> tuple[WorldModelFitter, Replay]:
    """A fitter of a world model of the debug preset, and its replay."""
    torch.manual_seed(0)
    model = build_config("toy/walk", algorithm, "debug").learner.world_model.build(spec).eval()  # type: ignore[attr-defined]
    replay = Replay(ReplayConfig(capacity=1000), spec, "cpu", model.visit_counters)
    played = draw_episodes(spec, LENGTHS)
    for episode in played:
        replay.add(episode)
    model.update_statistics(played)
    return WorldModelFitter(model), replay


def everything(fitter: WorldModelFitter, replay: Replay) -> dict[str, Tensor]:
    """All weights, statistics, optimiser states and visit counts."""
    tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in fitter.world_model.state_dict().items()}
    tensors |= {f"visits/{name}": counts for name, counts in replay.visits.items()}
    for name, saved in fitter.checkpoint().items():
        for number, state in saved["optimizer"]["state"].items():
            tensors |= {f"{name}/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
        tensors |= {f"{name}/other/{number}": weight for number, weight in enumerate(saved["other"])}
        tensors[f"{name}/steps"] = torch.tensor(saved["steps"])
    return {name: value.detach().clone() for name, value in tensors.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture
def lines(spec: EnvSpec, filled: Callable[..., Replay]) -> tuple[Lines, Replay]:
    return Lines(spec), filled(spec)


def test_steps_are_those_of_each_objective_and_metrics_their_averages(lines: tuple[Lines, Replay]) -> None:
    model, replay = lines
    reference, progress = deepcopy(model), Progress()
    fitter = WorldModelFitter(model)
    torch.manual_seed(1)
    metrics = fitter.fit(replay, progress)
    torch.manual_seed(1)
    seeds = torch.randint(2**62, (2,)).tolist()
    for (name, objective), seed in zip(reference.objectives().items(), seeds, strict=True):
        optimizer, losses = Fitter(reference.get_submodule(name), objective.fit), []
        with drawn_from("cpu", seed):  # each part samples from a seed of its own
            for _ in range(objective.fit.updates):
                loss, _ = objective.loss(objective.sample(replay))
                optimizer.step(loss)
                losses.append(loss.detach())
        torch.testing.assert_close(metrics[f"{name}/loss"], torch.stack(losses).mean())
        assert fitter.fitters[name].steps == objective.fit.updates
    assert_equal(dict(model.state_dict()), dict(reference.state_dict()))
    assert not model.slow.training and not model.fast.training
    assert set(progress.seconds) == {"slow", "fast"}
    assert progress.lap().items() >= {"updates/slow": 3, "updates/fast": 2}.items()


def every_job_forked(jobs: Sequence[Job[Any]], workers: int) -> list[Any]:
    return [ForkedJob(partial(job, True)).result() for job in jobs]


@models
def test_forked_parts_equal_in_process_results(algorithm: str, any_spec: EnvSpec, one_thread, monkeypatch) -> None:
    """Weights, statistics, optimisers, averages, visit counts, metrics, and the random stream."""
    found = []
    for mapped in (parallel_map, every_job_forked):
        monkeypatch.setattr(fitting, "parallel_map", mapped)
        (fitter, replay), progress = fitted(algorithm, any_spec), Progress()
        if fitter.world_model.fits_in_order:
            pytest.skip("its parts are never fitted at the same time")
        torch.manual_seed(5)
        metrics = [fitter.fit(replay, progress) for _ in range(2)][-1]
        found.append(everything(fitter, replay) | metrics | {"drawn": torch.rand(1)})
        assert set(progress.seconds) == set(fitter.objectives)
        lap = progress.lap()
        assert all(lap[f"updates/{name}"] == 8 for name in fitter.objectives)
        assert not any(module.training for module in fitter.world_model.modules())
    assert_equal(*found)


@pytest.mark.parametrize("in_order", [False, True])
def test_parts_that_learn_from_each_other_are_fitted_one_after_another(in_order: bool, lines, monkeypatch) -> None:
    (model, replay), used = lines, []
    model.fits_in_order = in_order
    monkeypatch.setattr(fitting, "parallel_map", lambda jobs, workers: used.append(workers) or parallel_map(jobs, 1))
    WorldModelFitter(model, workers=3).fit(replay, Progress())
    assert used == [1 if in_order else 3]


def test_a_part_may_wait_for_later_iterations(lines, monkeypatch) -> None:
    model, replay = lines
    late = model.objectives()["fast"]._replace(after=2)
    monkeypatch.setattr(model, "objectives", lambda: {"slow": Lines.objectives(model)["slow"], "fast": late})
    fitter = WorldModelFitter(model)
    before = deepcopy(model.fast.state_dict())
    for iteration in (1, 2):
        assert fitter.fit(replay, Progress(), iteration).keys() == {"slow/loss"}
    assert_equal(dict(model.fast.state_dict()), dict(before))
    assert fitter.fit(replay, Progress(), 3).keys() == {"slow/loss", "fast/loss"}
    assert fitter.fitters["fast"].steps == 2


@models
def test_a_restored_fitter_continues_exactly(algorithm: str, any_spec: EnvSpec) -> None:
    fitter, replay = fitted(algorithm, any_spec)
    fitter.fit(replay, Progress())
    saved = deepcopy({"model": fitter.world_model.state_dict(), "fitter": fitter.checkpoint()})
    visits = {name: counts.clone() for name, counts in replay.visits.items()}

    def continued(fitter: WorldModelFitter) -> dict[str, Tensor]:
        torch.manual_seed(6)
        fitter.world_model.update_statistics(draw_episodes(any_spec, (7,)))
        metrics = fitter.fit(replay, Progress())
        return everything(fitter, replay) | metrics

    expected = continued(fitter)
    replay.visits = visits
    other, _ = fitted(algorithm, any_spec)
    other.world_model.load_state_dict(saved["model"])
    other.restore(saved["fitter"])
    assert_equal(continued(other), expected)


@models
def test_no_updates_leave_a_part_unchanged(algorithm: str, spec: EnvSpec) -> None:
    fitter, replay = fitted(algorithm, spec)
    first = next(iter(fitter.objectives))
    objective = fitter.objectives[first]
    config = build_config("toy/walk", algorithm, "debug").learner.world_model  # type: ignore[attr-defined]
    model = config.override({f"{first}_fit": {"updates": 0}}).build(spec).eval()
    before = {name: value.clone() for name, value in model.get_submodule(first).state_dict().items()}
    metrics = WorldModelFitter(model).fit(replay, Progress())
    assert objective.fit.updates > 0
    assert_equal(dict(model.get_submodule(first).state_dict()), before)
    assert not any(name.startswith(f"{first}/") for name in metrics)
