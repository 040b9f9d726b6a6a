"""Running mean and variance of features."""

import pytest
import torch
from torch import Tensor

from dima.nn.normalizer import LIMIT, TINY, Normalizer


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def fitted(x: Tensor, *shape: int) -> Normalizer:
    normalizer = Normalizer(shape)
    normalizer.update(x)
    return normalizer


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_normalizer_has_the_moments_of_all_samples(shape: tuple[int, ...]) -> None:
    x = 5 + 3 * torch.randn(60, *shape)
    normalizer = Normalizer(shape)
    for part in x.split([1, 40, 19]):
        normalizer.update(part)
    torch.testing.assert_close(normalizer.mean, x.double().mean(0))
    torch.testing.assert_close(normalizer.var, x.double().var(0, correction=0))
    y = normalizer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(shape))
    torch.testing.assert_close(normalizer.denormalize(y), x)


def test_normalizer_takes_any_leading_axes() -> None:
    x = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(fitted(x, 2, 3).var, fitted(x.flatten(0, 1), 2, 3).var)


def test_normalizer_ignores_invalid_rows() -> None:
    x, valid = torch.randn(50, 3), torch.rand(50) < 0.5
    normalizer = Normalizer((3,))
    normalizer.update(torch.where(valid[:, None], x, torch.nan), valid)
    torch.testing.assert_close(normalizer.mean, fitted(x[valid], 3).mean)
    torch.testing.assert_close(normalizer.var, fitted(x[valid], 3).var)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.update(x, torch.zeros(50, dtype=torch.bool))
    torch.testing.assert_close(dict(normalizer.state_dict()), before)


@pytest.mark.parametrize(
    ("unit", "offset"), [(1e-30, 0), (1e-6, 0), (1e-4, 0), (1e6, 0), (1, 1e5), (0.1, 1e5), (1e-4, 100), (1e3, -1e9)]
)
def test_whatever_the_unit_mean_and_deviation_are_0_and_1(unit: float, offset: float) -> None:
    x = (offset + unit * torch.randn(1000, 2, dtype=torch.float64)).float()
    normalizer = Normalizer((2,))
    for part in x.split(100):
        normalizer.update(part)
    y = normalizer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(normalizer.denormalize(y), x, atol=1e-6 * unit, rtol=1e-7)
    assert normalizer.varies.all()


def test_constants_are_small_and_come_back_as_themselves() -> None:
    x = torch.tensor([1.0, 0.0, -0.3, 1e-5, 100.0, -12345.678, 1e30]).repeat(100, 1)
    normalizer = Normalizer((7,))
    for part in x.split(7):
        normalizer.update(part)
    y = normalizer(x)
    assert torch.equal(y[:, :4], x[:, :4])  # ids and padding among them
    torch.testing.assert_close(y[:, 4:], x[:, 4:].sign())
    assert torch.equal(normalizer.denormalize(y), x)
    assert not normalizer.varies.any()


@pytest.mark.parametrize("value", [1e-6, -1.0, 1e6])
def test_constant_rewards_have_size_1(value: float) -> None:
    x, normalizer = torch.full((10,), value), Normalizer((), least=TINY)
    normalizer.update(0 * x)
    assert not normalizer(0 * x).any() and normalizer.denormalize(torch.ones(())) < 1e-30  # none was ever paid
    normalizer = Normalizer((), least=TINY)
    normalizer.update(x)
    torch.testing.assert_close(normalizer(x), x.sign())
    assert torch.equal(normalizer.denormalize(normalizer(x)), x)


def test_rounding_is_no_variation() -> None:
    x = torch.full((100, 1), 1e5)
    x[::2] = torch.nextafter(x[::2], torch.tensor(torch.inf))
    normalizer = fitted(x, 1)
    assert not normalizer.varies
    torch.testing.assert_close(normalizer(x), torch.ones(100, 1))


def test_a_feature_that_was_nearly_constant_is_bounded() -> None:
    normalizer = fitted(1e-20 * torch.randn(100, 1), 1)
    assert normalizer(torch.tensor([[0.5], [-0.5]])).flatten().tolist() == [LIMIT, -LIMIT]
    outlier = torch.zeros(10_000, 1)
    outlier[0] = 1
    normalizer = fitted(outlier, 1)
    torch.testing.assert_close(normalizer.denormalize(normalizer(outlier)), outlier)


def test_normalizer_keeps_the_variance_at_a_large_offset() -> None:
    x = 1e5 + torch.randint(0, 100, (1000, 1)).float()
    normalizer = Normalizer((1,))
    for part in x.split(10):
        normalizer.update(part)
    torch.testing.assert_close(normalizer.var, x.double().var(0, correction=0))


def test_normalizer_starts_as_the_identity_and_reloads_exactly() -> None:
    x = torch.randn(7, 3).double()
    fresh = Normalizer((3,))
    assert torch.equal(fresh(x), x.float()) and fresh(x).dtype == torch.float32
    normalizer = fitted(3 * x + 1, 3)
    fresh.load_state_dict(normalizer.state_dict())
    assert torch.equal(fresh(x), normalizer(x))
