"""Teams, and modules whose every weight matters (many start at zero)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from dima.data import EnvSpec, Episode
from dima.experience.replay import Replay, ReplayConfig

M = TypeVar("M", bound=nn.Module)

TEAMS = {
    "even": EnvSpec(("a", "b", "c"), 4, (5, 5, 5), (2, 2, 2), discrete=False),
    "uneven": EnvSpec(("a", "b", "c"), 4, (2, 5, 3), (1, 3, 2), discrete=False),
    "choices": EnvSpec(("a", "b"), 3, (4, 2), (2, 4), discrete=True, masks_actions=True),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def spec() -> EnvSpec:
    return TEAMS["even"]


@pytest.fixture(params=TEAMS)
def any_spec(request: pytest.FixtureRequest) -> EnvSpec:
    return TEAMS[request.param]


@pytest.fixture
def alive() -> Callable[[M], M]:
    """Stirs all weights of a module, so that nothing is zero, and puts it in evaluation mode."""

    def stir(module: M) -> M:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return module.eval()

    return stir


@pytest.fixture
def actions() -> Callable[..., Tensor]:
    """Draws joint actions (*lead, N, A), padding zero."""
    return draw_actions


@pytest.fixture
def episodes() -> Callable[..., list[Episode]]:
    """Draws random episodes of given lengths; every second one terminates."""
    return draw_episodes


@pytest.fixture
def filled() -> Callable[..., Replay]:
    """A replay of random episodes."""

    def fill(spec: EnvSpec, lengths: tuple[int, ...] = (12, 9, 15, 4, 20)) -> Replay:
        replay = Replay(ReplayConfig(capacity=1000), spec, "cpu", ("decoder", "reward"))
        for episode in draw_episodes(spec, lengths):
            replay.add(episode)
        return replay

    return fill


def draw_actions(spec: EnvSpec, *lead: int) -> Tensor:
    valid = torch.from_numpy(spec.action_valid)
    if not spec.discrete:
        return (2 * torch.rand(*lead, *valid.shape) - 1) * valid
    chosen = torch.rand(*lead, *valid.shape).masked_fill(~valid, -1).argmax(-1)
    return nn.functional.one_hot(chosen, spec.action_dim).float()


def draw_episodes(spec: EnvSpec, lengths: tuple[int, ...]) -> list[Episode]:
    drawn = []
    for number, length in enumerate(lengths):
        ends = torch.arange(length) == length - 1
        mask = torch.from_numpy(spec.action_valid).expand(length + 1, -1, -1).clone()
        if spec.masks_actions:
            mask[..., 1:] &= torch.rand(mask[..., 1:].shape) < 0.5
        drawn.append(
            Episode(
                obs=(3 + torch.randn(length + 1, spec.n_agents, spec.obs_dim)) * torch.from_numpy(spec.obs_valid),
                state=1 + 2 * torch.randn(length + 1, spec.state_dim),
                action_mask=mask,
                action=draw_actions(spec, length),
                reward=torch.randn(length),
                terminated=ends & (number % 2 == 0),
                truncated=ends & (number % 2 == 1),
            )
        )
    return drawn
