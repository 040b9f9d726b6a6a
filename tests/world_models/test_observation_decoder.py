"""The observation decoder: shapes, padding, bottlenecks, learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dima.data import EnvSpec
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig

SMALL = ObservationDecoderConfig(hidden=(32,), tokens=3, token_dim=4, codebook=16)


def build(spec: EnvSpec, **changes: Any) -> ObservationDecoder:
    return ObservationDecoder(SMALL.override(changes), spec)


@pytest.fixture(params=["vq", "fsq", "none"])
def bottleneck(request: pytest.FixtureRequest) -> str:
    return request.param


def test_padding_is_zero_and_does_not_enter_the_loss(any_spec: EnvSpec, bottleneck: str, alive) -> None:
    decoder, valid = alive(build(any_spec, bottleneck=bottleneck)), torch.from_numpy(any_spec.obs_valid)
    state = torch.randn(6, any_spec.state_dim)
    obs = torch.randn(6, *valid.shape)
    decoded = decoder(state)
    assert decoded.shape == obs.shape
    assert not decoded[:, ~valid].any()
    assert (decoded[:, valid] != 0).all()
    loss, parts = decoder.loss(state, obs)
    assert torch.equal(decoder.loss(state, torch.where(valid, obs, 50.0))[0], loss)
    error = (decoded - obs).abs()[:, valid].mean()
    torch.testing.assert_close(parts["decoder/error"], error)
    torch.testing.assert_close(loss, error + 10 * parts["decoder/commitment"])


def test_a_batch_equals_its_halves_and_any_leading_axes(any_spec: EnvSpec, bottleneck: str, alive) -> None:
    decoder, state = alive(build(any_spec, bottleneck=bottleneck)), torch.randn(6, 2, any_spec.state_dim)
    whole = decoder(state)
    torch.testing.assert_close(torch.cat([decoder(part) for part in state.split(3)]), whole)
    torch.testing.assert_close(decoder(state[:, 1]), whole[:, 1])


def test_it_learns_observations_that_depend_on_the_state(spec: EnvSpec, bottleneck: str) -> None:
    decoder = build(spec, bottleneck=bottleneck, tokens=8, dead_below=0.1)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    mix = torch.randn(spec.state_dim, 15) / 2

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.randn(128, spec.state_dim)
        return state, (state @ mix).unflatten(-1, (3, 5))

    first = decoder.eval().loss(*batch())[1]["decoder/error"]
    decoder.train()
    for _ in range(150):
        optimizer.zero_grad()
        decoder.loss(*batch())[0].backward()
        optimizer.step()
    assert decoder.eval().loss(*batch())[1]["decoder/error"] < 0.6 * first
