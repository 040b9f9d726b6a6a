"""HL-Gauss histograms and symlog: round trips, edges."""

from __future__ import annotations

import pytest
import torch

from dima.nn.hl_gauss import HLGauss, symexp, symlog

HISTOGRAM = HLGauss(-3, 3, 128)


def decoded(value: float) -> float:
    return float((HISTOGRAM.encode(torch.tensor(value)) * HISTOGRAM.centres).sum())


def test_probabilities_sum_to_one_and_decode_to_the_target() -> None:
    target = torch.linspace(-2.8, 2.8, 101)
    mass = HISTOGRAM.encode(target)
    torch.testing.assert_close(mass.sum(-1), torch.ones(101))
    assert ((mass * HISTOGRAM.centres).sum(-1) - target).abs().max() < 1e-4
    assert decoded(2.99) == pytest.approx(2.9646, abs=1e-4)


def test_targets_beyond_the_bins_count_as_the_nearest() -> None:
    for far in (3.5, 50.0, 1e30):
        assert torch.equal(HISTOGRAM.encode(torch.tensor(far)), HISTOGRAM.encode(torch.tensor(3.0)))
        assert torch.equal(HISTOGRAM.encode(torch.tensor(-far)), HISTOGRAM.encode(torch.tensor(-3.0)))
    assert HISTOGRAM.encode(torch.tensor([-3.0, 3.0])).isfinite().all()


def test_the_loss_is_least_at_the_target() -> None:
    target = torch.tensor([-1.0, 0.4])
    best = HISTOGRAM.encode(target).clamp(min=1e-12).log()
    other = HISTOGRAM.encode(target + 0.1).clamp(min=1e-12).log()
    assert (HISTOGRAM.loss(best, target) < HISTOGRAM.loss(other, target)).all()
    torch.testing.assert_close(HISTOGRAM.decode(best), target, atol=1e-4, rtol=0)


def test_symexp_inverts_symlog() -> None:
    x = torch.tensor([-100.0, -1e-6, 0.0, 0.3, 19.0])
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert float(symexp(torch.tensor(3.0))) == pytest.approx(19.0855, abs=1e-4)
