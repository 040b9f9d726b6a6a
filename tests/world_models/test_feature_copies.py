"""What state and observations have in common is found in data, and read either way, exactly."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from dima.data import EnvSpec, Episode
from dima.envs import make_env
from dima.envs.vector import VectorEnv
from dima.experience.episodes import play
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.progress import Progress
from dima.training.run_config import build_config
from dima.world_models.base import WorldModel
from dima.world_models.feature_copies import ObservationReadout
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig
from tests.world_models.conftest import TEAMS, draw_actions


def pairs(spec: EnvSpec, count: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """States and observations: a's first feature is state feature 2, b's second is 0, the others are of their own."""
    state, obs = torch.randn(count, spec.state_dim), torch.randn(count, spec.n_agents, spec.obs_dim)
    obs *= torch.from_numpy(spec.obs_valid)
    obs[:, 0, 0], obs[:, 1, 1] = state[:, 2], state[:, 0]
    return state, obs


@pytest.mark.parametrize("team", ["even", "uneven"])
def test_copies_are_read_and_others_left(team: str) -> None:
    spec = TEAMS[team]
    readout, otherwise = ObservationReadout(spec), torch.full((100, 3, 5), 9.0)
    assert torch.equal(readout.read(torch.randn(100, 4), otherwise), otherwise)  # nothing is known yet
    readout.update(*pairs(spec))
    state, obs = pairs(spec)
    assert readout.known.nonzero().tolist() == [[0, 0], [1, 1]]
    expected = otherwise.clone()
    expected[:, 0, 0], expected[:, 1, 1] = obs[:, 0, 0], obs[:, 1, 1]
    assert torch.equal(readout.read(state, otherwise), expected)


def test_what_was_equal_by_chance_is_forgotten() -> None:
    spec = TEAMS["even"]
    readout, (state, obs) = ObservationReadout(spec), pairs(spec)
    state[:, 1], obs[:, 2, 3] = 0.0, 0.0
    readout.update(state, obs)
    assert readout.known.nonzero().tolist() == [[0, 0], [1, 1], [2, 3]]
    state[50, 1] = 1.0
    readout.update(state, obs)
    assert readout.known.nonzero().tolist() == [[0, 0], [1, 1]]


def played(task: str, algorithm: str, **decoder: Any) -> tuple[WorldModel[Any], list[Episode]]:
    config = build_config(task, algorithm, "debug", {"learner": {"world_model": {"decoder": decoder}}})
    make = partial(make_env, config.task, config.env)
    spec = make().spec
    with VectorEnv(make, 1) as envs:
        episodes = play(envs, lambda view: (draw_actions(spec, 1), torch.zeros(1, spec.n_agents)), [0, 1, 2])
    torch.manual_seed(0)
    model = config.learner.world_model.build(spec)  # type: ignore[attr-defined]
    model.update_statistics(episodes)
    return model, episodes


@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
def test_a_decoder_of_copies_is_exact_and_needs_no_fit(algorithm: str) -> None:
    model, episodes = played("toy/walk", algorithm, copy=True)
    plain, _ = played("toy/walk", algorithm)
    episode = episodes[0]
    view = model.view(episode.state, episode.action_mask, episode.action)  # type: ignore[operator]
    torch.testing.assert_close(view.obs, episode.obs, rtol=0, atol=1e-5)
    for one, fitted in ((model, False), (plain, True)):
        replay = Replay(ReplayConfig(), one.spec, "cpu", one.visit_counters)  # type: ignore[arg-type]
        for each in episodes:
            replay.add(each)
        before = [weights.clone() for weights in one.decoder.parameters()]  # type: ignore[operator, union-attr]
        metrics = WorldModelFitter(one).fit(replay, Progress())
        changed = [not torch.equal(*w) for w in zip(before, one.decoder.parameters(), strict=True)]  # type: ignore[operator, union-attr]
        assert any(changed) == fitted == ("decoder/error" in metrics)


def test_the_loss_is_about_features_without_a_copy() -> None:
    spec = TEAMS["even"]
    decoder = ObservationDecoder(ObservationDecoderConfig(hidden=(8,), tokens=2, token_dim=2, copy=True), spec).eval()
    state, obs = pairs(spec)
    assert decoder.readout is not None
    decoder.readout.update(state, obs)
    assert decoder.is_learnt
    error = (decoder(state) - obs).abs()
    error[:, 0, 0] = error[:, 1, 1] = 0
    torch.testing.assert_close(decoder.loss(state, obs)[1]["decoder/error"], error.sum() / (100 * 13))
    far = obs.clone()
    far[:, 0, 0] += 100
    assert torch.equal(decoder.loss(state, far)[0], decoder.loss(state, obs)[0])
