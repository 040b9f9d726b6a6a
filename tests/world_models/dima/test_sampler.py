"""Schedule, orders, reveal masks, and the solvers on a Gaussian whose denoiser is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dima.errors import ConfigError
from dima.world_models.dima.sampler import SamplerConfig, agent_order, noise_schedule, reveal_masks, sample

CPU = torch.device("cpu")


def test_the_schedule_is_edms() -> None:
    sigmas = noise_schedule(4, 0.002, 5.0, 7.0, CPU)
    expected = [(5 ** (1 / 7) + i / 3 * (0.002 ** (1 / 7) - 5 ** (1 / 7))) ** 7 for i in range(4)]
    torch.testing.assert_close(sigmas, torch.tensor([*expected, 0.0]))
    torch.testing.assert_close(noise_schedule(1, 0.002, 5.0, 7.0, CPU), torch.tensor([5.0, 0.0]))


@pytest.mark.parametrize(
    ("agents", "per_agent", "tail", "groups"),
    [
        (2, 0, 0, [0, 0, 1, 1]),  # published: two levels per agent in a team of two
        (3, 0, 0, [0, 1, 2]),
        (6, 0, 0, [0, 1, 2, 3, 4, 5]),
        (2, 1, 3, [0, 1, 1, 1, 1]),
        (3, 2, 1, [0, 0, 1, 1, 2, 2, 2]),
        (1, 1, 0, [0]),
    ],
)
def test_every_group_has_its_levels(agents: int, per_agent: int, tail: int, groups: list[int]) -> None:
    config = SamplerConfig(levels_per_agent=per_agent, tail_levels=tail)
    assert [config.group_index(level, agents) for level in range(config.levels(agents))] == groups


def test_orders() -> None:
    assert agent_order("descending", 2, 3, CPU).tolist() == [[2, 1, 0]] * 2
    assert agent_order("ascending", 2, 3, CPU).tolist() == [[0, 1, 2]] * 2
    drawn = agent_order("random", 6000, 3, CPU)
    assert torch.equal(drawn.sort(-1).values, torch.arange(3).expand(6000, 3))
    kinds = (drawn @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(kinds) == 6
    assert (kinds > 850).all()
    assert (kinds < 1150).all()


def test_reveal_masks_follow_the_order() -> None:
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    one, cumulative, everyone = (reveal_masks(order, kind) for kind in ("one", "cumulative", "all"))
    for row, agents in enumerate(order.tolist()):
        for group in range(3):
            assert one[group, row].nonzero().flatten().tolist() == [agents[group]]
            assert cumulative[group, row].nonzero().flatten().tolist() == sorted(agents[: group + 1])
    assert everyone.shape == (1, 2, 3)
    assert everyone.all()


def test_agents_can_be_revealed_in_groups() -> None:
    order = torch.tensor([[2, 0, 4, 1, 3], [0, 1, 2, 3, 4]])
    one, cumulative, everyone = (reveal_masks(order, kind, 2) for kind in ("one", "cumulative", "all"))
    for row, agents in enumerate(order.tolist()):
        for index, group in enumerate((agents[:2], agents[2:4], agents[4:])):
            assert one[index, row].nonzero().flatten().tolist() == sorted(group)
            assert cumulative[index, row].nonzero().flatten().tolist() == sorted(agents[: 2 * index + 2])
    assert len(one) == len(cumulative) == 3
    assert everyone.shape == (1, 2, 5)
    assert torch.equal(reveal_masks(order, "one", 9), everyone)


MEAN, STD = 0.7, 0.4


def gaussian(x: Tensor, sigma: Tensor, _: int) -> Tensor:
    """The exact denoiser of N(MEAN, STD^2)."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def exact(noise: Tensor, top: float) -> Tensor:
    """The end of the probability-flow ODE from ``top * noise``."""
    return MEAN + STD / (STD**2 + top**2) ** 0.5 * (top * noise - MEAN)


def solver_error(solver: str, levels: int) -> float:
    noise = torch.randn(500, 1, dtype=torch.double)
    sigmas = noise_schedule(levels, 0.002, 5.0, 7.0, CPU).double()
    return float((sample(gaussian, noise, sigmas, solver) - exact(noise, 5.0)).abs().mean())


def test_the_solvers_converge_with_their_order() -> None:
    euler = [solver_error("euler", levels) for levels in (20, 40, 80)]
    heun = [solver_error("heun", levels) for levels in (20, 40, 80)]
    assert 1.7 < euler[0] / euler[1] < 2.4
    assert 1.7 < euler[1] / euler[2] < 2.4
    assert heun[0] / heun[1] > 3.2
    assert heun[1] / heun[2] > 3.2
    assert heun[2] < 2e-3 < euler[2]


@pytest.mark.parametrize(("solver", "calls"), [("euler", [0, 1, 2]), ("heun", [0, 0, 1, 1, 2])])
def test_the_denoiser_is_called_at_each_level(solver: str, calls: list[int]) -> None:
    seen: list[tuple[int, float]] = []

    def denoise(x: Tensor, sigma: Tensor, level: int) -> Tensor:
        assert sigma.shape == (1, 1)  # the same for every row
        assert (sigma > 0).all()
        seen.append((level, float(sigma[0])))
        return torch.zeros_like(x)

    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    assert not sample(denoise, torch.randn(2, 3), sigmas, solver).any()  # the last step lands on the estimate
    assert [level for level, _ in seen] == calls
    first, second = {"euler": (4.0, 2.0), "heun": (4.0, 2.0)}[solver]
    assert [sigma for _, sigma in seen[:2]] == [first, second]


def test_the_noise_levels_must_decrease() -> None:
    with pytest.raises(ConfigError, match=r"sigma_min = 5\.0 must be below sigma_max = 5\.0"):
        SamplerConfig(sigma_min=5.0)
