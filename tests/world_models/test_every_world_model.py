"""Every world model of the library: latents are values; rollouts, diagnosis, environments."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test
from torch import Tensor

import dima
from dima.algorithms import algorithm_config
from dima.algorithms.model_based import ModelBasedConfig
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.data import EnvSpec
from dima.experience.replay import Replay, Rows
from dima.training.online import train
from dima.training.run_config import build_config
from dima.world_models.base import BatchedRewards, PartialReset, SequentialReveal, Step, WorldModel
from tests.conftest import ON_ANY_TASK

MODELS = [name for name in ON_ANY_TASK if isinstance(algorithm_config(name), ModelBasedConfig)]
SMALL = DiagnosisConfig(episodes=2, segments=4, horizon=3, samples=3, calibration_segments=4, orders=2, starts=2)


def test_there_are_some() -> None:
    assert {"dima", "ensemble"} <= set(MODELS)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", MODELS)
def test_rollouts_diagnosis_and_environments(tiny, tmp_path, algorithm) -> None:
    config = tiny("toy/switches", algorithm, steps=60, evaluation_episodes=1, learner={"learn_after": 60})
    folder = train(config).folder

    for actions in ("recorded", "policy"):
        dima.imagine(folder, [1], actions, start=0, width=64, out=tmp_path / actions, device="cpu")
        assert '<figure id="error-state">' in (tmp_path / actions / "imagination.html").read_text()

    found = dima.diagnose(folder, SMALL, device="cpu")
    assert found.error.standardised["state"]["model"].step.at(1) is not None
    assert set(found.calibration) == {"state", "observations"}
    assert found.findings[0].startswith("State: ")

    agent = dima.load(folder, "cpu")
    parallel_api_test(agent.as_env(seed=0, horizon=4), num_cycles=10)
    parallel_seed_test(partial(agent.as_env, horizon=4), num_cycles=10)
    envs = agent.as_vector_env(3, horizon=2, seed=0)
    envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(3):
        now, reward, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(now) and reward.shape == (3,)


# -- latents are values -----------------------------------------------------------------------------------------------

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in MODELS} | {
    "dima, other settings": (
        "dima",
        {
            "denoiser": {"reveal": "cumulative", "action_path": "condition+input", "target": "change"},
            "sampler": {"order": "random", "solver": "heun"},
            "reward": {"next_state": True, "normalize_reward": True},
        },
    ),
    "ensemble, mean": ("ensemble", {"draw": "mean"}),
}
DEPTHS = (0, 2, 7)  # steps before a latent: none, some, more than the debug preset's reward model remembers
depths = pytest.mark.parametrize("depth", DEPTHS)


class Started(NamedTuple):
    """A world model, two batches of real rows, and a source of joint actions."""

    model: WorldModel[Any]
    rows: Rows
    others: Rows
    draw: Callable[[], Tensor]

    def latent(self, depth: int) -> Any:
        """The latent after some steps."""
        latent = self.model.start(self.rows)
        for _ in range(depth):
            latent = self.model.step(latent, self.draw()).latent
        return latent

    def step(self, latent: Any, action: Tensor) -> Step[Any]:
        """A step under a fixed random state."""
        torch.manual_seed(7)
        return self.model.step(latent, action)


@pytest.fixture(params=VARIANTS)
def started(request: pytest.FixtureRequest, any_spec: EnvSpec, alive, episodes, actions) -> Started:
    algorithm, changes = VARIANTS[request.param]
    config = build_config("toy/walk", algorithm, "debug").learner.world_model.override(changes)  # type: ignore[attr-defined]
    model, played = alive(config.build(any_spec)), episodes(any_spec, (12, 12))
    model.update_statistics(played)
    replay = Replay.of(played, any_spec, "cpu", model.visit_counters)
    rows, others = (replay.gather(torch.tensor(anchors), model.context - 1, 0) for anchors in ((0, 5, 6), (14, 15, 16)))
    return Started(model, rows, others, lambda: actions(any_spec, 3))


def same(one: Any, other: Any) -> bool:
    """Whether two latents, or parts of them, hold the same numbers."""
    if isinstance(one, Tensor):  # NaN where a model does not know the state
        return torch.equal(one.nan_to_num(nan=77.0), other.nan_to_num(nan=77.0))
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rollout_has_no_unit(variant: str, spec: EnvSpec, alive, episodes, actions) -> None:
    """State features: in another unit, far from 0, constant within an episode, constant throughout."""
    algorithm, changes = VARIANTS[variant]
    config = build_config("toy/walk", algorithm, "debug").learner.world_model.override(changes)  # type: ignore[attr-defined]
    played, views = episodes(spec, (30, 30, 30, 30)), []
    for number, episode in enumerate(played):
        episode.state[:, 2:] = torch.tensor([number - 1.5, 1.0])
    units, offsets = torch.tensor([1e-4, 1, 1e-4, 100]), torch.tensor([0, 1e3, 0, 0])
    for unit, offset, size in ((torch.ones(4), torch.zeros(4), 1.0), (units, offsets, 1e-4)):
        torch.manual_seed(3)
        model = alive(config.build(spec))
        experience = [
            replace(one, state=one.state * unit + offset, obs=one.obs * size, reward=one.reward * size)
            for one in played
        ]
        model.update_statistics(experience)
        rows = Replay.of(experience, spec, "cpu", model.visit_counters)
        latent = model.start(rows.gather(torch.tensor([4, 50, 99]), model.context - 1, 0))
        for _ in range(3):
            latent, reward, _ = model.step(latent, actions(spec, 3))
        view = model.observe(latent)
        views.append([view.obs / size, (view.state - offset) / unit, reward / size])
        if not model.predicts_state:
            views[-1].pop(1)
    if variant == "dima":  # published: rewards are predicted as they are
        views = [view[:2] for view in views]
    torch.testing.assert_close(views[1], views[0], atol=0.01, rtol=0.01)


@torch.no_grad()
@depths
def test_two_steps_from_one_latent_are_the_same(started: Started, depth: int) -> None:
    latent, action = started.latent(depth), started.draw()
    before = deepcopy(latent)
    one, other = started.step(latent, action), started.step(latent, action)
    assert torch.equal(one.reward, other.reward)
    assert torch.equal(one.continuation, other.continuation)
    assert same(one.latent, other.latent)
    assert same(latent, before)
    assert not same(one.latent, latent)


@torch.no_grad()
@depths
def test_another_step_from_a_latent_leaves_later_ones_unchanged(started: Started, depth: int) -> None:
    first, action, other, following = started.latent(depth), started.draw(), started.draw(), started.draw()
    second = started.step(first, action).latent
    expected = started.step(second, following)
    started.step(started.step(first, other).latent, following)
    assert same(started.step(second, following), expected)


@torch.no_grad()
@depths
def test_observe_leaves_the_latent_unchanged(started: Started, depth: int) -> None:
    latent = started.latent(depth)
    before = deepcopy(latent)
    one, other = started.model.observe(latent), started.model.observe(latent)
    assert same(one, other)
    assert same(latent, before)


@torch.no_grad()
@depths
def test_a_reset_leaves_its_arguments_unchanged(started: Started, depth: int) -> None:
    model, action = started.model, started.draw()
    assert isinstance(model, PartialReset)
    latent, fresh, rows = started.latent(depth), model.start(started.others), torch.tensor([True, False, True])
    before, step = deepcopy((latent, fresh, rows)), started.step(latent, action)
    reset = model.reset_rows(latent, fresh, rows)
    started.step(reset, action)
    assert same((latent, fresh, rows), before)
    assert same(started.step(latent, action), step)
    view, ours, theirs = (model.observe(where) for where in (reset, latent, fresh))
    assert same(view.state, torch.where(rows[:, None], theirs.state, ours.state))
    assert torch.equal(view.obs, torch.where(rows[:, None, None], theirs.obs, ours.obs))


@torch.no_grad()
@depths
def test_optional_protocols_leave_the_latent_unchanged(started: Started, depth: int) -> None:
    model, latent, action = started.model, started.latent(depth), started.draw()
    before = deepcopy(latent)
    if isinstance(model, SequentialReveal):
        model.step_in_order(latent, action, model.reveal_order)
        model.reveal(latent, action, model.reveal_order)
    if isinstance(model, BatchedRewards) and model.batched_rewards:
        torch.manual_seed(7)
        advanced = model.advance(latent, action)
        assert torch.equal(model.observe(advanced).state, model.observe(started.step(latent, action).latent).state)
    assert same(latent, before)
