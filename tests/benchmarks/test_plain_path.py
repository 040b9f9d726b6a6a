"""The library's losses, gradients and rollouts equal the reference's, to rounding, under the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.speed.plain.model import PlainFitter, PlainModel, plain_imagine
from dima.algorithms.ppo import PPO, PPOConfig
from dima.data import EnvSpec, Rollout, View
from dima.experience.replay import Replay, ReplayConfig
from dima.nn.optim import FitConfig
from dima.policies.actors import ActorConfig
from dima.world_models.base import Objective
from dima.world_models.dima.action_encoder import ActionEncoderConfig
from dima.world_models.dima.denoiser import DenoiserConfig
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel
from dima.world_models.dima.reward_termination import RewardTerminationConfig
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.rollout import imagine
from tests.world_models.conftest import draw_actions, draw_episodes

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODER = ActionEncoderConfig(token_dim=16, latents=5, latent_dim=24, depth=2, heads=3, head_dim=8)
DENOISER = DenoiserConfig(condition_dim=32, channels=(64, 64, 32), blocks=2, encoder=ENCODER)
REWARD = RewardTerminationConfig(
    dim=32, layers=2, heads=2, action_layers=2, action_heads=4, segment=6, dropout=0.0, normalize_reward=True
)
PUBLISHED = DimaModelConfig(
    denoiser=DENOISER,
    reward=REWARD,
    denoiser_fit=FitConfig(batch=9, lr=1e-3, weight_decay=0.01, warmup=3, max_grad_norm=0.5),
    decoder_fit=FitConfig(batch=16, lr=1e-3),
    reward_fit=FitConfig(batch=7, lr=1e-3, weight_decay=0.01, max_grad_norm=0.5),
)
SMALL = replace(
    PUBLISHED,
    denoiser=replace(
        DENOISER, reveal="cumulative", action_path="condition+input", target="change", context=1, channels=(64,)
    ),
    reward=replace(REWARD, next_state=True),
)
JOINT = replace(PUBLISHED, denoiser=replace(DENOISER, reveal="all"))
FORMS = {"published": PUBLISHED, "small": SMALL, "joint": JOINT}
HORIZON = 8  # longer than the reward model's memory
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32 through some dozen layers


def team(agents: int, discrete: bool) -> EnvSpec:
    names = tuple(map(str, range(agents)))
    sizes = tuple(2 + n % 2 for n in range(agents))  # padded where agents differ
    return EnvSpec(names, 5, tuple(3 + n % 3 for n in range(agents)), sizes, discrete, masks_actions=discrete)


def stirred(config: DimaModelConfig, spec: EnvSpec) -> tuple[DimaWorldModel, Replay]:
    """A world model without zero weights, with the statistics of random experience."""
    torch.manual_seed(3)
    model = config.build(spec)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    replay = Replay(ReplayConfig(capacity=500), spec, "cpu", model.visit_counters)
    episodes = draw_episodes(spec, (30, 9, 41, 5, 25))
    for episode in episodes:
        replay.add(episode)
    model.update_statistics(episodes)
    return model.eval(), replay


CASES = [("published", agents, discrete) for agents in (2, 4, 6) for discrete in (False, True)]
CASES += [("small", 2, False), ("small", 6, True), ("joint", 4, False)]
every_case = pytest.mark.parametrize(("form", "agents", "discrete"), CASES)


def twice(seed: int, *calls: Callable[[], Tensor]) -> list[Tensor]:
    """The result of each call under the same random state."""
    found = []
    for call in calls:
        torch.manual_seed(seed)
        found.append(call())
    return found


@every_case
def test_losses_and_gradients(form: str, agents: int, discrete: bool) -> None:
    model, replay = stirred(FORMS[form], team(agents, discrete))
    plain = PlainModel(model)
    for name in ("denoiser", "reward", "decoder"):
        ours, theirs = (m.objectives()[name] for m in (model, plain))
        one, other = twice(5, lambda f=ours: _loss(f, replay), lambda f=theirs: _loss(f, _unvisited(replay)))
        torch.testing.assert_close(one, other, **CLOSE)
        one.backward()
        other.backward()
    library = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name in ("encoder.latents", "encoder.agent", "condition.0.weight", "net.out_norm.weight"):
        torch.testing.assert_close(
            library[f"denoiser.{name}"], plain.denoiser.get_parameter(name).grad, rtol=1e-3, atol=1e-4
        )
    for name, weight in plain.reward.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(library[f"reward.{name}"], weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_steps(form: str) -> None:
    """After some updates of every part rollouts are still the same."""
    spec = team(4, False)
    model, replay = stirred(FORMS[form], spec)
    plain = PlainModel(model)
    both: list[tuple[Any, Any]] = [(model, WorldModelFitter(model).fitters), (plain, plain.fitters)]
    for m, fitters in both:
        torch.manual_seed(2)
        _unvisited(replay)
        m.train()
        for name in ("decoder", "denoiser", "reward"):
            for _ in range(4):
                fitters[name].step(_loss(m.objectives()[name], replay))
        m.eval()
    assert isinstance(plain.fitters["denoiser"], PlainFitter)
    _compare(model, plain, replay, spec, rtol=5e-3, atol=2e-3)


@every_case
def test_imagination(form: str, agents: int, discrete: bool) -> None:
    """States, observations, rewards, continuations, action masks and actions of a whole imagined batch."""
    spec = team(agents, discrete)
    model, replay = stirred(FORMS[form], spec)
    _compare(model, PlainModel(model), replay, spec, **CLOSE)


def _compare(model: DimaWorldModel, plain: PlainModel, replay: Replay, spec: EnvSpec, rtol: float, atol: float) -> None:
    act = partial(_act, PPO(PPOConfig(actor=ActorConfig(hidden=(16,))), spec))
    start = replay.gather(replay.recent(11), model.context - 1, 0)
    given = draw_actions(spec, 11)
    one, other = twice(
        7,
        lambda: model.step(model.start(start), given).latent.state,
        lambda: plain.step(plain.start(start), given)[0].state,
    )
    torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    torch.manual_seed(11)
    ours = imagine(model, act, start, HORIZON)
    torch.manual_seed(11)
    theirs = plain_imagine(plain, act, start, HORIZON)
    assert isinstance(ours, Rollout)
    for name, value in vars(theirs).items():
        got = getattr(ours, name)
        if value.dtype == torch.bool:
            assert torch.equal(got, value), name
        else:
            torch.testing.assert_close(got, value, rtol=10 * rtol, atol=10 * atol, msg=lambda m, n=name: f"{n}: {m}")


def _act(ppo: PPO, view: View) -> tuple[Tensor, Tensor]:
    return ppo.actor.act(view)


def _loss(objective: Objective, replay: Replay) -> Tensor:
    return objective.loss(objective.sample(replay))[0]


def _unvisited(replay: Replay) -> Replay:
    """The same experience with visit counts of zero."""
    for visits in replay.visits.values():
        visits.zero_()
    return replay


def test_the_reference_samples_as_published_only() -> None:
    spec = team(2, False)
    model, replay = stirred(PUBLISHED.override({"sampler": {"solver": "heun"}}), spec)
    plain = PlainModel(model)
    with pytest.raises(ValueError, match="as published"):
        plain.step(plain.start(replay.gather(replay.recent(3), model.context - 1, 0)), draw_actions(spec, 3))
