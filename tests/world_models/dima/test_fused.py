"""Fused modules equal the plain ones: parameters, initial weights, outputs, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dima.data import EnvSpec
from dima.experience.replay import Replay
from dima.training.run_config import build_config
from dima.world_models.dima.action_encoder import ActionEncoder, ActionEncoderConfig
from dima.world_models.dima.fused import FusedActionEncoder, FusedUNet, taps
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel
from dima.world_models.dima.unet import TemporalUNet
from dima.world_models.rollout import forecast
from tests.world_models.dima.test_unet import shapes


def pair(channels: tuple[int, ...], steps: int, blocks: int = 2) -> tuple[TemporalUNet, FusedUNet]:
    """The plain and the fused network from the same random state."""
    torch.manual_seed(3)
    plain = TemporalUNet(steps, 5, 3, 8, channels, blocks)
    torch.manual_seed(3)
    return plain, FusedUNet(steps, 5, 3, 8, channels, blocks)


@shapes
def test_parameters_and_initial_weights_are_those_of_the_plain_net(channels: tuple[int, ...], steps: int) -> None:
    plain, fused = (dict(net.state_dict()) for net in pair(channels, steps))
    assert list(plain) == list(fused)  # also no further buffers, so checkpoints fit both
    assert all(torch.equal(plain[name], weight) for name, weight in fused.items())


@pytest.mark.parametrize("blocks", [1, 2])
@shapes
def test_outputs_and_gradients_equal_the_plain_net(channels: tuple[int, ...], steps: int, blocks: int, alive) -> None:
    plain, fused = pair(channels, steps, blocks)
    fused.load_state_dict(alive(plain).state_dict())
    x, condition = torch.randn(4, steps, 5, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    outputs, gradients = [], []
    for net in (plain, fused):
        outputs.append(net(x, condition))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [x, condition, *net.parameters()]))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_prepared_net_serves_many_calls(alive) -> None:
    fused = alive(FusedUNet(4, 5, 3, 8, (32, 32), blocks=1))
    prepared = fused.prepare()
    for batch in (2, 5):
        x, condition = torch.randn(batch, 4, 5), torch.randn(batch, 8)
        assert torch.equal(prepared(x, condition), fused(x, condition))


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
@pytest.mark.parametrize(("stride", "repeat"), [(1, 1), (2, 1), (1, 2)])
def test_taps_join_input_and_output_steps_as_conv1d_does(stride: int, repeat: int, steps: int) -> None:
    weight, x = torch.randn(7, 5, 3), torch.randn(2, 5, steps)
    expected = F.conv1d(x.repeat_interleave(repeat, dim=-1), weight, stride=stride, padding=1)
    joined = taps(steps, stride, repeat)
    assert joined.shape == (expected.shape[-1], steps, 3)
    torch.testing.assert_close(torch.einsum("otk,dck,bct->bdo", joined, weight, x), expected)


# -- the Perceiver ----------------------------------------------------------------------------------------------------

PERCEIVER = ActionEncoderConfig(token_dim=16, latents=5, latent_dim=24, depth=2, heads=3, head_dim=8)


def encoders(spec: EnvSpec) -> tuple[ActionEncoder, FusedActionEncoder]:
    """The plain and the fused Perceiver from the same random state."""
    torch.manual_seed(3)
    plain = ActionEncoder(PERCEIVER, spec, 3, 8)
    torch.manual_seed(3)
    return plain, FusedActionEncoder(PERCEIVER, spec, 3, 8)


def test_parameters_and_initial_weights_are_those_of_the_plain_perceiver(any_spec: EnvSpec) -> None:
    plain, fused = (dict(encoder.state_dict()) for encoder in encoders(any_spec))
    assert list(plain) == list(fused)
    assert all(torch.equal(plain[name], weight) for name, weight in fused.items())


def test_conditions_and_gradients_equal_the_plain_perceiver(any_spec: EnvSpec, alive, actions) -> None:
    plain, fused = encoders(any_spec)
    fused.load_state_dict(alive(plain).state_dict())
    action, visible = actions(any_spec, 6, 3), torch.rand(6, 3, any_spec.n_agents) < 0.6
    visible[:, 0, 0] = True
    outputs, gradients = [], []
    for encoder in (plain, fused):
        outputs.append(encoder(action, visible))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), list(encoder.parameters())))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_hidden_actions_have_no_influence_on_the_fused_perceiver(any_spec: EnvSpec, alive, actions) -> None:
    encoder = alive(encoders(any_spec)[1])
    action, visible = actions(any_spec, 6, 3), torch.rand(6, 3, any_spec.n_agents) < 0.6
    visible[:, 0, 0] = True
    other = torch.where(visible[..., None], action, torch.randn_like(action))
    assert torch.equal(encoder(other, visible), encoder(action, visible))


# -- the world model --------------------------------------------------------------------------------------------------


def test_the_world_model_is_built_with_fused_modules(spec: EnvSpec) -> None:
    denoiser = DimaModelConfig().build(spec).denoiser
    assert isinstance(denoiser.net, FusedUNet)
    assert isinstance(denoiser.encoder, FusedActionEncoder)


def test_rollouts_equal_those_of_the_plain_world_model(any_spec: EnvSpec, alive, episodes, actions) -> None:
    config = build_config("toy/walk", "dima", "debug").learner.world_model  # type: ignore[attr-defined]
    torch.manual_seed(3)
    plain = DimaWorldModel(config, any_spec).eval()
    torch.manual_seed(3)
    fused = config.build(any_spec).eval()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), fused.parameters(), strict=True))
    fused.load_state_dict(alive(plain).state_dict())
    played, futures = episodes(any_spec, (12, 12)), []
    start = Replay.of(played, any_spec, "cpu").gather(torch.tensor([0, 5, 16]), plain.context - 1, 0)
    joint = actions(any_spec, 3, 4)
    for model in (plain, fused):
        model.update_statistics(played)
        torch.manual_seed(5)
        futures.append(forecast(model, start, joint))
    for name, expected in vars(futures[0]).items():
        torch.testing.assert_close(getattr(futures[1], name), expected, rtol=1e-3, atol=1e-3)
