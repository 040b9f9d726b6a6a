"""Running mean and variance of features."""

import pytest
import torch
from torch import Tensor

from dima.nn.normalizer import Normalizer


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


def test_normalizer_passes_constant_features_unchanged() -> None:
    x = torch.randn(100, 4)
    x[:, 1], x[:, 2], x[:, 3] = 1.0, 0.0, 1e4
    normalizer = fitted(x, 4)
    assert torch.equal(normalizer(x)[:, 1:], x[:, 1:])
    assert torch.equal(normalizer.denormalize(x)[:, 1:], x[:, 1:])
    assert normalizer(x)[:, 0].std(correction=0) == pytest.approx(1)


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
